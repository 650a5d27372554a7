// Arguments of the kernels: plain data, no torch. Sizes and strides are in elements, never in bytes.
#pragma once

#include <cstdint>

namespace tdas_ops {

// Unit complex normals g[pair, C, H, W], two real samples to a pair (see philox.h for the formula).
struct NormalPairsArgs {
  float* out;            // [pairs, rows, width, 2]: contiguous, real part then imaginary part
  const int64_t* seeds;  // [1] or [pairs]: the bits of a uint64; on the device of `out`
  const int64_t* draw;   // [1]: the bits of a uint64; on the device of `out`, so that a captured graph reads it anew
  int64_t pairs;
  int64_t rows;        // C * H
  int64_t width;       // W
  int64_t first_pair;  // pair index of out[0] where all pairs share a seed
  bool seed_per_pair;  // pair p is pair 0 of seeds[p]; otherwise pair first_pair + p of seeds[0]
};

// One Philox call makes the elements w and w + half_width of a row.
constexpr int64_t half_width(int64_t width) { return (width + 1) / 2; }

}  // namespace tdas_ops
