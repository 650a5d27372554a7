// Filtered updates of planes that fit on chip, no torch.
#pragma once

#include "update.h"

namespace tdas_ops::cuda {

// Whether there is a kernel for planes of this size.
bool has_plane_kernel(int64_t height, int64_t width);

// Enqueues the update on `stream`; nothing waits, nothing is allocated. There is such a kernel, a frequency mask and,
// for Filter::noise, noise. Returns the launch error.
cudaError_t update_planes(const UpdateArgs& args, cudaStream_t stream);

// |D v|^2 and |M z|^2 of every plane, for Filter::drift, or |v|^2 and |M z|^2 for Filter::noise: squares[batch,
// channels, 2]. There is a frequency mask, and noise, but no skew part beside a space mask.
cudaError_t measure_planes(const UpdateArgs& args, float* squares, cudaStream_t stream);

}  // namespace tdas_ops::cuda
