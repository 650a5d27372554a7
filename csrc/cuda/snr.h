// The snr rule, no torch.
#pragma once

#include "update.h"

namespace tdas_ops::cuda {

struct SnrArgs {
  const float* squares;  // [batch, channels, 2]: |D v|^2 and |M z|^2 of every plane
  float* eta;            // [batch]
  int64_t batch, channels;
  double snr;
  Scale alpha;
  bool per_sample;  // norms of each sample, not their averages over the batch
};

// eta = 2 alpha (snr |M z| / |D v|)^2. An average is over the norms that are finite, or NaN. Returns the launch error.
cudaError_t snr_rule(const SnrArgs& args, cudaStream_t stream);

// Sums |D v|^2 (where `drift`) and |M z|^2 (where `noise`) of the parts of planes, parts[planes, count, 2], in a fixed
// order: squares[planes, 2]. Returns the launch error.
cudaError_t sum_squares(const float* parts, int64_t count, float* squares, int64_t planes, bool drift, bool noise,
                        cudaStream_t stream);

}  // namespace tdas_ops::cuda
