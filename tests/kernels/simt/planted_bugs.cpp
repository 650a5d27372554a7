// Kernels with a mistake each, and a correct one: what the harness must catch and what it must let pass.
#include "simt.h"

namespace {

__global__ void reverse_kernel(float* data) {
  __shared__ float copy[64];
  copy[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = copy[63 - threadIdx.x];
}

__global__ void race_kernel(float* data) {
  __shared__ float copy[64];
  copy[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = copy[63 - threadIdx.x];
}

__global__ void divergent_barrier_kernel(float* data) {
  if (threadIdx.x < 40) __syncthreads();
  data[threadIdx.x] = 1.0f;
}

__global__ void partial_shuffle_kernel(float* data) {
  if (threadIdx.x % 32 < 16) data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 1);
}

__global__ void outside_shuffle_kernel(float* data) {
  if (threadIdx.x % 32 < 16) data[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, data[threadIdx.x], 16);
}

__global__ void unwritten_shared_kernel(float* data) {
  SIMT_DYNAMIC_SHARED(float, copy);
  if (threadIdx.x < 63) copy[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = copy[threadIdx.x];
}

__global__ void out_of_bounds_kernel(float* data) { data[threadIdx.x + 1] = 1.0f; }

}  // namespace

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

// data: [64]
int simt_planted(const char* name, float* data) {
  const std::string asked = name;
  void (*kernel)(float*) = asked == "reverse"             ? reverse_kernel
                           : asked == "race"              ? race_kernel
                           : asked == "divergent barrier" ? divergent_barrier_kernel
                           : asked == "partial shuffle"   ? partial_shuffle_kernel
                           : asked == "outside shuffle"   ? outside_shuffle_kernel
                           : asked == "unwritten shared"  ? unwritten_shared_kernel
                           : asked == "out of bounds"     ? out_of_bounds_kernel
                                                          : nullptr;
  if (kernel == nullptr) return -1;
  cudaLaunchConfig_t launch{};
  launch.blockDim = dim3(64);
  launch.dynamicSmemBytes = 64 * sizeof(float);
  return cudaLaunchKernelEx(&launch, kernel, data);
}
}

#ifdef SIMT_MAIN
int main(int, char** arguments) {
  std::vector<float> data(64, 0.0f);
  return simt_planted(arguments[1], data.data());
}
#endif
