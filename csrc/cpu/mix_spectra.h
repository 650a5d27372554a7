// The filter between two transforms that are made elsewhere, where a matrix at every frequency mixes the channels of a
// sample, see SpectraArgs. Columns come in vectors, those of narrow planes one by one: T is Floats or Real.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "memory.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

template <class T>
constexpr int width_of = sizeof(T) / sizeof(Real);

// Interleaved complex numbers from `at` on, or with `back` from there to lower addresses.
template <class T, bool back>
TDAS_OPS_INLINE Complex<T> load_complex(const Real* at) {
  if constexpr (width_of<T> == 1) {
    return {at[0], at[1]};
  } else {
    const Real* first = back ? at - 2 * (lanes - 1) : at;
    const Floats low = load_loose(first), high = load_loose(first + lanes);
    return {shuffled(low, high, [](int i) { return 2 * (back ? lanes - 1 - i : i); }),
            shuffled(low, high, [](int i) { return 2 * (back ? lanes - 1 - i : i) + 1; })};
  }
}

template <class T, bool back>
TDAS_OPS_INLINE T load_real(const Real* at) {
  if constexpr (width_of<T> == 1)
    return *at;
  else if constexpr (back) {
    const T ahead = load_loose(at - (lanes - 1));
    return shuffled(ahead, ahead, [](int i) { return lanes - 1 - i; });
  } else
    return load_loose(at);
}

template <class T, bool back>
TDAS_OPS_INLINE void store_complex(Real* at, Complex<T> value) {
  if constexpr (width_of<T> == 1) {
    at[0] = value.re;
    at[1] = value.im;
  } else {
    Real* first = back ? at - 2 * (lanes - 1) : at;
    const auto low = [](int i) { return i % 2 * lanes + (back ? lanes - 1 - i / 2 : i / 2); };
    const auto high = [](int i) { return i % 2 * lanes + (back ? lanes / 2 - 1 - i / 2 : lanes / 2 + i / 2); };
    store_loose(first, shuffled(value.re, value.im, low));
    store_loose(first + lanes, shuffled(value.re, value.im, high));
  }
}

// One sample: x is F of the channels, [C, H, K], g their normals.
struct MixedSample {
  const SpectraArgs& args;
  Real* to;
  const Real *from, *normals, *kept;
  int64_t C, H, W, K, columns;  // columns: of g
  Real data, noise, kept_scale;

  MixedSample(const SpectraArgs& args, int64_t b)
      : args(args), C(args.channels), H(args.height), W(args.width), K(W % 2 == 0 ? W / 2 : W), columns((W + 1) / 2) {
    const int64_t size = 2 * C * H * K;
    const auto part = [&](const Real* all, int64_t each) { return all == nullptr ? nullptr : all + b * each; };
    to = args.to + b * size;
    from = part(args.from, size);
    kept = part(args.kept, size);
    normals = part(args.normals, 2 * C * H * columns);
    // `separate`, `join` and their like for one column leave factors of 2.
    data = (W % 2 == 0 ? 0.25f : 1.0f) * (args.data == nullptr ? 1.0f : args.data[b]);
    noise = (W % 2 == 0 ? 0.5f : 1.0f) * std::sqrt(Real(0.5) * H * W) * (args.noise == nullptr ? 1.0f : args.noise[b]);
    kept_scale = args.kept_scale == nullptr ? 1.0f : args.kept_scale[b];
  }

  int64_t place(int64_t c, int64_t h, int64_t k) const { return 2 * ((c * H + h) * K + k); }

  template <class T, bool back>
  TDAS_OPS_INLINE Complex<T> x(int64_t c, int64_t h, int64_t k) const {
    return from == nullptr ? Complex<T>{} : load_complex<T, back>(from + place(c, h, k));
  }
  template <class T, bool back>
  TDAS_OPS_INLINE Complex<T> g(int64_t c, int64_t h, int64_t k) const {
    return normals == nullptr ? Complex<T>{} : load_complex<T, back>(normals + 2 * ((c * H + h) * columns + k));
  }
  // Entry (row, column) of the matrices of frequencies (h, k) onwards or backwards.
  template <class T, bool back, bool complex>
  TDAS_OPS_INLINE Complex<T> entry(int64_t row, int64_t column, int64_t h, int64_t k) const {
    const int64_t at = ((row * C + column) * H + h) * (W / 2 + 1) + k;
    if constexpr (complex) return load_complex<T, back>(args.matrices + 2 * at);
    return {load_real<T, back>(args.matrices + at), T{}};
  }
};

// a b, or conj(a) b, added to `sum`.
template <bool complex, bool conjugate, class T>
TDAS_OPS_INLINE void add_product(Complex<T>& sum, Complex<T> a, Complex<T> b) {
  sum.re += a.re * b.re;
  sum.im += a.re * b.im;
  if constexpr (complex) {
    sum.re += conjugate ? a.im * b.im : -(a.im * b.im);
    sum.im += conjugate ? -(a.im * b.re) : a.im * b.re;
  }
}

// The channels of frequencies (h, k) onwards or backwards: x becomes what SpectraArgs says, with the noise g.
template <class T, bool back, bool complex>
TDAS_OPS_INLINE void mix(const MixedSample& sample, Complex<T>* x, Complex<T>* g, int64_t h, int64_t k) {
  const int64_t C = sample.C;
  const bool adjoint = sample.args.adjoint || sample.args.power == 2;
  for (int64_t c = 0; c < C; ++c) {
    Complex<T> sum{};
    if (adjoint)
      for (int64_t i = 0; i < C; ++i) add_product<complex, true>(sum, sample.entry<T, back, complex>(i, c, h, k), x[i]);
    else
      sum = x[c];
    g[c] = {sample.data * sum.re + sample.noise * g[c].re, sample.data * sum.im + sample.noise * g[c].im};
  }
  for (int64_t c = 0; c < C; ++c) {
    Complex<T> sum{};
    if (sample.args.adjoint)
      sum = g[c];
    else
      for (int64_t i = 0; i < C; ++i)
        add_product<complex, false>(sum, sample.entry<T, back, complex>(c, i, h, k), g[i]);
    x[c] = sum;
  }
}

// Vectors of all channels: of a frequency, of its mirror image, and their noise.
template <class T>
struct Channels {
  Complex<T>*x, *y, *g, *other;

  Channels(Real* memory, int64_t C) {
    x = reinterpret_cast<Complex<T>*>(memory);
    y = x + C;
    g = y + C;
    other = g + C;
  }
  static constexpr int64_t floats = 8 * width_of<T>;  // a channel
};

// Column 0 holds columns 0 and M of the spectrum, rows h and -h together.
template <bool complex>
void mix_first_column(const MixedSample& sample, Channels<Real> channels, int64_t h, int64_t mirror) {
  const bool self = h == mirror;
  for (int64_t c = 0; c < sample.C; ++c) {
    const Complex<Real> a = sample.x<Real, false>(c, h, 0), b = sample.x<Real, false>(c, mirror, 0);
    const Complex<Real> g = sample.g<Real, false>(c, h, 0), other = sample.g<Real, false>(c, mirror, 0);
    const Complex<Real> even = a + conj(b), odd = quarter<false>(a - conj(b));
    channels.x[c] = even + odd;
    channels.y[c] = even - odd;
    channels.g[c] = self ? Complex<Real>{root_two * g.re, 0.0f} : g;
    channels.other[c] = self ? Complex<Real>{root_two * g.im, 0.0f} : other;
  }
  mix<Real, false, complex>(sample, channels.x, channels.g, h, 0);
  mix<Real, false, complex>(sample, channels.y, channels.other, h, sample.W / 2);
  for (int64_t c = 0; c < sample.C; ++c) {
    const Complex<Real> sum = channels.x[c] + channels.y[c], difference = quarter<true>(channels.x[c] - channels.y[c]);
    store_complex<Real, false>(sample.to + sample.place(c, h, 0), sum + difference);
    if (!self) store_complex<Real, false>(sample.to + sample.place(c, mirror, 0), conj(sum - difference));
  }
}

// Columns k onwards of rows h and -h of packed planes: place (h, k) goes with (-h, M - k).
template <class T, bool complex>
TDAS_OPS_INLINE void mix_columns(const MixedSample& sample, Channels<T> channels, int64_t h, int64_t mirror,
                                 int64_t k) {
  const int64_t M = sample.W / 2;
  const Real *cosines = sample.args.cosines + k, *sines = sample.args.sines + k;
  const TwiddleOf<T> twiddle = {load_real<T, false>(cosines), load_real<T, false>(sines)};
  for (int64_t c = 0; c < sample.C; ++c) {
    Complex<T> a = sample.x<T, false>(c, h, k), b = sample.x<T, true>(c, mirror, M - k);
    separate(a, b, twiddle);
    channels.x[c] = a;
    channels.y[c] = b;
    channels.g[c] = sample.g<T, false>(c, h, k);
    channels.other[c] = sample.g<T, true>(c, mirror, M - k);
  }
  mix<T, false, complex>(sample, channels.x, channels.g, h, k);
  mix<T, true, complex>(sample, channels.y, channels.other, mirror, M - k);
  for (int64_t c = 0; c < sample.C; ++c) {
    Complex<T> a = channels.x[c], b = channels.y[c];
    join(a, b, twiddle);
    store_complex<T, false>(sample.to + sample.place(c, h, k), a);
    if (h != mirror) store_complex<T, true>(sample.to + sample.place(c, mirror, M - k), b);
  }
}

template <bool complex>
void mix_row_pair(const MixedSample& sample, Real* memory, int64_t h) {
  const int64_t M = sample.W / 2, mirror = (sample.H - h) % sample.H;
  const Channels<Floats> vectors(memory, sample.C);
  const Channels<Real> numbers(memory, sample.C);
  mix_first_column<complex>(sample, numbers, h, mirror);
  if (M <= lanes)
    for (int64_t k = 1; k < M; ++k) mix_columns<Real, complex>(sample, numbers, h, mirror, k);
  else  // the last vector does some columns again
    for (int64_t k = 1; k < M; k += lanes)
      mix_columns<Floats, complex>(sample, vectors, h, mirror, std::min(k, M - lanes));
}

// Odd W: every frequency by itself, one half being the conjugate of the other.
template <bool complex>
void mix_full_row(const MixedSample& sample, Real* memory, int64_t h) {
  const Channels<Real> channels(memory, sample.C);
  const int64_t H = sample.H, W = sample.W;
  for (int64_t k = 0; k < W; ++k) {
    const bool mirrored = k >= sample.columns;
    const int64_t row = mirrored ? (H - h) % H : h, column = mirrored ? W - k : k;
    for (int64_t c = 0; c < sample.C; ++c) {
      const Complex<Real> x = sample.x<Real, false>(c, h, k);
      Complex<Real> g = sample.g<Real, false>(c, row, column);
      if (column == 0 && 2 * row > H) g = conj(sample.g<Real, false>(c, H - row, 0));
      if (column == 0 && 2 * row % H == 0) g = {root_two * g.re, 0.0f};
      channels.x[c] = mirrored ? conj(x) : x;
      channels.g[c] = g;
    }
    mix<Real, false, complex>(sample, channels.x, channels.g, row, column);
    for (int64_t c = 0; c < sample.C; ++c) {
      const Complex<Real> y = channels.x[c];
      store_complex<Real, false>(sample.to + sample.place(c, h, k), mirrored ? conj(y) : y);
    }
  }
}

void add_kept(const MixedSample& sample, int64_t h) {
  if (sample.kept == nullptr) return;
  for (int64_t c = 0; c < sample.C; ++c) {
    const int64_t at = sample.place(c, h, 0);
    for (int64_t i = at; i < at + 2 * sample.K; ++i) sample.to[i] += sample.kept_scale * sample.kept[i];
  }
}

void mix_spectra(const SpectraArgs& args, int64_t begin, int64_t end) {
  Scratch scratch;
  Real* memory = scratch.fit(args.channels * Channels<Floats>::floats);
  for (int64_t index = begin; index < end; ++index) {
    const MixedSample sample(args, index % args.batch);
    const int64_t h = index / args.batch, mirror = (args.height - h) % args.height;
    if (args.width % 2 == 0) {
      (args.complex_matrices ? mix_row_pair<true> : mix_row_pair<false>)(sample, memory, h);
      if (mirror != h) add_kept(sample, mirror);
    } else {
      (args.complex_matrices ? mix_full_row<true> : mix_full_row<false>)(sample, memory, h);
    }
    add_kept(sample, h);
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
