#if defined(__x86_64__)
// Before the pragma, so that the standard library's inline functions keep the baseline.
#include <cmath>
#include <cstdint>
#include <cstring>

#pragma GCC target("avx2,fma")
#define TDAS_OPS_VECTOR_BYTES 32
#include "fill_block.h"

namespace tdas_ops::cpu {

void fill_block_avx2(Block& block, PhiloxWords first, PhiloxKey key) { fill_block(block, first, key); }

}  // namespace tdas_ops::cpu
#endif
