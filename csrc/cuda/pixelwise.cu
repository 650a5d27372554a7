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
  PixelsOf<void> out, cast;
  const float* space;
  int power;
  SampleWork samples;
  uint32_t batch, channels, height, width;
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

// A pair of pixels of a plane: d A^power v and n A z.
struct PairOfTerms {
  Pair drift, noise;
};

// Where a thread's two pairs are: the quad'th pair of the left half of a plane's rows and the one half a row further.
struct Quad {
  uint32_t sample, channel, row, left, right;

  template <class T>
  TDAS_OPS_DEVICE int64_t place(const PixelsOf<T>& field, uint32_t pair) const {
    return sample * field.strides[0] + channel * field.strides[1] + row * field.strides[2] +
           2 * pair * field.strides[3];
  }
};

TDAS_OPS_DEVICE PairOfTerms terms_of(const PixelWork& work, const Quad& at, uint32_t pair, float d, float n,
                                     Pair noise) {
  const bool has_second = 2 * pair + 1 < work.width;
  Pair A = {1.0f, 1.0f}, drift = {0.0f, 0.0f};
  if (work.space != nullptr) {
    const float* mask = work.space + ((at.channel * work.height + at.row) * work.width + 2 * pair);
    A = {mask[0], has_second ? mask[1] : 0.0f};
  }
  if (work.v.data != nullptr) {
    const Pair v = load_pair(work.v, at.place(work.v, pair), has_second);
    const auto power = [&](float a) { return work.power == 0 ? 1.0f : work.power == 1 ? a : a * a; };
    drift = {d * power(A.x) * v.x, d * power(A.y) * v.y};
  }
  if (work.z.data != nullptr) noise = load_pair(work.z, at.place(work.z, pair), has_second);
  return {drift, {n * A.x * noise.x, has_second ? n * A.y * noise.y : 0.0f}};
}

// use(pair, terms) for both pairs of a quad.
template <class Use>
TDAS_OPS_DEVICE void each_pair(const PixelWork& work, uint32_t sample, uint32_t quad, Use use) {
  const uint32_t line = work.by_half.quotient(quad), left = quad - line * work.half;
  const uint32_t channel = work.by_height.quotient(line), row = line - channel * work.height;
  const Quad at = {sample, channel, row, left, left + work.half};
  const bool drawn = work.samples.seeds != nullptr, noisy = drawn || work.z.data != nullptr;
  const float d = work.v.data != nullptr ? drift_scale(work.samples, sample) : 0.0f;
  const float n = noisy ? noise_scale(work.samples, sample) : 0.0f;
  Pair first = {0.0f, 0.0f}, second = {0.0f, 0.0f};
  if (drawn) {
    const PhiloxWords words = DrawnNoise(work.samples, sample).words(quad);
    const ComplexNormal g = complex_normal(words.w0, words.w1), h = complex_normal(words.w2, words.w3);
    first = {g.real, g.imag};
    second = {h.real, h.imag};
  }
  use(at, at.left, terms_of(work, at, at.left, d, n, first));
  if (2 * at.right < work.width) use(at, at.right, terms_of(work, at, at.right, d, n, second));
}

__global__ void __launch_bounds__(threads_per_block) pixels_kernel(PixelWork work) {
  const uint32_t quad = blockIdx.x * threads_per_block + threadIdx.x;
  if (quad >= work.quads) return;
  for (uint32_t sample = blockIdx.y; sample < work.batch; sample += gridDim.y) {
    each_pair(work, sample, quad, [&](const Quad& at, uint32_t pair, PairOfTerms terms) {
      const bool has_second = 2 * pair + 1 < work.width;
      Pair sum = {0.0f, 0.0f};
      if (work.base.data != nullptr) sum = load_pair(work.base, at.place(work.base, pair), has_second);
      sum = {sum.x + terms.drift.x + terms.noise.x, sum.y + terms.drift.y + terms.noise.y};
      store_pair(work.out, at.place(work.out, pair), has_second, sum);
      if (work.cast.data != nullptr) store_pair(work.cast, at.place(work.cast, pair), has_second, sum);
    });
  }
}

// A block takes parts of planes in turns; of a part, quads in turns.
__global__ void __launch_bounds__(threads_per_block)
    measure_pixels_kernel(PixelWork work, float2* sums_of_parts, int64_t count, int parts) {
  TDAS_OPS_SHARED(float2, sums);
  const int t = threadIdx.x;
  const uint32_t of_plane = work.height * work.half;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const uint32_t plane = static_cast<uint32_t>(i / parts), part = static_cast<uint32_t>(i % parts);
    const uint32_t sample = plane / work.channels, channel = plane % work.channels;
    float2 own = make_float2(0.0f, 0.0f);
    for (int64_t quad = part * threads_per_block + t; quad < of_plane; quad += parts * threads_per_block) {
      const uint32_t of_sample = channel * of_plane + static_cast<uint32_t>(quad);
      each_pair(work, sample, of_sample, [&](const Quad&, uint32_t, PairOfTerms terms) {
        const auto plus_squares = [](float sum, Pair pair) {
          return __fmaf_rn(pair.x, pair.x, __fmaf_rn(pair.y, pair.y, sum));
        };
        own = make_float2(plus_squares(own.x, terms.drift), plus_squares(own.y, terms.noise));
      });
    }
    __syncthreads();
    sums[t] = own;
    for (int half = threads_per_block / 2; half > 0; half /= 2) {
      __syncthreads();
      if (t < half) sums[t] = make_float2(sums[t].x + sums[t + half].x, sums[t].y + sums[t + half].y);
    }
    if (t == 0) sums_of_parts[i] = sums[0];
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

int64_t half_of(int64_t width) { return (width + 3) / 4; }

PixelWork pixel_work(const UpdateArgs& args) {
  PixelWork work = {};
  work.base = in_pairs(args.base, args.width);
  work.v = in_pairs(args.v, args.width);
  work.z = in_pairs(args.z, args.width);
  work.out = in_pairs(args.out, args.width);
  work.cast = in_pairs(args.cast, args.width);
  work.space = args.masks.space;
  work.power = args.masks.space == nullptr || args.filter == Filter::noise  ? 0
               : args.filter == Filter::drift || args.filter == Filter::MMt ? 2
                                                                            : 1;
  work.samples = sample_work(args);
  work.batch = static_cast<uint32_t>(args.batch);
  work.channels = static_cast<uint32_t>(args.channels);
  work.height = static_cast<uint32_t>(args.height);
  work.width = static_cast<uint32_t>(args.width);
  work.half = static_cast<uint32_t>(half_of(args.width));
  work.quads = work.channels * work.height * work.half;
  work.by_half = Divider(work.half);
  work.by_height = Divider(work.height);
  return work;
}

bool is_empty(const UpdateArgs& args) { return args.batch * args.channels * args.height * args.width == 0; }

}  // namespace

cudaError_t update_pixels(const UpdateArgs& args, cudaStream_t stream) {
  if (is_empty(args)) return cudaSuccess;
  const PixelWork work = pixel_work(args);
  const cudaLaunchConfig_t launch = over_quads(work.quads, args.batch, stream);
  return cudaLaunchKernelEx(&launch, pixels_kernel, work);
}

int pixel_parts(int64_t height, int64_t width) {
  constexpr int64_t most = 64;
  return static_cast<int>(std::clamp<int64_t>(height * half_of(width) / threads_per_block, 1, most));
}

cudaError_t measure_pixels(const UpdateArgs& args, float* parts, cudaStream_t stream) {
  if (is_empty(args)) return cudaSuccess;
  const int of_plane = pixel_parts(args.height, args.width);
  const int64_t count = args.batch * args.channels * of_plane;
  PixelWork work = pixel_work(args);
  work.samples.d = work.samples.n = {nullptr, Number::float32, false, 1.0f};
  work.samples.langevin_noise = false;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(std::min(count, most_blocks)));
  launch.blockDim = dim3(threads_per_block);
  launch.dynamicSmemBytes = threads_per_block * sizeof(float2);
  launch.stream = stream;
  return cudaLaunchKernelEx(&launch, measure_pixels_kernel, work, reinterpret_cast<float2*>(parts), count, of_plane);
}

}  // namespace tdas_ops::cuda
