#include "snr.h"

#include <algorithm>

#include "snr.cuh"

namespace tdas_ops::cuda {
namespace {

constexpr int threads = norm_lanes;

// One block.
__global__ void __launch_bounds__(threads, 1) snr_kernel(SnrArgs args) {
  TDAS_OPS_SHARED(double, shared);
  Norms mean = {};
  if (!args.per_sample) mean = mean_norms<threads>(args, shared, threadIdx.x);
  for (uint32_t b = threadIdx.x; b < args.batch; b += threads)
    args.eta[b] = eta_of(args, b, args.per_sample ? norms_of(args, b) : mean);
}

// Blocks take planes in turns.
__global__ void __launch_bounds__(threads)
    sum_kernel(const float2* parts, int64_t count, float2* squares, int64_t planes, bool of_drift, bool of_noise) {
  TDAS_OPS_SHARED(double, shared);
  for (int64_t plane = blockIdx.x; plane < planes; plane += gridDim.x) {
    Norms sum = {};
    for (int64_t i = threadIdx.x; i < count; i += threads) {
      const float2 part = parts[plane * count + i];
      if (of_drift) sum.drift += part.x;
      if (of_noise) sum.noise += part.y;
    }
    sum = sum_of<threads>(sum, shared, threadIdx.x);
    if (threadIdx.x > 0) continue;
    if (of_drift) squares[plane].x = static_cast<float>(sum.drift);
    if (of_noise) squares[plane].y = static_cast<float>(sum.noise);
  }
}

cudaLaunchConfig_t in_blocks(int64_t blocks, cudaStream_t stream) {
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(blocks));
  launch.blockDim = dim3(threads);
  launch.dynamicSmemBytes = 2 * threads * sizeof(double);
  launch.stream = stream;
  return launch;
}

}  // namespace

cudaError_t sum_squares(const float* parts, int64_t count, float* squares, int64_t planes, bool drift, bool noise,
                        cudaStream_t stream) {
  if (planes == 0) return cudaSuccess;
  const cudaLaunchConfig_t launch = in_blocks(std::min(planes, most_blocks), stream);
  return cudaLaunchKernelEx(&launch, sum_kernel, reinterpret_cast<const float2*>(parts), count,
                            reinterpret_cast<float2*>(squares), planes, drift, noise);
}

cudaError_t snr_rule(const SnrArgs& args, cudaStream_t stream) {
  if (args.batch == 0) return cudaSuccess;
  const cudaLaunchConfig_t launch = in_blocks(1, stream);
  return cudaLaunchKernelEx(&launch, snr_kernel, args);
}

}  // namespace tdas_ops::cuda
