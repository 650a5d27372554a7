#define TDAS_OPS_DOUBLE
#include "baseline.cpp"
