// What the CPU kernels offer, no torch: the same functions for every instruction set, chosen at run time.
#pragma once

#include "../params.h"
#include "tables.h"

namespace tdas_ops::cpu {

// The filter in the frequency domain for sizes without a fused kernel, between transforms that are made elsewhere.
// Planes [H, K] of interleaved complex numbers, neither transform normalised: for even W the transform of the real
// plane as a complex plane of K = W / 2 columns (see fft.h), for odd W the full spectrum, K = W. A plane with spectrum
// X becomes
//
//   data ({0, 1, R, R^2} X + i w X) + noise sqrt(HW / 2) R g + kept_scale kept
//
// or, with R as matrices L on the channels of a sample (w = 0), data {L, L^H, L L^H} X + noise sqrt(HW / 2) L g + ...
template <class T>
struct SpectraArgsOf {
  enum Power { skew_only = -1 };
  T* to;             // not `from`
  const T* from;     // null where there is no X
  const T* normals;  // g[B, C, H, ceil(W / 2)] in the order of spectral noise, or null
  const T* kept;     // spectra in the layout of `to`, or null
  int64_t batch, channels, height, width;
  const T *freq, *skew;                // half spectra [C, H, W / 2 + 1]; null means R = 1, w = 0
  const T* matrices;                   // or L [C, C, H, W / 2 + 1] in place of both
  bool complex_matrices, adjoint;      // interleaved complex numbers; power 1 is L^H
  const T *cosines, *sines;            // of 2 pi k / W for k < W / 2, padded to a whole vector; unused for odd W
  int power;                           // of R beside X, or skew_only
  const T *data, *noise, *kept_scale;  // one a sample; null means 1
};

// Kernels of float or double, T.
template <class T>
struct KernelsOf {
  using UpdateArgs = UpdateArgsOf<T>;
  const char* name;
  // The op `normals`. The work comes in blocks; any partition of the range [0, normals_blocks) gives the same bits.
  void (*normals)(const NormalsArgsOf<T>& args, int64_t begin, int64_t end);
  // A filtered update, and |D v|^2 and |M z|^2, of planes [begin, end) of B C: sizes of `fused`, with a frequency mask.
  // `keep`, on the boundary of a cache line, receives spectra, which the update then takes instead of v and the noise:
  // kept_floats a plane. It has no noise where that is drawn as a spectrum.
  void (*update_planes)(const UpdateArgs& args, KeptOf<const T> kept, int64_t begin, int64_t end);
  void (*measure_planes)(const UpdateArgs& args, double (*squares)[2], KeptOf<T> keep, int64_t begin, int64_t end);
  int64_t (*kept_floats)(int64_t height, int64_t width);
  // The same without a frequency mask and without skew, for any size: rows [begin, end) of B C H, and planes.
  void (*update_rows)(const UpdateArgs& args, int64_t begin, int64_t end);
  void (*measure_rows)(const UpdateArgs& args, double (*squares)[2], int64_t begin, int64_t end);
  // Planes [begin, end) of B C.
  void (*filter_spectra)(const SpectraArgsOf<T>& args, int64_t begin, int64_t end);
  // The same with matrices: [begin, end) of mixed_rows(args) B, so that the samples share the matrices of a row.
  void (*mix_spectra)(const SpectraArgsOf<T>& args, int64_t begin, int64_t end);
  // The sum of `count` squares.
  double (*square)(const T* values, int64_t count);
};

// Those of the best instruction set of the machine ("avx512", "avx2" or "baseline"), or of the one that the environment
// variable TDAS_OPS_CPU_ISA names; throws std::invalid_argument where that one cannot be had.
template <class T>
const KernelsOf<T>& kernels();

constexpr int quads_per_block = 32;

template <class T>
TDAS_OPS_INLINE int64_t normals_blocks_per_sample(const NormalsArgsOf<T>& args) {
  return (args.rows * args.half + quads_per_block - 1) / quads_per_block;
}

template <class T>
TDAS_OPS_INLINE int64_t normals_blocks(const NormalsArgsOf<T>& args) {
  return args.samples * normals_blocks_per_sample(args);
}

// The work of a sample in `mix_spectra`: rows h and -h together, for odd W row by row.
template <class T>
TDAS_OPS_INLINE int64_t mixed_rows(const SpectraArgsOf<T>& args) {
  return args.width % 2 == 0 ? args.height / 2 + 1 : args.height;
}

// Whether `update_planes` has planes of this size.
inline bool fused(int64_t height, int64_t width) {
  const auto has = [](int64_t size) {
    return size >= min_size && size <= max_size && largest_prime(size) <= max_prime;
  };
  return has(height) && has(width);
}

}  // namespace tdas_ops::cpu
