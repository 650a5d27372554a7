// Launches with a thread for every call of Philox: x over the quads of a sample, y over the samples, strided where
// there are more than y holds.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

namespace tdas_ops::cuda {

constexpr int threads_per_block = 256;

inline cudaLaunchConfig_t over_quads(int64_t quads, int64_t samples, cudaStream_t stream) {
  constexpr int64_t most_in_y = 65535;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>((quads + threads_per_block - 1) / threads_per_block),
                        static_cast<unsigned>(std::min(samples, most_in_y)));
  launch.blockDim = dim3(threads_per_block);
  launch.stream = stream;
  return launch;
}

}  // namespace tdas_ops::cuda
