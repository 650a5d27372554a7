// Complex unit normals on a GPU, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "../params.h"

namespace tdas_ops::cuda {

// Enqueues the kernel on `stream`; nothing waits. Returns the launch error, cudaSuccess where all went well.
cudaError_t normals(const NormalsArgs& args, cudaStream_t stream);

// draw += 1, after all work in the stream that reads it.
cudaError_t advance(int64_t* draw, cudaStream_t stream);

}  // namespace tdas_ops::cuda
