// How lines of 32 to 2048 numbers are laid out over threads and shared memory. See large.cuh.
#pragma once

#include "plane_shape.cuh"

namespace tdas_ops::cuda {

// Arguments of the kernels of large planes.
struct LargeWork {
  PlaneWork plane;
  float2* spectra;               // [planes][H][W / 2], of the planes from first_plane on
  uint32_t first_plane, planes;  // of a launch
  int log_height, log_columns;   // of H and of W / 2
  float per_pixel, white;        // 1 / (H W), and of F^-1 g: 1 / sqrt(2 H W)
  // Kind measure: |D v|^2 (of spectra, where plane.filter_drift) and |M z|^2 (where `noisy`, of spectra or drawn) of
  // every column, [planes][W / 2].
  float2* squares;
  bool transformed;  // there are spectra
  bool noisy;
  // Kind pixels: where not 0, u is d times its spectra plus, of an update with noise, n times those so far behind them.
  int64_t to_noise;
};

// A plane of a launch; past the last one the last once more, of which nothing is stored.
struct LargePosition : Position {
  uint32_t in_launch;

  TDAS_OPS_DEVICE LargePosition(const LargeWork& work, uint32_t plane)
      : Position(work.plane, work.first_plane + (plane < work.planes ? plane : work.planes - 1)),
        in_launch(plane < work.planes ? plane : work.planes - 1) {
    there = plane < work.planes;
  }

  TDAS_OPS_DEVICE float2* spectrum(const LargeWork& work) const {
    return work.spectra + (static_cast<int64_t>(in_launch) << (work.log_height + work.log_columns));
  }
};

// 1: from compute capability 9.0 on a pass begins where the last blocks of the one before leave room. For a GPU to
// compare (benchmarks/gpu_variants.txt, prediction 1 of docs/design.md).
#ifndef TDAS_OPS_OVERLAP
#define TDAS_OPS_OVERLAP 0
#endif

// Lets the next launch begin so, and waits for all that the one before wrote.
TDAS_OPS_DEVICE void follow() {
#if TDAS_OPS_OVERLAP
  asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

constexpr int large_block = 256;  // threads
constexpr int large_blocks = 2;   // of a multiprocessor, with 128 registers a thread

// exp(2 pi i a b / N), a < 32, b < N / 32.
template <int N>
struct LineTwiddles {
  Twiddle at[32][N / 32];
};
template <int N>
constexpr LineTwiddles<N> all_line_twiddles() {
  LineTwiddles<N> twiddles = {};
  for (int a = 0; a < 32; ++a)
    for (int b = 0; b < N / 32; ++b) twiddles.at[a][b] = twiddle(a * b, N);
  return twiddles;
}
template <int N>
static __device__ const LineTwiddles<N> line_twiddles = all_line_twiddles<N>();

template <int W>
struct RowShape {
  static constexpr int rows_of_line = W == 32 ? 2 : 1;  // two rows of 32 pixels are as one of 64
  static constexpr bool short_rows = W <= 64;
  static constexpr int points = short_rows ? 2 : W / 32;      // of a short line
  static constexpr int lines = points / 2;                    // long ones of a row; threads of a row
  static constexpr int rows = large_block / lines;            // of a block
  static constexpr int run = points <= 16 ? 4 : 64 / points;  // neighbouring pixels of a thread
  static constexpr int runs = 64 / (points * run);            // of these in 32 pixels
  static constexpr int line_pitch = 2 * (32 + 2);             // floats
  static constexpr int row_pitch = lines * line_pitch + 4;
  static constexpr int shared_bytes = rows * row_pitch * 4;
};

template <int H>
struct ColumnShape {
  static constexpr int parts = H / 32;                 // threads of a column
  static constexpr int columns = large_block / parts;  // of a block
  static constexpr int neighbours = columns < 8 ? columns : 8;
  static constexpr int halves = parts == 64 ? 2 : 1;                    // of a short line
  static constexpr int line_pitch = 2 * parts + (halves == 2 ? 4 : 0);  // floats
  static constexpr int column_pitch = 32 * line_pitch + 32 / neighbours;
  static constexpr int shared_bytes = columns * column_pitch * 4;
};

}  // namespace tdas_ops::cuda
