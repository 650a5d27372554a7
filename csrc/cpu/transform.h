// Transforms of `lanes` lines at once. A line is one complex vector an element, see vector.h.
#pragma once

#include "tables.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

// What happens to 8 neighbouring places in the middle of a sandwich, `place` being the first of them: the last stage of
// the transform, whatever the leaf is for, and the first stage back.
using Leaf = void (*)(float* line, int place, const void* context);

template <int L>
__attribute__((noinline)) void forward_stage(float* __restrict line, const Tables& tables) {
  constexpr int R = first_radix(L), M = L / R;
  const Twiddle* twiddles = tables.stages[log2_of(L)].data();
  for (int j = 0; j < M; ++j, twiddles += R - 1) {
    Complexes x[R];
    TDAS_OPS_UNROLL
    for (int i = 0; i < R; ++i) x[i] = load_element(line, j + i * M);
    butterfly<R, false>(x);
    TDAS_OPS_UNROLL
    for (int k = 0; k < R; ++k)
      store_element(line, reversed(k, R) * M + j, M > 1 && k > 0 ? turned<false>(x[k], twiddles[k - 1]) : x[k]);
  }
}

template <int L>
__attribute__((noinline)) void inverse_stage(float* __restrict line, const Tables& tables) {
  constexpr int R = first_radix(L), M = L / R;
  const Twiddle* twiddles = tables.stages[log2_of(L)].data();
  for (int j = 0; j < M; ++j, twiddles += R - 1) {
    Complexes x[R];
    TDAS_OPS_UNROLL
    for (int k = 0; k < R; ++k) {
      x[k] = load_element(line, reversed(k, R) * M + j);
      if (M > 1 && k > 0) x[k] = turned<true>(x[k], twiddles[k - 1]);
    }
    butterfly<R, true>(x);
    TDAS_OPS_UNROLL
    for (int i = 0; i < R; ++i) store_element(line, j + i * M, x[i]);
  }
}

// Depth first: a part is finished while it is in the cache. Parts of `last` elements are left as they are.
template <int L, int last>
void forward(float* line, const Tables& tables) {
  if constexpr (L > last) {
    constexpr int M = L / first_radix(L);
    forward_stage<L>(line, tables);
    if constexpr (M > last)
      for (int part = 0; part < L; part += M) forward<M, last>(line + part * line_step, tables);
  }
}

template <int L, int last>
void inverse(float* line, const Tables& tables) {
  if constexpr (L > last) {
    constexpr int M = L / first_radix(L);
    if constexpr (M > last)
      for (int part = 0; part < L; part += M) inverse<M, last>(line + part * line_step, tables);
    inverse_stage<L>(line, tables);
  }
}

struct Directions {
  bool forward, inverse;
};

// Forward, the leaf on every 8 places, inverse; each direction if asked for.
template <int L>
void sandwich(float* line, int place, const Tables& tables, Directions directions, Leaf leaf, const void* context) {
  if constexpr (L == 8) {
    leaf(line, place, context);
  } else {
    constexpr int M = L / first_radix(L);
    if (directions.forward) forward_stage<L>(line, tables);
    for (int part = 0; part < L; part += M)
      sandwich<M>(line + part * line_step, place + part, tables, directions, leaf, context);
    if (directions.inverse) inverse_stage<L>(line, tables);
  }
}

// The transform of real rows, whose even columns are the real parts and odd columns the imaginary parts of a line of M
// elements: to twice the spectrum, which `separate` makes of two places at a time, and back. Frequency 0 of the line
// carries the frequencies 0 and M of the rows, both real.
TDAS_OPS_INLINE void separate_zero(Complexes& zero, Complexes& middle) {
  zero = {zero.re + zero.im, zero.re - zero.im};
  middle = {2.0f * middle.re, -2.0f * middle.im};
}

// Which eight of frequencies first + i N / 8 holds the mirror images N - k of one such eight: for first = 0 itself,
// where i is tied to 8 - i; for first = N / 16 itself, else that of N / 8 - first, where i is tied to 7 - i.
enum class Mirror { zero, own, other };

// The last stage forward together with the separation, or the first one back with its inverse, of one or two eights.
template <Mirror mirror, int M>
__attribute__((noinline)) void separate_eights(const float* line, float* spectrum, int first, const Tables& tables) {
  constexpr int start = mirror == Mirror::zero ? 1 : 0, last = 7 + start, step = M / 8;
  const int other = mirror == Mirror::other ? step - first : first;
  const uint16_t* places = tables.places[log2_of(M)].data();
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  Complexes x[8], rest[8];
  Complexes(&y)[8] = mirror == Mirror::other ? rest : x;
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) x[i] = load_element(line, places[first] + i);
  butterfly<8, false>(x);
  if constexpr (mirror == Mirror::other) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < 8; ++i) y[i] = load_element(line, places[other] + i);
    butterfly<8, false>(y);
  }
  if constexpr (mirror == Mirror::zero) separate_zero(x[0], x[4]);
  TDAS_OPS_UNROLL
  for (int i = start; i < 4; ++i) {
    separate(x[i], y[last - i], twiddles[first + i * step]);
    if constexpr (mirror == Mirror::other) separate(y[i], x[last - i], twiddles[other + i * step]);
  }
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) {
    store_element(spectrum, first + i * step, x[i]);
    if constexpr (mirror == Mirror::other) store_element(spectrum, other + i * step, y[i]);
  }
}

template <Mirror mirror, int M>
__attribute__((noinline)) void join_eights(const float* spectrum, float* line, int first, const Tables& tables) {
  constexpr int start = mirror == Mirror::zero ? 1 : 0, last = 7 + start, step = M / 8;
  const int other = mirror == Mirror::other ? step - first : first;
  const uint16_t* places = tables.places[log2_of(M)].data();
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  Complexes x[8], rest[8];
  Complexes(&y)[8] = mirror == Mirror::other ? rest : x;
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) {
    x[i] = load_element(spectrum, first + i * step);
    if constexpr (mirror == Mirror::other) y[i] = load_element(spectrum, other + i * step);
  }
  if constexpr (mirror == Mirror::zero) separate_zero(x[0], x[4]);
  TDAS_OPS_UNROLL
  for (int i = start; i < 4; ++i) {
    join(x[i], y[last - i], twiddles[first + i * step]);
    if constexpr (mirror == Mirror::other) join(y[i], x[last - i], twiddles[other + i * step]);
  }
  butterfly<8, true>(x);
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) store_element(line, places[first] + i, x[i]);
  if constexpr (mirror == Mirror::other) {
    butterfly<8, true>(y);
    TDAS_OPS_UNROLL
    for (int i = 0; i < 8; ++i) store_element(line, places[other] + i, y[i]);
  }
}

// Rows of 32: the whole line at once.
void separate_sixteen(const float* line, float* spectrum, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(16)].data();
  Complexes x[16];
  TDAS_OPS_UNROLL
  for (int i = 0; i < 16; ++i) x[i] = load_element(line, i);
  butterfly<16, false>(x);
  separate_zero(x[0], x[8]);
  TDAS_OPS_UNROLL
  for (int k = 1; k < 8; ++k) separate(x[k], x[16 - k], twiddles[k]);
  TDAS_OPS_UNROLL
  for (int k = 0; k < 16; ++k) store_element(spectrum, k, x[k]);
}

void join_sixteen(const float* spectrum, float* line, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(16)].data();
  Complexes x[16];
  TDAS_OPS_UNROLL
  for (int k = 0; k < 16; ++k) x[k] = load_element(spectrum, k);
  separate_zero(x[0], x[8]);
  TDAS_OPS_UNROLL
  for (int k = 1; k < 8; ++k) join(x[k], x[16 - k], twiddles[k]);
  butterfly<16, true>(x);
  TDAS_OPS_UNROLL
  for (int i = 0; i < 16; ++i) store_element(line, i, x[i]);
}

// `line` holds the columns of the rows and is destroyed, `spectrum` the M frequencies in their natural order.
template <int M>
void forward_rows(float* line, float* spectrum, const Tables& tables) {
  if constexpr (M == 16) {
    separate_sixteen(line, spectrum, tables);
  } else {
    forward<M, 8>(line, tables);
    separate_eights<Mirror::zero, M>(line, spectrum, 0, tables);
    for (int first = 1; first < M / 16; ++first) separate_eights<Mirror::other, M>(line, spectrum, first, tables);
    separate_eights<Mirror::own, M>(line, spectrum, M / 16, tables);
  }
}

template <int M>
void inverse_rows(const float* spectrum, float* line, const Tables& tables) {
  if constexpr (M == 16) {
    join_sixteen(spectrum, line, tables);
  } else {
    join_eights<Mirror::zero, M>(spectrum, line, 0, tables);
    for (int first = 1; first < M / 16; ++first) join_eights<Mirror::other, M>(spectrum, line, first, tables);
    join_eights<Mirror::own, M>(spectrum, line, M / 16, tables);
    inverse<M, 8>(line, tables);
  }
}

using Transform = void (*)(float* line, const Tables& tables);

struct RowTransforms {
  void (*forward)(float* line, float* spectrum, const Tables& tables);
  void (*inverse)(const float* spectrum, float* line, const Tables& tables);
};

struct ColumnTransforms {
  Transform forward_to_eights, inverse_from_eights;
  void (*sandwich)(float* line, int place, const Tables& tables, Directions directions, Leaf leaf, const void* context);
};

// Of real rows of this width.
RowTransforms row_transforms(int width) {
  switch (width) {
    case 32:
      return {forward_rows<16>, inverse_rows<16>};
    case 64:
      return {forward_rows<32>, inverse_rows<32>};
    case 128:
      return {forward_rows<64>, inverse_rows<64>};
    case 256:
      return {forward_rows<128>, inverse_rows<128>};
    case 512:
      return {forward_rows<256>, inverse_rows<256>};
    case 1024:
      return {forward_rows<512>, inverse_rows<512>};
    default:
      return {forward_rows<1024>, inverse_rows<1024>};
  }
}

ColumnTransforms column_transforms(int height) {
  switch (height) {
    case 32:
      return {forward<32, 8>, inverse<32, 8>, sandwich<32>};
    case 64:
      return {forward<64, 8>, inverse<64, 8>, sandwich<64>};
    case 128:
      return {forward<128, 8>, inverse<128, 8>, sandwich<128>};
    case 256:
      return {forward<256, 8>, inverse<256, 8>, sandwich<256>};
    case 512:
      return {forward<512, 8>, inverse<512, 8>, sandwich<512>};
    case 1024:
      return {forward<1024, 8>, inverse<1024, 8>, sandwich<1024>};
    default:
      return {forward<2048, 8>, inverse<2048, 8>, sandwich<2048>};
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
