// One block of noise: `quads_per_block` consecutive Philox calls of one sample.
#pragma once

#include "../philox.h"

namespace tdas_ops::cpu {

constexpr int quads_per_block = 32;

// Elements as (real, imag): `left` at columns e of a row, `right` at columns e + half.
struct Block {
  alignas(64) float left[2 * quads_per_block];
  alignas(64) float right[2 * quads_per_block];
};

// Fills a block whose first call has counter `first`. All instruction sets give the same bits.
void fill_block_baseline(Block& block, PhiloxWords first, PhiloxKey key);
void fill_block_avx2(Block& block, PhiloxWords first, PhiloxKey key);
void fill_block_avx512(Block& block, PhiloxWords first, PhiloxKey key);

}  // namespace tdas_ops::cpu
