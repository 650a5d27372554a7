// Arguments of filtered updates on a GPU, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "../params.h"

namespace tdas_ops::cuda {

enum class Number { float32, float64, bfloat16, float16 };

// One number a sample: on the device, one or one for each, or, where `values` is null, `number`.
struct Scale {
  const void* values;
  Number type;
  bool per_sample;
  float number;
};

// As tdas_ops::UpdateArgs, with scales and the draw on the device, and a second output, or null. `base` and `z` are
// float32, as is `out` where there is a base.
struct UpdateArgs {
  Filter filter;
  int64_t batch, channels, height, width;
  OutField out, cast;
  Field base, v, z;
  Masks masks;
  Scale d, n;
  bool langevin_noise;   // n is sqrt(2 d)
  const int64_t* seeds;  // null: no noise but z
  const int64_t* draw;
  int64_t first_sample;
  bool seed_per_sample;
};

// Planes that one launch takes at most.
constexpr int64_t most_planes = (int64_t{1} << 31) - 1;

// Blocks of a launch that take what there is to do in turns: many times what a device holds, far below what a grid may
// have.
constexpr int64_t most_blocks = 1 << 13;

}  // namespace tdas_ops::cuda
