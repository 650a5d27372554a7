// Updates without a transform: there is neither a frequency mask nor a skew part. No torch.
#pragma once

#include "update.h"

namespace tdas_ops::cuda {

// Enqueues the update on `stream`, for planes of any size; nothing waits, nothing is allocated. Returns the launch
// error.
cudaError_t update_pixels(const UpdateArgs& args, cudaStream_t stream);

// Of a plane, as many as give each thread of a block something to do. Bits depend on it, and it on nothing else.
int pixel_parts(int64_t height, int64_t width);

// |A^2 v|^2, or |v|^2 for Filter::noise, and where there is noise |A z|^2 of every plane, as sums of parts:
// parts[batch, channels, pixel_parts, 2]. Returns the launch error.
cudaError_t measure_pixels(const UpdateArgs& args, float* parts, cudaStream_t stream);

}  // namespace tdas_ops::cuda
