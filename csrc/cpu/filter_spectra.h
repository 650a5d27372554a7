// The filter between two transforms that are made elsewhere, see SpectraArgs.
#pragma once

#include <algorithm>
#include <cmath>

#include "../update.h"
#include "kernels.h"
#include "memory.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

// A complex row as real and imaginary parts, padded to whole vectors.
struct SplitRow {
  Real *re, *im;
};

void split(SplitRow row, const Real* from, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    row.re[k] = from[2 * k];
    row.im[k] = from[2 * k + 1];
  }
}

// Column k of the result is column count - k.
void split_mirrored(SplitRow row, const Real* from, int64_t count) {
  row.re[0] = from[0];
  row.im[0] = from[1];
  for (int64_t k = 1; k < count; ++k) {
    row.re[k] = from[2 * (count - k)];
    row.im[k] = from[2 * (count - k) + 1];
  }
}

void join_split(Real* to, SplitRow row, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    to[2 * k] = row.re[k];
    to[2 * k + 1] = row.im[k];
  }
}

void join_mirrored(Real* to, SplitRow row, int64_t count) {
  for (int64_t k = 1; k < count; ++k) {
    to[2 * (count - k)] = row.re[k];
    to[2 * (count - k) + 1] = row.im[k];
  }
}

// What a frequency is multiplied by, beside the masks.
struct Scales {
  Real data, skew, noise;
  int power;
};

// T is Floats or Real.
template <class T>
TDAS_OPS_INLINE Complex<T> filtered(Complex<T> x, T R, T w, Complex<T> g, const Scales& scales) {
  T f = scales.data + T{};
  if (scales.power == SpectraArgs::skew_only) f = T{};
  if (scales.power > 0) f *= R;
  if (scales.power > 1) f *= R;
  return with_noise(with_skew({f * x.re, f * x.im}, x, scales.skew * w), g, R, scales.noise);
}

class SplitRows {
 public:
  explicit SplitRows(int64_t count)
      : padded_((count + lanes - 1) / lanes * lanes), floats_(scratch_.fit(rows * padded_)) {
    std::fill_n(floats_, rows * padded_, 0.0f);
  }
  Real* operator[](int row) { return floats_ + row * padded_; }
  SplitRow pair(int row) { return {(*this)[row], (*this)[row + 1]}; }

 private:
  static constexpr int rows = 16;
  Scratch scratch_;
  int64_t padded_;
  Real* floats_;
};

struct SpectrumPlane {
  Real* to;
  const Real *from, *normals, *kept, *freq, *skew;
  int64_t H, W;
  Scales scales;
  Real kept_scale;

  Complex<Real> x(int64_t at) const {
    return from == nullptr ? Complex<Real>{} : Complex<Real>{from[2 * at], from[2 * at + 1]};
  }
  Complex<Real> g(int64_t at) const {
    return normals == nullptr ? Complex<Real>{} : Complex<Real>{normals[2 * at], normals[2 * at + 1]};
  }
  Real R(int64_t at) const { return freq == nullptr ? 1.0f : freq[at]; }
  Real w(int64_t at) const { return skew == nullptr ? 0.0f : skew[at]; }
};

// Column 0 holds columns 0 and M of the spectrum, rows h and -h together.
void filter_first_column(const SpectrumPlane& plane, int64_t h, int64_t mirror) {
  const int64_t M = plane.W / 2, pitch = M + 1;
  const Complex<Real> a = plane.x(h * M), b = plane.x(mirror * M);
  const Complex<Real> g = plane.g(h * M), other = plane.g(mirror * M);
  const bool self = h == mirror;
  const Complex<Real> even = a + conj(b), odd = quarter<false>(a - conj(b));
  const Complex<Real> first_noise = self ? Complex<Real>{root_two * g.re, 0.0f} : g;
  const Complex<Real> last_noise = self ? Complex<Real>{root_two * g.im, 0.0f} : other;
  const Complex<Real> first = filtered(even + odd, plane.R(h * pitch), plane.w(h * pitch), first_noise, plane.scales);
  const Complex<Real> last =
      filtered(even - odd, plane.R(h * pitch + M), plane.w(h * pitch + M), last_noise, plane.scales);
  const Complex<Real> sum = first + last, difference = quarter<true>(first - last);
  const Complex<Real> y = sum + difference, z = conj(sum - difference);
  plane.to[2 * h * M] = y.re;
  plane.to[2 * h * M + 1] = y.im;
  plane.to[2 * mirror * M] = self ? y.re : z.re;
  plane.to[2 * mirror * M + 1] = self ? y.im : z.im;
}

// Rows h and -h of a packed plane: place (h, k) goes with (-h, M - k). `separate` and `join` leave a factor of 4, which
// the scales hold.
void filter_row_pair(const SpectrumPlane& plane, int64_t h, int64_t mirror, const SpectraArgs& args, SplitRows& rows) {
  const int64_t M = plane.W / 2, pitch = M + 1;
  const SplitRow a = rows.pair(0), b = rows.pair(2), g = rows.pair(4), other = rows.pair(6);
  const SplitRow to = rows.pair(12), mirrored_to = rows.pair(14);
  Real *R = rows[8], *mirrored_R = rows[9], *w = rows[10], *mirrored_w = rows[11];
  if (plane.from != nullptr) {
    split(a, plane.from + 2 * h * M, M);
    split_mirrored(b, plane.from + 2 * mirror * M, M);
  }
  if (plane.normals != nullptr) {
    split(g, plane.normals + 2 * h * M, M);
    split_mirrored(other, plane.normals + 2 * mirror * M, M);
  }
  for (int64_t k = 0; k < M; ++k) {
    R[k] = plane.R(h * pitch + k);
    mirrored_R[k] = plane.R(mirror * pitch + M - k);
  }
  if (plane.skew != nullptr)
    for (int64_t k = 0; k < M; ++k) {
      w[k] = plane.w(h * pitch + k);
      mirrored_w[k] = plane.w(mirror * pitch + M - k);
    }
  filter_first_column(plane, h, mirror);
  const Complex<Real> first = {plane.to[2 * h * M], plane.to[2 * h * M + 1]};
  for (int64_t k = 0; k < M; k += lanes) {
    Complexes x = {load(a.re + k), load(a.im + k)}, y = {load(b.re + k), load(b.im + k)};
    const TwiddleOf<Floats> twiddle = {load_loose(args.cosines + k), load_loose(args.sines + k)};
    separate(x, y, twiddle);
    x = filtered(x, load(R + k), load(w + k), {load(g.re + k), load(g.im + k)}, plane.scales);
    y = filtered(y, load(mirrored_R + k), load(mirrored_w + k), {load(other.re + k), load(other.im + k)}, plane.scales);
    join(x, y, twiddle);
    store(to.re + k, x.re);
    store(to.im + k, x.im);
    store(mirrored_to.re + k, y.re);
    store(mirrored_to.im + k, y.im);
  }
  to.re[0] = first.re;
  to.im[0] = first.im;
  join_split(plane.to + 2 * h * M, to, M);
  if (mirror != h) join_mirrored(plane.to + 2 * mirror * M, mirrored_to, M);
}

// Odd W: every frequency by itself.
void filter_full_plane(const SpectrumPlane& plane) {
  const int64_t H = plane.H, W = plane.W, columns = (W + 1) / 2;
  for (int64_t h = 0; h < H; ++h)
    for (int64_t k = 0; k < W; ++k) {
      const bool mirrored = k >= columns;
      const int64_t row = mirrored ? (H - h) % H : h, column = mirrored ? W - k : k, at = row * columns + column;
      Complex<Real> g = plane.g(at);
      if (column == 0 && 2 * row > H) g = conj(plane.g((H - row) * columns));
      if (column == 0 && 2 * row % H == 0) g = {root_two * g.re, 0.0f};
      const Real sign = mirrored ? -1.0f : 1.0f;
      const Complex<Real> y =
          filtered(plane.x(h * W + k), plane.R(at), sign * plane.w(at), {g.re, sign * g.im}, plane.scales);
      plane.to[2 * (h * W + k)] = y.re;
      plane.to[2 * (h * W + k) + 1] = y.im;
    }
}

void filter_spectra(const SpectraArgs& args, int64_t begin, int64_t end) {
  const int64_t H = args.height, W = args.width, half = (W + 1) / 2, mask = H * (W / 2 + 1);
  const bool packed = W % 2 == 0;
  const int64_t size = 2 * H * (packed ? W / 2 : W);
  const Real data = packed ? 0.25f : 1.0f, noise = (packed ? 0.5f : 1.0f) * std::sqrt(Real(0.5) * H * W);
  SplitRows rows(packed ? W / 2 : 1);
  for (int64_t index = begin; index < end; ++index) {
    const int64_t b = index / args.channels, c = index % args.channels;
    const Real scale = args.data == nullptr ? 1.0f : args.data[b];
    const SpectrumPlane plane = {
        args.to + index * size,
        args.from == nullptr ? nullptr : args.from + index * size,
        args.normals == nullptr ? nullptr : args.normals + index * 2 * H * half,
        args.kept == nullptr ? nullptr : args.kept + index * size,
        args.freq == nullptr ? nullptr : args.freq + c * mask,
        args.skew == nullptr ? nullptr : args.skew + c * mask,
        H,
        W,
        {data * scale, data * scale, noise * (args.noise == nullptr ? 1.0f : args.noise[b]), args.power},
        args.kept_scale == nullptr ? 1.0f : args.kept_scale[b]};
    if (plane.from == nullptr && plane.normals == nullptr)
      std::fill_n(plane.to, size, 0.0f);
    else if (packed)
      for (int64_t h = 0; h <= H / 2; ++h) filter_row_pair(plane, h, (H - h) % H, args, rows);
    else
      filter_full_plane(plane);
    if (plane.kept != nullptr)
      for (int64_t i = 0; i < size; ++i) plane.to[i] += plane.kept_scale * plane.kept[i];
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
