// One thread updates the pixels that one Philox call makes the noise of: two pairs of neighbours, half a row apart.
#include "pixelwise.h"

#include "divider.h"
#include "normals.cuh"
#include "quads.h"
#include "sample.cuh"

namespace tdas_ops::cuda {
namespace {

// out = base + d A^power v + n A z
struct PixelWork {
  PixelsOf<const void> base, v, z;  // dense: pairs can be read at once
  PixelsOf<void> out;
  const float* space;
  int power;
  SampleWork samples;
  uint32_t batch, height, width;
  uint32_t quads, half;  // of a sample, of a row
  Divider by_half, by_height;
};

struct Pair {
  float x, y;
};

template <class T>
TDAS_OPS_DEVICE Pair load_pair(const PixelsOf<T>& field, int64_t at, bool has_second) {
  if (field.dense && field.element == Element::float32) {
    const float2 both = *reinterpret_cast<const float2*>(static_cast<const float*>(field.data) + at);
    return {both.x, both.y};
  }
  return {pixel(field, at), has_second ? pixel(field, at + field.strides[3]) : 0.0f};
}

TDAS_OPS_DEVICE void store_pair(const PixelsOf<void>& field, int64_t at, bool has_second, Pair pair) {
  if (field.dense && field.element == Element::float32) {
    *reinterpret_cast<float2*>(static_cast<float*>(field.data) + at) = make_float2(pair.x, pair.y);
    return;
  }
  set_pixel(field, at, pair.x);
  if (has_second) set_pixel(field, at + field.strides[3], pair.y);
}

TDAS_OPS_DEVICE void update_pair(const PixelWork& work, uint32_t sample, uint32_t channel, uint32_t row,
                                 uint32_t column, float d, float n, Pair noise) {
  const auto place = [&](const auto& field) {
    return sample * field.strides[0] + channel * field.strides[1] + row * field.strides[2] + column * field.strides[3];
  };
  const bool has_second = column + 1 < work.width;
  Pair A = {1.0f, 1.0f}, sum = {0.0f, 0.0f};
  if (work.space != nullptr) {
    const float* mask = work.space + ((channel * work.height + row) * work.width + column);
    A = {mask[0], has_second ? mask[1] : 0.0f};
  }
  if (work.base.data != nullptr) sum = load_pair(work.base, place(work.base), has_second);
  if (work.v.data != nullptr) {
    const Pair v = load_pair(work.v, place(work.v), has_second);
    const Pair factor = {work.power == 0   ? 1.0f
                         : work.power == 1 ? A.x
                                           : A.x * A.x,
                         work.power == 0   ? 1.0f
                         : work.power == 1 ? A.y
                                           : A.y * A.y};
    sum = {sum.x + d * factor.x * v.x, sum.y + d * factor.y * v.y};
  }
  if (work.z.data != nullptr) noise = load_pair(work.z, place(work.z), has_second);
  sum = {sum.x + n * A.x * noise.x, sum.y + n * A.y * noise.y};
  store_pair(work.out, place(work.out), has_second, sum);
}

__global__ void __launch_bounds__(threads_per_block) pixels_kernel(PixelWork work) {
  const uint32_t quad = blockIdx.x * threads_per_block + threadIdx.x;
  if (quad >= work.quads) return;
  const uint32_t line = work.by_half.quotient(quad), left = quad - line * work.half;
  const uint32_t channel = work.by_height.quotient(line), row = line - channel * work.height;
  const uint32_t right = left + work.half;
  const bool drawn = work.samples.seeds != nullptr, noisy = drawn || work.z.data != nullptr;
  for (uint32_t sample = blockIdx.y; sample < work.batch; sample += gridDim.y) {
    const float d = work.v.data != nullptr ? drift_scale(work.samples, sample) : 0.0f;
    const float n = noisy ? noise_scale(work.samples, sample) : 0.0f;
    Pair first = {0.0f, 0.0f}, second = {0.0f, 0.0f};
    if (drawn) {
      const PhiloxWords words = DrawnNoise(work.samples, sample).words(quad);
      const ComplexNormal g = complex_normal(words.w0, words.w1), h = complex_normal(words.w2, words.w3);
      first = {g.real, g.imag};
      second = {h.real, h.imag};
    }
    update_pair(work, sample, channel, row, 2 * left, d, n, first);
    if (2 * right < work.width) update_pair(work, sample, channel, row, 2 * right, d, n, second);
  }
}

// Pairs can be read at once where they follow one another from an even address on.
template <class T>
PixelsOf<T> in_pairs(const FieldOf<T>& field, int64_t width) {
  const int64_t (&s)[4] = field.strides;
  const bool dense = s[3] == 1 && width % 2 == 0 && s[0] % 2 == 0 && s[1] % 2 == 0 && s[2] % 2 == 0 &&
                     reinterpret_cast<uintptr_t>(field.data) % 8 == 0;
  return {field.data, field.element, dense, {s[0], s[1], s[2], s[3]}};
}

}  // namespace

cudaError_t update_pixels(const UpdateArgs& args, cudaStream_t stream) {
  const uint32_t half = static_cast<uint32_t>((args.width + 3) / 4);
  const int64_t quads = args.channels * args.height * half;
  if (quads == 0 || args.batch == 0) return cudaSuccess;
  PixelWork work = {};
  work.base = in_pairs(args.base, args.width);
  work.v = in_pairs(args.v, args.width);
  work.z = in_pairs(args.z, args.width);
  work.out = in_pairs(args.out, args.width);
  work.space = args.masks.space;
  work.power = args.masks.space == nullptr || args.filter == Filter::noise  ? 0
               : args.filter == Filter::drift || args.filter == Filter::MMt ? 2
                                                                            : 1;
  work.samples = sample_work(args);
  work.batch = static_cast<uint32_t>(args.batch);
  work.height = static_cast<uint32_t>(args.height);
  work.width = static_cast<uint32_t>(args.width);
  work.quads = static_cast<uint32_t>(quads);
  work.half = half;
  work.by_half = Divider(half);
  work.by_height = Divider(work.height);
  const cudaLaunchConfig_t launch = over_quads(quads, args.batch, stream);
  return cudaLaunchKernelEx(&launch, pixels_kernel, work);
}

}  // namespace tdas_ops::cuda
