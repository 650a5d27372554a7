// Transforms of `lanes` lines at once. A line is one complex vector an element, see vector.h.
#pragma once

#include "tables.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

// What happens to 8 neighbouring places in the middle of a sandwich, `place` being the first of them: the last stage of
// the transform, whatever the leaf is for, and the first stage back.
using Leaf = void (*)(Real* line, int place, const void* context);

template <int L>
__attribute__((noinline)) void forward_stage(Real* __restrict line, const Tables& tables) {
  constexpr int R = first_radix(L), M = L / R;
  const Twiddle* twiddles = tables.stages[log2_of(L)].data();
  for (int j = 0; j < M; ++j, twiddles += R - 1) {
    Complexes x[R];
    load_elements(x, line, j, M);
    butterfly<R, false>(x);
    TDAS_OPS_UNROLL
    for (int k = 0; k < R; ++k)
      store_element(line, reversed(k, R) * M + j, M > 1 && k > 0 ? turned<false>(x[k], twiddles[k - 1]) : x[k]);
  }
}

template <int L>
__attribute__((noinline)) void inverse_stage(Real* __restrict line, const Tables& tables) {
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
    store_elements(line, j, M, x);
  }
}

// Depth first: a part is finished while it is in the cache. Parts of `last` elements are left as they are.
template <int L, int last>
void forward(Real* line, const Tables& tables) {
  if constexpr (L > last) {
    constexpr int M = L / first_radix(L);
    forward_stage<L>(line, tables);
    if constexpr (M > last)
      for (int part = 0; part < L; part += M) forward<M, last>(line + part * line_step, tables);
  }
}

template <int L, int last>
void inverse(Real* line, const Tables& tables) {
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
void sandwich(Real* line, int place, const Tables& tables, Directions directions, Leaf leaf, const void* context) {
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

// The ties of such an eight x with the eight y that mirrors it, x itself but for Mirror::other; frequencies are `step`
// apart.
template <Mirror mirror, bool inverse>
TDAS_OPS_INLINE void tie_eights(Complexes (&x)[8], Complexes (&y)[8], const Twiddle* at_x, const Twiddle* at_y,
                                int step) {
  constexpr int start = mirror == Mirror::zero ? 1 : 0, last = 7 + start;
  const auto tie = [](Complexes& a, Complexes& b, Twiddle t) { inverse ? join(a, b, t) : separate(a, b, t); };
  if constexpr (mirror == Mirror::zero) separate_zero(x[0], x[4]);
  TDAS_OPS_UNROLL
  for (int i = start; i < 4; ++i) {
    tie(x[i], y[last - i], at_x[i * step]);
    if constexpr (mirror == Mirror::other) tie(y[i], x[last - i], at_y[i * step]);
  }
}

// The last stage forward, on the eight of `first` and the one that mirrors it, together with the separation.
template <Mirror mirror, int M>
__attribute__((noinline)) void separate_eights(const Real* line, Real* spectrum, int first, const Tables& tables) {
  constexpr int step = M / 8;
  const int other = step - first;
  const uint16_t* places = tables.places[log2_of(M)].data();
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  Complexes x[8], rest[8];
  load_elements(x, line, places[first], 1);
  butterfly<8, false>(x);
  if constexpr (mirror == Mirror::other) {
    load_elements(rest, line, places[other], 1);
    butterfly<8, false>(rest);
  }
  tie_eights<mirror, false>(x, mirror == Mirror::other ? rest : x, twiddles + first, twiddles + other, step);
  store_elements(spectrum, first, step, x);
  if constexpr (mirror == Mirror::other) store_elements(spectrum, other, step, rest);
}

// The inverse: the first stage back, after the spectra are joined.
template <Mirror mirror, int M>
__attribute__((noinline)) void join_eights(const Real* spectrum, Real* line, int first, const Tables& tables) {
  constexpr int step = M / 8;
  const int other = step - first;
  const uint16_t* places = tables.places[log2_of(M)].data();
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  Complexes x[8], rest[8];
  load_elements(x, spectrum, first, step);
  if constexpr (mirror == Mirror::other) load_elements(rest, spectrum, other, step);
  tie_eights<mirror, true>(x, mirror == Mirror::other ? rest : x, twiddles + first, twiddles + other, step);
  butterfly<8, true>(x);
  store_elements(line, places[first], 1, x);
  if constexpr (mirror == Mirror::other) {
    butterfly<8, true>(rest);
    store_elements(line, places[other], 1, rest);
  }
}

// Rows of 32: the whole line at once.
void separate_sixteen(const Real* line, Real* spectrum, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(16)].data();
  Complexes x[16];
  load_elements(x, line, 0, 1);
  butterfly<16, false>(x);
  separate_zero(x[0], x[8]);
  TDAS_OPS_UNROLL
  for (int k = 1; k < 8; ++k) separate(x[k], x[16 - k], twiddles[k]);
  store_elements(spectrum, 0, 1, x);
}

void join_sixteen(const Real* spectrum, Real* line, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(16)].data();
  Complexes x[16];
  load_elements(x, spectrum, 0, 1);
  separate_zero(x[0], x[8]);
  TDAS_OPS_UNROLL
  for (int k = 1; k < 8; ++k) join(x[k], x[16 - k], twiddles[k]);
  butterfly<16, true>(x);
  store_elements(line, 0, 1, x);
}

// `line` holds the columns of the rows and is destroyed, `spectrum` the M frequencies in their natural order.
template <int M>
void forward_rows(Real* line, Real* spectrum, const Tables& tables) {
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
void inverse_rows(const Real* spectrum, Real* line, const Tables& tables) {
  if constexpr (M == 16) {
    join_sixteen(spectrum, line, tables);
  } else {
    join_eights<Mirror::zero, M>(spectrum, line, 0, tables);
    for (int first = 1; first < M / 16; ++first) join_eights<Mirror::other, M>(spectrum, line, first, tables);
    join_eights<Mirror::own, M>(spectrum, line, M / 16, tables);
    inverse<M, 8>(line, tables);
  }
}

using Transform = void (*)(Real* line, const Tables& tables);

struct RowTransforms {
  void (*forward)(Real* line, Real* spectrum, const Tables& tables);
  void (*inverse)(const Real* spectrum, Real* line, const Tables& tables);
};

struct ColumnTransforms {
  Transform forward_to_eights, inverse_from_eights;
  void (*sandwich)(Real* line, int place, const Tables& tables, Directions directions, Leaf leaf, const void* context);
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
