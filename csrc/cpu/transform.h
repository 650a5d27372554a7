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

template <bool inverse>
TDAS_OPS_INLINE void tie(Complexes& a, Complexes& b, Twiddle t) {
  if constexpr (inverse)
    join(a, b, t);
  else
    separate(a, b, t);
}

// Which eight of frequencies first + i N / 8 holds the mirror images N - k of one such eight: for first = 0 itself,
// where i is tied to 8 - i; for first = N / 16 itself, else that of N / 8 - first, where i is tied to 7 - i.
enum class Mirror { zero, own, other };

template <Mirror mirror, bool inverse>
__attribute__((noinline)) void real_eights(float* line, float* other, const Twiddle* twiddles,
                                           const Twiddle* other_twiddles) {
  constexpr int start = mirror == Mirror::zero ? 1 : 0, last = 7 + start;
  Complexes x[8], rest[8];
  Complexes(&y)[8] = mirror == Mirror::other ? rest : x;
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) x[i] = load_element(line, inverse ? reversed(i, 8) : i);
  if constexpr (!inverse) butterfly<8, false>(x);
  if constexpr (mirror == Mirror::other) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < 8; ++i) y[i] = load_element(other, inverse ? reversed(i, 8) : i);
    if constexpr (!inverse) butterfly<8, false>(y);
  }
  if constexpr (mirror == Mirror::zero) separate_zero(x[0], x[4]);
  TDAS_OPS_UNROLL
  for (int i = start; i < 4; ++i) {
    tie<inverse>(x[i], y[last - i], twiddles[reversed(i, 8)]);
    if constexpr (mirror == Mirror::other) tie<inverse>(y[i], x[last - i], other_twiddles[reversed(i, 8)]);
  }
  if constexpr (inverse) butterfly<8, true>(x);
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) store_element(line, inverse ? i : reversed(i, 8), x[i]);
  if constexpr (mirror == Mirror::other) {
    if constexpr (inverse) butterfly<8, true>(y);
    TDAS_OPS_UNROLL
    for (int i = 0; i < 8; ++i) store_element(other, inverse ? i : reversed(i, 8), y[i]);
  }
}

// The last stage forward or the first one back, together with the separation.
template <int M, bool inverse>
void real_stage(float* line, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  if constexpr (M == 16) {
    Complexes x[16];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) x[i] = load_element(line, inverse ? reversed(i, 16) : i);
    if constexpr (!inverse) butterfly<16, false>(x);
    separate_zero(x[0], x[8]);
    TDAS_OPS_UNROLL
    for (int k = 1; k < 8; ++k) tie<inverse>(x[k], x[16 - k], twiddles[reversed(k, 16)]);
    if constexpr (inverse) butterfly<16, true>(x);
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) store_element(line, inverse ? i : reversed(i, 16), x[i]);
  } else {
    const uint16_t* places = tables.places[log2_of(M)].data();
    real_eights<Mirror::zero, inverse>(line, line, twiddles, twiddles);
    for (int first = 1; first < M / 16; ++first) {
      const int place = places[first], other = places[M / 8 - first];
      real_eights<Mirror::other, inverse>(line + place * line_step, line + other * line_step, twiddles + place,
                                          twiddles + other);
    }
    const int own = places[M / 16];
    real_eights<Mirror::own, inverse>(line + own * line_step, line, twiddles + own, twiddles);
  }
}

template <int M>
void forward_rows(float* line, const Tables& tables) {
  forward<M, M == 16 ? 16 : 8>(line, tables);
  real_stage<M, false>(line, tables);
}

template <int M>
void inverse_rows(float* line, const Tables& tables) {
  real_stage<M, true>(line, tables);
  inverse<M, M == 16 ? 16 : 8>(line, tables);
}

using Transform = void (*)(float* line, const Tables& tables);

struct RowTransforms {
  Transform forward, inverse;
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
