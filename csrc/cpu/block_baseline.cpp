#if defined(__x86_64__)
#define TDAS_OPS_VECTOR_BYTES 16
#endif
#include "fill_block.h"

namespace tdas_ops::cpu {

void fill_block_baseline(Block& block, PhiloxWords first, PhiloxKey key) { fill_block(block, first, key); }

}  // namespace tdas_ops::cpu
