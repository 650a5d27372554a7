#define TDAS_OPS_DOUBLE
#include "avx2.cpp"
