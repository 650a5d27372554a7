#include "snr.h"

#include <cmath>

#include "sample.cuh"

namespace tdas_ops::cuda {
namespace {

constexpr int threads = 256;

struct Norms {  // or their squares, or sums of them
  double drift, noise;
};

TDAS_OPS_DEVICE Norms norms_of(const SnrArgs& args, int64_t sample) {
  Norms sum = {};
  for (int64_t c = 0; c < args.channels; ++c) {
    const float* squares = args.squares + 2 * (sample * args.channels + c);
    sum = {sum.drift + squares[0], sum.noise + squares[1]};
  }
  return {sqrt(sum.drift), sqrt(sum.noise)};
}

TDAS_OPS_DEVICE bool is_finite(double x) { return x - x == 0.0; }

// The sums over the threads of a block, by a tree of fixed order.
TDAS_OPS_DEVICE Norms sum_of(Norms own, double* shared) {
  double *drift = shared, *noise = shared + threads;
  const int t = threadIdx.x;
  __syncthreads();
  drift[t] = own.drift;
  noise[t] = own.noise;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) {
      drift[t] += drift[t + half];
      noise[t] += noise[t + half];
    }
  }
  __syncthreads();
  return {drift[0], noise[0]};
}

// One block.
__global__ void __launch_bounds__(threads) snr_kernel(SnrArgs args) {
  TDAS_OPS_SHARED(double, shared);
  Norms mean = {};
  if (!args.per_sample) {
    Norms sum = {}, count = {};
    for (int64_t b = threadIdx.x; b < args.batch; b += threads) {
      const Norms norms = norms_of(args, b);
      if (is_finite(norms.drift)) sum.drift += norms.drift, count.drift += 1.0;
      if (is_finite(norms.noise)) sum.noise += norms.noise, count.noise += 1.0;
    }
    sum = sum_of(sum, shared);
    count = sum_of(count, shared);
    mean = {sum.drift / count.drift, sum.noise / count.noise};  // of what is finite; 0 / 0 is NaN
  }
  for (int64_t b = threadIdx.x; b < args.batch; b += threads) {
    const Norms norms = args.per_sample ? norms_of(args, b) : mean;
    const double ratio = args.snr * norms.noise / norms.drift;
    args.eta[b] = static_cast<float>(2.0 * scale_of(args.alpha, static_cast<uint32_t>(b)) * ratio * ratio);
  }
}

// One block a plane.
__global__ void __launch_bounds__(threads)
    sum_kernel(const float2* parts, int64_t count, float2* squares, bool of_drift, bool of_noise) {
  TDAS_OPS_SHARED(double, shared);
  Norms sum = {};
  for (int64_t i = threadIdx.x; i < count; i += threads) {
    const float2 part = parts[blockIdx.x * count + i];
    if (of_drift) sum.drift += part.x;
    if (of_noise) sum.noise += part.y;
  }
  sum = sum_of(sum, shared);
  if (threadIdx.x > 0) return;
  if (of_drift) squares[blockIdx.x].x = static_cast<float>(sum.drift);
  if (of_noise) squares[blockIdx.x].y = static_cast<float>(sum.noise);
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
  const cudaLaunchConfig_t launch = in_blocks(planes, stream);
  return cudaLaunchKernelEx(&launch, sum_kernel, reinterpret_cast<const float2*>(parts), count,
                            reinterpret_cast<float2*>(squares), drift, noise);
}

cudaError_t snr_rule(const SnrArgs& args, cudaStream_t stream) {
  if (args.batch == 0) return cudaSuccess;
  const cudaLaunchConfig_t launch = in_blocks(1, stream);
  return cudaLaunchKernelEx(&launch, snr_kernel, args);
}

}  // namespace tdas_ops::cuda
