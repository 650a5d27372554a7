// One thread makes one Philox call: two complex normals, `half` elements of a row apart. Neighbouring threads write
// neighbouring elements, 8 bytes each.
#include "divider.h"
#include "noise.h"
#include "normals.cuh"
#include "quads.h"

namespace tdas_ops::cuda {
namespace {

__global__ void __launch_bounds__(threads_per_block)
    normals_kernel(NormalsArgs args, uint32_t quads, uint32_t half, Divider by_half) {
  const uint32_t quad = blockIdx.x * threads_per_block + threadIdx.x;
  if (quad >= quads) return;
  const uint32_t row = by_half.quotient(quad), column = quad - row * half;
  const int64_t element = row * args.width + column;
  const bool has_right = column < args.width - half;
  const int64_t draw = *args.draw;
  float2* out = reinterpret_cast<float2*>(args.out);
  for (int64_t sample = blockIdx.y; sample < args.samples; sample += gridDim.y) {
    const PhiloxKey key = philox_key(args.seeds[args.seed_per_sample ? sample : 0]);
    const uint32_t sample_index = args.seed_per_sample ? 0u : static_cast<uint32_t>(args.first_sample + sample);
    const PhiloxWords words = philox4x32(philox_counter(quad, sample_index, draw), key);
    float2* target = out + sample * args.rows * args.width + element;
    const ComplexNormal left = complex_normal(words.w0, words.w1);
    target[0] = make_float2(left.real, left.imag);
    if (has_right) {
      const ComplexNormal right = complex_normal(words.w2, words.w3);
      target[half] = make_float2(right.real, right.imag);
    }
  }
}

__global__ void advance_kernel(int64_t* draw) { *draw = static_cast<int64_t>(static_cast<uint64_t>(*draw) + 1); }

}  // namespace

cudaError_t advance(int64_t* draw, cudaStream_t stream) {
  cudaLaunchConfig_t launch{};
  launch.stream = stream;
  return cudaLaunchKernelEx(&launch, advance_kernel, draw);
}

cudaError_t normals(const NormalsArgs& args, cudaStream_t stream) {
  const int64_t quads = args.rows * args.half;
  if (args.samples == 0 || quads == 0) return cudaSuccess;
  const cudaLaunchConfig_t launch = over_quads(quads, args.samples, stream);
  return cudaLaunchKernelEx(&launch, normals_kernel, args, static_cast<uint32_t>(quads),
                            static_cast<uint32_t>(args.half), Divider(static_cast<uint32_t>(args.half)));
}

}  // namespace tdas_ops::cuda
