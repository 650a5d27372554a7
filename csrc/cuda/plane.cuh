// One filtered update of planes of 32, 64 or 128 by 32, 64 or 128, from pixels to pixels in one kernel: every plane is
// transformed, filtered and transformed back in registers and shared memory.
//
// A thread holds 64 floats throughout, H W / 64 threads a plane, as one of
//   pixels   four items of 2 x 2 runs (pixels.cuh),
//   a row    64 numbers of a row, which it transforms as real numbers: 32 frequencies, or
//   a column 32 frequencies of one column of the half spectrum.
// From pixels to rows and back through `staging`, [H][W + 4] floats; from rows to columns and back through `spectrum`,
// [class][W / 2][rows + 2] complex numbers in the same memory. Both pitches are 4 floats modulo 32 banks, so that eight
// neighbouring threads reach all banks with 16 bytes each.
//
// Lines longer than a thread are split by butterflies of radix 2 between pixels half a plane apart. In y, for H >= 64:
// class 0 of the rows (sums) has the even frequencies, class 1 (differences, times exp(-2 pi i h / H)) the odd ones. In
// x, for W = 128: the sums have the even frequencies; of the differences, again split, c(n) = (v(n) - i v(n + 32))
// exp(-2 pi i n / 128) has X(4k + 1), all others being their conjugates. At H = 128 a column is split once more on its
// way out of shared memory. So kh = classes halves k + classes half + class.
//
// Column 0 of the spectrum is real in x like column W / 2, and holds both: P = A + i B. A(h) and B(h) of Hermitian
// columns are told apart by P(H - h), which lies in the same class; see separate_column and join_column of update.h.
#pragma once

#include "plane_columns.cuh"
#include "plane_pixels.cuh"
#include "plane_rows.cuh"
#include "plane_shape.cuh"

namespace tdas_ops::cuda {

// `thread()`: index of this thread in its block.
template <int H, int W, Kind kind, class Thread>
TDAS_OPS_DEVICE void update_plane(const PlaneWork& work, float* shared, Thread thread) {
  using Shape = PlaneShape<H, W>;
  constexpr bool is_pixels = kind == Kind::pixels, is_noise = kind == Kind::noise;
  const uint32_t first_plane = blockIdx.x * Shape::planes;
  // Each phase works out anew where its thread stands, which costs less than registers that hold it all along.
  const auto pixels = [&] { return PlanePixels<H, W>(work, shared, first_plane, thread()); };
  const auto rows = [&] { return PlaneRows<H, W>(shared, thread()); };

  if constexpr (!is_noise) {
    pixels().source(is_pixels && work.noise_first, is_pixels && work.space_first);
    Shape::plane_barrier();
  }
  TDAS_OPS_NO_UNROLL
  for (bool again = is_pixels && work.twice;; again = false) {
    Complex<float> X[32];
    if constexpr (!is_noise) {
      rows().forward();
      __syncthreads();
    }
    const PlaneColumns<H, W, kind> columns(work, shared, first_plane, thread());
    if constexpr (!is_noise) columns.forward(X);
    if constexpr (is_pixels) {
      const float scale = work.noise_first ? noise_scale(work.samples, columns.at.sample) : 1.0f;
      columns.linear(scale * Shape::per_pixel, X);
    } else {
      const bool noisy = is_noise || work.samples.seeds != nullptr;
      const float d = is_noise ? 0.0f : drift_scale(work.samples, columns.at.sample) * Shape::per_pixel;
      columns.filter(d, noisy ? noise_scale(work.samples, columns.at.sample) * Shape::white : 0.0f, noisy, X);
    }
    columns.inverse(X);
    __syncthreads();
    rows().inverse();
    if (!again) break;
    Shape::plane_barrier();
    pixels().between(work.z.data != nullptr || work.samples.seeds != nullptr);
    Shape::plane_barrier();
  }
  pixels().finish((is_pixels || is_noise) && work.add_v, is_pixels && work.space_last);
}

// Leaves the squares of the planes of a block, summed over the threads of a plane by a tree of fixed order: sums[plane]
// [thread].
template <int H, int W>
TDAS_OPS_DEVICE void sum_planes(const PlaneWork& work, float2* sums, uint32_t first_plane, int t) {
  using Shape = PlaneShape<H, W>;
  const int plane = t / Shape::threads, i = t % Shape::threads;
  TDAS_OPS_NO_UNROLL
  for (int half = Shape::threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (i < half) sums[t] = make_float2(sums[t].x + sums[t + half].x, sums[t].y + sums[t + half].y);
  }
  if (i == 0 && first_plane + plane < work.planes) work.squares[first_plane + plane] = sums[t];
}

// The squares of the planes of a block.
template <int H, int W, class Thread>
TDAS_OPS_DEVICE void measure_plane(const PlaneWork& work, float* shared, Thread thread) {
  using Shape = PlaneShape<H, W>;
  using Columns = PlaneColumns<H, W, Kind::measure>;
  const uint32_t first_plane = blockIdx.x * Shape::planes;
  const auto pixels = [&] { return PlanePixels<H, W>(work, shared, first_plane, thread()); };
  const auto rows = [&] { return PlaneRows<H, W>(shared, thread()); };
  const auto columns = [&] { return Columns(work, shared, first_plane, thread()); };
  float2* const sums = reinterpret_cast<float2*>(shared + Shape::sums);  // of D v and M z, [plane][thread]
  const auto own_sum = [&] {                                             // as a thread of the columns
    const int t = thread();
    return sums + t % Shape::planes * Shape::threads + t / Shape::planes;
  };
  const bool space = work.masks.space != nullptr, spectral = !space && work.z.data == nullptr;

  enum Stage { drift, drift_again, noise };
  Stage stage = work.filter_drift ? drift : noise;
  TDAS_OPS_NO_UNROLL
  while (stage != noise || !spectral) {
    if (stage != drift_again) pixels().source(stage == noise, stage == noise && space);
    Shape::plane_barrier();
    rows().forward();
    __syncthreads();
    Complex<float> X[32];
    columns().forward(X);
    if (stage == drift && space) {
      columns().linear(Shape::per_pixel, X);
      columns().inverse(X);
      __syncthreads();
      rows().inverse();
      Shape::plane_barrier();
      pixels().between(false);
      stage = drift_again;
      continue;
    }
    const bool squared = stage == drift;
    const float square = Shape::per_pixel * columns().square(squared, squared && work.masks.skew != nullptr, X);
    if (stage == noise) {
      own_sum()->y = square;
      break;
    }
    own_sum()->x = square;
    __syncthreads();
    stage = noise;
  }
  if (spectral) own_sum()->y = columns().noise_square();
  __syncthreads();

  const int t = thread();  // as a thread of the pixels
  if (!work.filter_drift) sums[t].x = pixels().square();
  sum_planes<H, W>(work, sums, first_plane, t);
}

template <int H, int W, Kind kind>
__global__ void __launch_bounds__(PlaneShape<H, W>::block, PlaneShape<H, W>::blocks) plane_kernel(PlaneWork work) {
  TDAS_OPS_SHARED(float, shared);
  if constexpr (kind == Kind::measure) {
    measure_plane<H, W>(work, shared, [] { return thread_index(); });
  } else {
    update_plane<H, W, kind>(work, shared, [] { return thread_index(); });
  }
}

// The kernels of one size.
struct PlaneKernels {
  int height, width;
  int planes, block;  // of a block: planes, threads
  int shared_bytes;
  void (*kernels[5])(PlaneWork);  // of a Kind
};

template <int H, int W>
constexpr PlaneKernels plane_kernels() {
  using Shape = PlaneShape<H, W>;
  return {H,
          W,
          Shape::planes,
          Shape::block,
          Shape::shared_bytes,
          {plane_kernel<H, W, Kind::drift>, plane_kernel<H, W, Kind::skewed_drift>, plane_kernel<H, W, Kind::noise>,
           plane_kernel<H, W, Kind::pixels>, plane_kernel<H, W, Kind::measure>}};
}

// One file a height, which compile side by side.
extern const PlaneKernels planes_of_32[3], planes_of_64[3], planes_of_128[3];

}  // namespace tdas_ops::cuda
