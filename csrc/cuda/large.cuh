// One filtered update of planes that do not fit on chip, of 32 to 2048 by 32 to 2048 in powers of two, in passes over
// spectra of rows in global memory, [H][W / 2] complex numbers a plane:
//   rows     pixels to spectra of rows,
//   columns  along the columns: transform, filter and noise, transform back,
//   rows     spectra of rows to pixels, and the update.
// Both masks take five: between two passes along the columns, rows go to pixels and back. Where norms come before the
// update it takes eight: the spectra of drift and noise before their last filter are measured, stay, and are added up
// in the last pass along the columns (Terms of large.cu).
//
// A thread holds 64 floats throughout, in blocks of threads that exchange them through shared memory once in a
// transform of a line. A row of W pixels: pixel i + 32 j, i < 32, is j-th of short line i, of W / 32 real numbers that
// lie in one thread; its frequencies k = 1 .. W / 64 - 1, times exp(-2 pi i i k / W), are i-th of long line k, of 32
// complex numbers, whose n-th frequency is k + W / 32 n of the row. What is left are two real lines of frequencies 0
// and W / 64: together a transform of 64 real numbers. (A row of 32 or 64 is one of these and nothing else, or half of
// one.) A column of H complex numbers: number i H / 32 + j is i-th of long line j, of 32; its frequencies a, times
// exp(-2 pi i a j / H), are j-th of short line a, of H / 32, whose n-th frequency is a + 32 n of the column. A short
// line of 64 is split once more between two threads, like a column of 128 on chip (plane.cuh).
#pragma once

#include "large_columns.cuh"
#include "large_rows.cuh"

namespace tdas_ops::cuda {

// `thread()`: index of this thread in its block.
template <int W, Pass pass, class Thread>
TDAS_OPS_DEVICE void pass_rows(const LargeWork& work, float* shared, Thread thread) {
  // Each phase works out anew where its thread stands, which costs less than registers that hold it all along.
  const auto pixels = [&] { return LargePixels<W>(work, shared, thread()); };
  const auto line = [&] { return LargeLine<W>(work, shared, thread()); };
  typename LargePixels<W>::Numbers numbers;
  if constexpr (pass == Pass::forward) {
    pixels().source(numbers);
  } else {
    line().inverse();
    __syncthreads();
    pixels().from_lines(numbers);
    pass == Pass::between ? pixels().between(numbers) : pixels().finish(numbers);
  }
  if constexpr (pass != Pass::inverse) {
    pixels().to_lines(numbers);
    __syncthreads();
    line().forward();
  }
}

template <int H, Kind kind, class Thread>
TDAS_OPS_DEVICE void pass_columns(const LargeWork& work, float* shared, Thread thread) {
  const PlaneWork& plane = work.plane;
  const auto columns = [&] { return LargeColumns<H, kind>(work, shared, thread()); };
  Complex<float> X[32];
  if constexpr (kind == Kind::measure) {
    if (work.transformed) columns().forward(0, X);
    float2 own = make_float2(0.0f, 0.0f);
    if (plane.filter_drift) own.x = work.per_pixel * columns().square(plane.square, plane.masks.skew != nullptr, X);
    if (work.noisy)
      own.y = work.transformed && !plane.filter_drift ? work.per_pixel * columns().square(false, false, X)
                                                      : columns().noise_square();
    columns().sum(work, own);
  } else {
    if constexpr (kind != Kind::noise) columns().forward(work.to_noise, X);
    const uint32_t sample = columns().at.sample;
    if constexpr (kind == Kind::pixels) {
      const float scale = plane.noise_first ? noise_scale(plane.samples, sample) : 1.0f;
      columns().linear(scale * work.per_pixel, X);
    } else {
      const bool noisy = kind == Kind::noise || plane.samples.seeds != nullptr;
      const float d = kind == Kind::noise ? 0.0f : drift_scale(plane.samples, sample) * work.per_pixel;
      columns().filter(d, noisy ? noise_scale(plane.samples, sample) * work.white : 0.0f, noisy, X);
    }
    columns().inverse(X);
  }
}

template <int W, Pass pass>
__global__ void __launch_bounds__(large_block, large_blocks) rows_kernel(LargeWork work) {
  TDAS_OPS_SHARED(float, shared);
  follow();
  pass_rows<W, pass>(work, shared, [] { return thread_index(); });
}

template <int H, Kind kind>
__global__ void __launch_bounds__(large_block, large_blocks) columns_kernel(LargeWork work) {
  TDAS_OPS_SHARED(float, shared);
  follow();
  pass_columns<H, kind>(work, shared, [] { return thread_index(); });
}

// The kernels of lines of one length.
template <int kinds>
struct LineKernels {
  int length, lines, shared_bytes;    // lines of a block
  void (*kernels[kinds])(LargeWork);  // of a Pass or a Kind
};
using RowKernels = LineKernels<3>;
using ColumnKernels = LineKernels<5>;

template <int W>
constexpr RowKernels row_kernels() {
  using Shape = RowShape<W>;
  return {W,
          Shape::rows * Shape::rows_of_line,
          Shape::shared_bytes,
          {rows_kernel<W, Pass::forward>, rows_kernel<W, Pass::between>, rows_kernel<W, Pass::inverse>}};
}

template <int H>
constexpr ColumnKernels column_kernels() {
  using Shape = ColumnShape<H>;
  return {H,
          Shape::columns,
          Shape::shared_bytes,
          {columns_kernel<H, Kind::drift>, columns_kernel<H, Kind::skewed_drift>, columns_kernel<H, Kind::noise>,
           columns_kernel<H, Kind::pixels>, columns_kernel<H, Kind::measure>}};
}

// Files that compile side by side.
extern const RowKernels rows_to_256[4], rows_from_512[3];
extern const ColumnKernels columns_to_256[4], columns_from_512[3];

}  // namespace tdas_ops::cuda
