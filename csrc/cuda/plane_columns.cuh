// A thread with 32 frequencies of a column of the half spectrum: the transform along it, the filter and the noise.
#pragma once

#include "../update.h"
#include "normals.cuh"
#include "plane_shape.cuh"

namespace tdas_ops::cuda {

template <int H, int W, Kind kind>
struct PlaneColumns {
  using Shape = PlaneShape<H, W>;
  static constexpr int classes = Shape::classes, rows = Shape::rows, halves = Shape::halves, columns = Shape::columns;
  static constexpr int step = classes * halves;  // from a frequency of a thread to its next

  const PlaneWork& work;
  Position at;
  float* numbers;  // shared memory of the column
  int kw;          // the column; 0 is a pair of columns of real rows, 0 and W / 2
  int row_class, half;

  TDAS_OPS_DEVICE PlaneColumns(const PlaneWork& work, float* shared, uint32_t first_plane, int thread)
      : work(work),
        at(work, first_plane + thread % Shape::planes),
        kw(thread / (Shape::planes * classes) % columns),
        row_class(thread / Shape::planes % classes),
        half(halves == 2 ? thread / (Shape::planes * classes * columns) : 0) {
    numbers = shared + thread % Shape::planes * Shape::plane_pitch + row_class * Shape::class_pitch +
              kw * Shape::column_pitch;
  }

  TDAS_OPS_DEVICE void forward(Complex<float> (&X)[32]) const {
    const float4* pairs = reinterpret_cast<const float4*>(numbers);
    Complex<float> in[32];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float4 pair = pairs[i];
      in[2 * i] = {pair.x, pair.y};
      in[2 * i + 1] = {pair.z, pair.w};
    }
    if constexpr (halves == 2) {
      const float sign = half == 0 ? 1.0f : -1.0f;
      TDAS_OPS_UNROLL
      for (int i = 0; i < 16; ++i) {
        const float4 pair = pairs[16 + i];
        in[2 * i] = fused(sign, Complex<float>{pair.x, pair.y}, in[2 * i]);
        in[2 * i + 1] = fused(sign, Complex<float>{pair.z, pair.w}, in[2 * i + 1]);
      }
      if (half == 1) unrolled<32>([&](auto h) { in[h] = turned<false>(in[h], twiddle(h, 64)); });
      __syncthreads();
    }
    transform<32, false>(in, X);
    separate(X);
  }

  TDAS_OPS_DEVICE void inverse(Complex<float> (&X)[32]) const {
    join(X);
    Complex<float> out[32];
    transform<32, true>(X, out);
    if constexpr (halves == 2) {
      if (half == 1) unrolled<32>([&](auto h) { out[h] = turned<true>(out[h], twiddle(h, 64)); });
      __syncthreads();
    }
    float4* pairs = reinterpret_cast<float4*>(numbers) + half * 16;
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i)
      pairs[i] = make_float4(out[2 * i].re, out[2 * i].im, out[2 * i + 1].re, out[2 * i + 1].im);
  }

  // d (R^2 + i w) X + n R g, without X for kind noise.
  TDAS_OPS_DEVICE void filter(float d, float n, bool noisy, Complex<float> (&X)[32]) const {
    const MaskColumn R(*this, work.masks.freq), w(*this, kind == Kind::skewed_drift ? work.masks.skew : nullptr);
    const float data = kw == 0 ? 0.5f * d : d;  // `separate` leaves twice the values
    const float square = kind == Kind::skewed_drift && !work.square ? 0.0f : data;
    const float skew[2] = {data, kw == 0 ? -data : data};  // w(H - h, W / 2) = -w(h, W / 2)
    const uint32_t first_quad = (at.channel * (H / 2) + first_frequency()) * columns + kw;
    constexpr int group = kind == Kind::skewed_drift ? 4 : 8;  // calls of Philox that share their round keys
    TDAS_OPS_UNROLL
    for (int first = 0; first < 16; first += group) {
      float re[2][group], im[2][group];  // R of frequencies k and k + 16
      TDAS_OPS_UNROLL
      for (int i = 0; i < 2 * group; ++i) {
        const int upper = i / group, k = first + i % group + 16 * upper;
        const Complex<float> x = X[k];
        const float R_re = R.at(k), R_im = R.imag_at(k);
        if constexpr (kind != Kind::noise) {
          X[k] = {R_re * (R_re * square) * x.re, R_im * (R_im * square) * x.im};
          if constexpr (kind == Kind::skewed_drift) X[k] = with_skew(X[k], x, w.at(k) * skew[upper]);
        }
        re[upper][i % group] = R_re;
        im[upper][i % group] = R_im;
      }
      if (!noisy) continue;
      DrawnNoise noise(work.samples, at.sample);
      noise.forget_round_keys();
      TDAS_OPS_UNROLL
      for (int i = 0; i < group; ++i) {
        const int k = first + i;
        const PhiloxWords words = noise.words(first_quad + k * step * columns);
        const float scale = k == 0 && R.real_pair ? 1.41421356f * n : n;
        add(X[k], polar_normal(words.w0, words.w1), re[0][i] * scale, im[0][i] * scale);
        add(X[k + 16], polar_normal(words.w2, words.w3), re[1][i] * scale, im[1][i] * scale);
      }
    }
  }

  // d R X.
  TDAS_OPS_DEVICE void linear(float d, Complex<float> (&X)[32]) const {
    const MaskColumn R(*this, work.masks.freq);
    const float data = kw == 0 ? 0.5f * d : d;  // `separate` leaves twice the values
    TDAS_OPS_UNROLL
    for (int k = 0; k < 32; ++k) X[k] = {R.at(k) * data * X[k].re, R.imag_at(k) * data * X[k].im};
  }

  // |F^-1 (R + i w) X|^2, or with R^2 where `squared`: the thread's part of it.
  TDAS_OPS_DEVICE float square(bool squared, bool has_skew, const Complex<float> (&X)[32]) const {
    const MaskColumn R(*this, work.masks.freq), w(*this, has_skew ? work.masks.skew : work.masks.freq);
    float sum = 0.0f, pair = 0.0f;
    TDAS_OPS_UNROLL
    for (int k = 0; k < 32; ++k) {
      const float R_re = R.at(k), R_im = R.imag_at(k);
      Complex<float> y = {(squared ? R_re * R_re : R_re) * X[k].re, (squared ? R_im * R_im : R_im) * X[k].im};
      if (has_skew) y = with_skew(y, X[k], kw == 0 && k >= 16 ? -w.at(k) : w.at(k));
      float& part = k % 16 == 0 ? pair : sum;
      part = __fmaf_rn(y.re, y.re, __fmaf_rn(y.im, y.im, part));
    }
    // Every frequency stands for two, but for the pairs of real numbers; `separate` leaves twice the values.
    return ((R.real_pair ? 0.5f : 1.0f) * pair + sum) * (kw == 0 ? 0.5f : 2.0f) * Shape::per_pixel;
  }

  // |F^-1 R Z|^2, the thread's part of it.
  TDAS_OPS_DEVICE float noise_square() const {
    const MaskColumn R(*this, work.masks.freq);
    const uint32_t first_quad = (at.channel * (H / 2) + first_frequency()) * columns + kw;
    DrawnNoise noise(work.samples, at.sample);
    float sum = 0.0f;
    TDAS_OPS_UNROLL
    for (int k = 0; k < 16; ++k) {
      if (k % 8 == 0) noise.forget_round_keys();
      const PhiloxWords words = noise.words(first_quad + k * step * columns);
      TDAS_OPS_UNROLL
      for (int upper = 0; upper < 2; ++upper) {
        const PolarNormal g = upper ? polar_normal(words.w2, words.w3) : polar_normal(words.w0, words.w1);
        const float re = R.at(k + 16 * upper) * g.rho * g.cos, im = R.imag_at(k + 16 * upper) * g.rho * g.sin;
        sum = __fmaf_rn(re, re, __fmaf_rn(im, im, sum));
      }
    }
    return sum;
  }

 private:
  TDAS_OPS_DEVICE int first_frequency() const { return classes * half + row_class; }

  // Where a mask has the thread's frequencies.
  struct MaskColumn {
    const float *lower, *upper;  // of frequencies below H / 2 and from there on
    bool real_pair;              // frequencies 0 and H / 2 are pairs of real numbers, of columns 0 and W / 2

    TDAS_OPS_DEVICE MaskColumn(const PlaneColumns& column, const float* mask)
        : lower(mask + (column.at.channel * H + column.first_frequency()) * (columns + 1) + column.kw),
          upper(lower + H / 2 * (columns + 1) + (column.kw == 0 ? columns : 0)),
          real_pair(column.kw == 0 && column.first_frequency() == 0) {}

    TDAS_OPS_DEVICE float at(int k) const {
      const float* mask = (k < 16 ? lower : upper) + k % 16 * step * (columns + 1);
      return __ldg(k == 16 && real_pair ? mask - columns : mask);
    }
    TDAS_OPS_DEVICE float imag_at(int k) const {  // of the imaginary part
      return k % 16 == 0 && real_pair ? __ldg(k == 0 ? lower + columns : upper) : at(k);
    }
  };

  static TDAS_OPS_DEVICE void add(Complex<float>& X, PolarNormal g, float re, float im) {
    if constexpr (kind == Kind::noise) {
      X = {re * g.rho * g.cos, im * g.rho * g.sin};
    } else {
      X = {__fmaf_rn(re * g.rho, g.cos, X.re), __fmaf_rn(im * g.rho, g.sin, X.im)};
    }
  }

  // Column 0: twice its values apart, those of column W / 2 in the upper half and in the pairs.
  TDAS_OPS_DEVICE void separate(Complex<float> (&X)[32]) const {
    with_partners(X, [](Complex<float>& own, Complex<float> partner, bool lower) {
      lower ? separate_column(own, partner) : separate_column(partner, own);
    });
    if (kw == 0 && first_frequency() == 0) {
      X[0] = X[0] + X[0];
      X[16] = X[16] + X[16];
    }
    if constexpr (halves == 2) __syncthreads();
  }

  // Column 0: both in one again.
  TDAS_OPS_DEVICE void join(Complex<float> (&X)[32]) const {
    with_partners(X, [](Complex<float>& own, Complex<float> partner, bool lower) {
      lower ? join_column(own, partner) : join_column(partner, own);
    });
  }

  // Column 0: use(X(h), X(H - h), h < H / 2) for all frequencies but 0 and H / 2. A thread leaves its own in shared
  // memory, where it, or at H = 128 the thread with the other half, finds them.
  template <class Use>
  TDAS_OPS_DEVICE void with_partners(Complex<float> (&X)[32], Use use) const {
    float2* all = reinterpret_cast<float2*>(numbers);
    if (kw == 0) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) all[halves * k + half] = make_float2(X[k].re, X[k].im);
    }
    if constexpr (halves == 2) __syncthreads();
    if (kw == 0) {
      const float2* mirrored = all + (rows - row_class - half);
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) {
        if (k % 16 == 0 && first_frequency() == 0) continue;
        const float2 partner = mirrored[-halves * k];
        use(X[k], Complex<float>{partner.x, partner.y}, k < 16);
      }
    }
  }
};

}  // namespace tdas_ops::cuda
