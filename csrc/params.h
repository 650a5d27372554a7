// Arguments of the kernels: plain data, no torch. Sizes and strides are in elements, never in bytes.
#pragma once

#include <cstdint>

namespace tdas_ops {

// Unit complex normals g[sample, C, H, ceil(W / 2)] as rows of `width` elements, of which one Philox call makes e and
// e + half (see philox.h). Pixel noise: a row is a row of a plane, half = ceil(width / 2). Spectral noise: a row is a
// plane, half = ceil(H / 2) ceil(W / 2), the upper half of its rows.
struct NormalsArgs {
  float* out;            // [samples, rows, width, 2]: contiguous, real part then imaginary part
  const int64_t* seeds;  // [1] or [samples]: the bits of a uint64; on the device of `out`
  const int64_t* draw;   // [1]: the bits of a uint64; on the device of `out`, so that a captured graph reads it anew
  int64_t samples;
  int64_t rows;
  int64_t width;
  int64_t half;
  int64_t first_sample;  // sample index of out[0] where all samples share a seed
  bool seed_per_sample;  // sample b is sample 0 of seeds[b]; otherwise sample first_sample + b of seeds[0]
};

}  // namespace tdas_ops
