// Updates without a transform: there is neither a frequency mask nor a skew part. No torch.
#pragma once

#include "update.h"

namespace tdas_ops::cuda {

// Enqueues the update on `stream`, for planes of any size; nothing waits, nothing is allocated. Returns the launch
// error.
cudaError_t update_pixels(const UpdateArgs& args, cudaStream_t stream);

}  // namespace tdas_ops::cuda
