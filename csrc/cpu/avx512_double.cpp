#define TDAS_OPS_DOUBLE
#include "avx512.cpp"
