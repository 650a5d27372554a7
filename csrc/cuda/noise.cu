// One thread makes one Philox call: two complex normals, half a row apart. Neighbouring threads write neighbouring
// elements, 8 bytes each.
#include <algorithm>

#include "approximate_math.cuh"
#include "divider.h"
#include "noise.h"

namespace tdas_ops::cuda {
namespace {

constexpr int threads_per_block = 256;
constexpr int64_t most_pair_blocks = 65535;  // limit of gridDim.y

// Grid: x over the calls of a plane, y over the pairs (strided where there are more than y holds).
__global__ void __launch_bounds__(threads_per_block)
    normal_pairs_kernel(NormalPairsArgs args, uint32_t quads, uint32_t half, Divider by_half) {
  const uint32_t quad = blockIdx.x * threads_per_block + threadIdx.x;
  if (quad >= quads) return;
  const uint32_t row = by_half.quotient(quad), column = quad - row * half;
  const int64_t element = row * args.width + column;
  const bool has_right = column + half < args.width;
  const int64_t draw = *args.draw;
  float2* out = reinterpret_cast<float2*>(args.out);
  for (int64_t pair = blockIdx.y; pair < args.pairs; pair += gridDim.y) {
    const PhiloxKey key = philox_key(args.seeds[args.seed_per_pair ? pair : 0]);
    const uint32_t pair_index = args.seed_per_pair ? 0u : static_cast<uint32_t>(args.first_pair + pair);
    const PhiloxWords words = philox4x32(philox_counter(quad, pair_index, draw), key);
    float2* target = out + pair * args.rows * args.width + element;
    const ComplexNormal left = box_muller<ApproximateMath>(words.w0, words.w1);
    target[0] = make_float2(left.real, left.imag);
    if (has_right) {
      const ComplexNormal right = box_muller<ApproximateMath>(words.w2, words.w3);
      target[half] = make_float2(right.real, right.imag);
    }
  }
}

}  // namespace

cudaError_t normal_pairs(const NormalPairsArgs& args, cudaStream_t stream) {
  const int64_t half = half_width(args.width), quads = args.rows * half;
  if (args.pairs == 0 || quads == 0) return cudaSuccess;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>((quads + threads_per_block - 1) / threads_per_block),
                        static_cast<unsigned>(std::min(args.pairs, most_pair_blocks)));
  launch.blockDim = dim3(threads_per_block);
  launch.stream = stream;
  return cudaLaunchKernelEx(&launch, normal_pairs_kernel, args, static_cast<uint32_t>(quads),
                            static_cast<uint32_t>(half), Divider(static_cast<uint32_t>(half)));
}

}  // namespace tdas_ops::cuda
