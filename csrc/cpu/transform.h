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
template <int L, int last = 1>
void forward(float* line, const Tables& tables) {
  if constexpr (L > last) {
    constexpr int M = L / first_radix(L);
    forward_stage<L>(line, tables);
    if constexpr (M > last)
      for (int part = 0; part < L; part += M) forward<M, last>(line + part * line_step, tables);
  }
}

template <int L, int last = 1>
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

struct Transforms {
  using Transform = void (*)(float* line, const Tables& tables);
  Transform forward, inverse, forward_to_eights, inverse_from_eights;
  void (*sandwich)(float* line, int place, const Tables& tables, Directions directions, Leaf leaf, const void* context);
};

template <int L>
Transforms transforms_of() {
  if constexpr (L < min_size)
    return {forward<L>, inverse<L>, nullptr, nullptr, nullptr};
  else
    return {forward<L>, inverse<L>, forward<L, 8>, inverse<L, 8>, sandwich<L>};
}

Transforms transforms(int length) {
  switch (length) {
    case 16: return transforms_of<16>();
    case 32: return transforms_of<32>();
    case 64: return transforms_of<64>();
    case 128: return transforms_of<128>();
    case 256: return transforms_of<256>();
    case 512: return transforms_of<512>();
    case 1024: return transforms_of<1024>();
    default: return transforms_of<2048>();
  }
}

// Spectra of even and odd columns to twice the spectrum of the real rows, in place, and back. Place 0 carries the
// frequencies 0 and M, both real. Places p and q of one power of two carry k and M - k.
void separate_rows(float* line, int M, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  const Complexes zero = load_element(line, 0), middle = load_element(line, 1);
  store_element(line, 0, {zero.re + zero.im, zero.re - zero.im});
  store_element(line, 1, {2.0f * middle.re, -2.0f * middle.im});
  for (int first = 2; first < M; first *= 2)
    for (int p = first, q = 2 * first - 1; p < q; ++p, --q) {
      Complexes a = load_element(line, p), b = load_element(line, q);
      separate(a, b, twiddles[p]);
      store_element(line, p, a);
      store_element(line, q, b);
    }
}

void join_rows(float* line, int M, const Tables& tables) {
  const Twiddle* twiddles = tables.reals[log2_of(M)].data();
  const Complexes zero = load_element(line, 0), middle = load_element(line, 1);
  store_element(line, 0, {zero.re + zero.im, zero.re - zero.im});
  store_element(line, 1, {2.0f * middle.re, -2.0f * middle.im});
  for (int first = 2; first < M; first *= 2)
    for (int p = first, q = 2 * first - 1; p < q; ++p, --q) {
      Complexes a = load_element(line, p), b = load_element(line, q);
      join(a, b, twiddles[p]);
      store_element(line, p, a);
      store_element(line, q, b);
    }
}

}  // namespace
}  // namespace tdas_ops::cpu
