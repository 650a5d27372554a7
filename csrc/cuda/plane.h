// Filtered updates of planes that fit on chip, no torch.
#pragma once

#include "update.h"

namespace tdas_ops::cuda {

// Whether there is a kernel for planes of this size.
bool has_plane_kernel(int64_t height, int64_t width);

// Shared memory that it takes, in bytes.
int64_t plane_shared_bytes(int64_t height, int64_t width);

// Enqueues the update on `stream`; nothing waits, nothing is allocated. There is such a kernel, a frequency mask and,
// for Filter::noise, noise. Returns the launch error.
cudaError_t update_planes(const UpdateArgs& args, cudaStream_t stream);

}  // namespace tdas_ops::cuda
