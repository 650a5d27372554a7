// Arguments of the kernels: plain data, no torch. Sizes and strides are in elements, never in bytes.
#pragma once

#include <cstdint>

namespace tdas_ops {

// Unit complex normals g[sample, C, H, ceil(W / 2)] as rows of `width` elements, of which one Philox call makes e and
// e + half (see philox.h). Pixel noise: a row is a row of a plane, half = ceil(width / 2). Spectral noise: a row is a
// plane, half = ceil(H / 2) ceil(W / 2), the upper half of its rows.
template <class T>
struct NormalsArgsOf {
  T* out;                // [samples, rows, width, 2]: contiguous, real part then imaginary part
  const int64_t* seeds;  // [1] or [samples]: the bits of a uint64; on the device of `out`
  const int64_t* draw;   // [1]: the bits of a uint64; on the device of `out`, so that a captured graph reads it anew
  int64_t samples;
  int64_t rows;
  int64_t width;
  int64_t half;
  int64_t first_sample;  // sample index of out[0] where all samples share a seed
  bool seed_per_sample;  // sample b is sample 0 of seeds[b]; otherwise sample first_sample + b of seeds[0]
};
using NormalsArgs = NormalsArgsOf<float>;

enum class Element { float32, bfloat16, float16, float64 };
template <class T>
constexpr Element element_of = sizeof(T) == 8 ? Element::float64 : Element::float32;  // of float or double

// A tensor [B, C, H, W] with any strides; absent where `data` is null. T is `const void` or `void`.
template <class T>
struct FieldOf {
  T* data;
  Element element;
  int64_t strides[4];
};
using Field = FieldOf<const void>;
using OutField = FieldOf<void>;

// An output that is read again.
inline Field constant(const OutField& field) {
  const int64_t (&strides)[4] = field.strides;
  return {field.data, field.element, {strides[0], strides[1], strides[2], strides[3]}};
}

// M = F^-1 R F A and the skew part S = F^-1 i w F; null where a mask is absent.
template <class T>
struct MasksOf {
  const T* freq;   // R as a half spectrum [C, H, W / 2 + 1]
  const T* space;  // A [C, H, W]
  const T* skew;   // w as a half spectrum
};
using Masks = MasksOf<float>;

// Or R as a matrix at every frequency, which mixes the channels: half spectra [C, C, H, W / 2 + 1] in place of `freq`,
// of real or of interleaved complex numbers.
template <class T>
struct MixingMasks : MasksOf<T> {
  const T* matrices = nullptr;
  bool complex_matrices = false;
};

// Spectra that the norms of an update leave for the update itself; null where there is none.
template <class T>
struct KeptOf {
  T *drift = nullptr, *noise = nullptr;  // of D v and of M z
};

enum class Filter {
  drift,  // out = base + d (M M^T + S) v + n M z
  noise,  // out = base + d v + n M z
  M,      // out = M v
  Mt,     // out = M^T v
  MMt,    // out = M M^T v
};

// One filtered update of the planes of a batch. Scales are one value a sample, null where their term is absent; z is
// the caller's pixel noise, or else drawn from seeds, draw and first_sample as in NormalsArgs. T is float or double.
template <class T>
struct UpdateArgsOf {
  Filter filter;
  int64_t batch, channels, height, width;
  OutField out;
  Field base, v, z;
  MixingMasks<T> masks;
  const T* d;
  const T* n;
  const int64_t* seeds;
  int64_t draw;
  int64_t first_sample;
  bool seed_per_sample;
};
using UpdateArgs = UpdateArgsOf<float>;

}  // namespace tdas_ops
