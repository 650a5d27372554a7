#if defined(__x86_64__)
// Before the pragma, so that the standard library's inline functions keep the baseline.
#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")
#define TDAS_OPS_VECTOR_BYTES 64
#include "fill_block.h"

namespace tdas_ops::cpu {

void fill_block_avx512(Block& block, PhiloxWords first, PhiloxKey key) { fill_block(block, first, key); }

}  // namespace tdas_ops::cpu
#endif
