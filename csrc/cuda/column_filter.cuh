// What happens between the transforms to the 32 frequencies that a thread has of a column of the half spectrum: the
// filter, the noise, and their squares.
#pragma once

#include "../update.h"
#include "normals.cuh"
#include "plane_shape.cuh"

namespace tdas_ops::cuda {

// X[k] and X[k + 16], k < 16, are frequencies h and h + H / 2 of column kw, h = first + Columns::offset(k) < H / 2.
// `columns.count` is W / 2. Column 0 is a pair of columns of real rows, 0 and W / 2.
template <int H, Kind kind, class Columns>
struct ColumnFilter {
  const PlaneWork& work;
  Position at;
  Columns columns;
  int kw, first;

  // d (R^2 + i w) X + n R g, without X for kind noise.
  TDAS_OPS_DEVICE void filter(float d, float n, bool noisy, Complex<float> (&X)[32]) const {
    const uint32_t first_quad = this->first_quad();
    filter(d, n, noisy, X, [&] {
      DrawnNoise noise(work.samples, at.sample);
      noise.forget_round_keys();
      return [this, noise, first_quad](int k) {
        return DrawnPair{noise.words(first_quad + Columns::offset(k) * columns.count)};
      };
    });
  }

  // The normals of frequencies k and k + 16, each made when it is used: registers are few.
  struct DrawnPair {
    PhiloxWords words;

    TDAS_OPS_DEVICE PolarNormal lower() const { return polar_normal(words.w0, words.w1); }
    TDAS_OPS_DEVICE PolarNormal upper() const { return polar_normal(words.w2, words.w3); }
  };

  // `normals`: gives what gives such a pair for a k, anew for every few of them.
  template <class Normals>
  TDAS_OPS_DEVICE void filter(float d, float n, bool noisy, Complex<float> (&X)[32], Normals normals) const {
    const MaskColumn R(*this, work.masks.freq), w(*this, kind == Kind::skewed_drift ? work.masks.skew : nullptr);
    const float data = kw == 0 ? 0.5f * d : d;  // `separate` leaves twice the values
    const float square = kind == Kind::skewed_drift && !work.square ? 0.0f : data;
    const float skew[2] = {data, kw == 0 ? -data : data};  // w(H - h, W / 2) = -w(h, W / 2)
    // Calls of Philox that share their round keys.
    constexpr int group = kind == Kind::skewed_drift ? Columns::group / 2 : Columns::group;
    TDAS_OPS_UNROLL
    for (int begin = 0; begin < 16; begin += group) {
      float re[2][group], im[2][group];  // R of frequencies k and k + 16
      TDAS_OPS_UNROLL
      for (int i = 0; i < 2 * group; ++i) {
        const int upper = i / group, k = begin + i % group + 16 * upper;
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
      const auto of_group = normals();
      TDAS_OPS_UNROLL
      for (int i = 0; i < group; ++i) {
        const int k = begin + i;
        const auto g = of_group(k);
        const float scale = k == 0 && R.real_pair ? 1.41421356f * n : n;
        add(X[k], g.lower(), re[0][i] * scale, im[0][i] * scale);
        add(X[k + 16], g.upper(), re[1][i] * scale, im[1][i] * scale);
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

  // |F^-1 (R + i w) X|^2, or with R^2 where `squared`, times the elements of a plane: the thread's part of it.
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
    return ((R.real_pair ? 0.5f : 1.0f) * pair + sum) * (kw == 0 ? 0.5f : 2.0f);
  }

  // |F^-1 R Z|^2, the thread's part of it.
  TDAS_OPS_DEVICE float noise_square() const {
    return noise_square([](int, Polar, Polar) {});
  }

  // `keep(k, lower, upper)` gets the normals of frequencies k and k + 16.
  template <class Keep>
  TDAS_OPS_DEVICE float noise_square(Keep keep) const {
    const MaskColumn R(*this, work.masks.freq);
    const uint32_t first_quad = this->first_quad();
    DrawnNoise noise(work.samples, at.sample);
    float sum = 0.0f;
    TDAS_OPS_UNROLL
    for (int k = 0; k < 16; ++k) {
      if (k % 8 == 0) noise.forget_round_keys();
      const PhiloxWords words = noise.words(first_quad + Columns::offset(k) * columns.count);
      const Polar pair[2] = {polar(words.w0, words.w1), polar(words.w2, words.w3)};
      keep(k, pair[0], pair[1]);
      TDAS_OPS_UNROLL
      for (int upper = 0; upper < 2; ++upper) {
        const PolarNormal g = pair[upper].normal();
        const float re = R.at(k + 16 * upper) * g.rho * g.cos, im = R.imag_at(k + 16 * upper) * g.rho * g.sin;
        sum = __fmaf_rn(re, re, __fmaf_rn(im, im, sum));
      }
    }
    return sum;
  }

  // Column 0: twice its values apart, those of column W / 2 in the upper half and in the pairs. `with_partners(X,
  // use)`: use(X(h), X(H - h), h < H / 2) for all frequencies of column 0 but 0 and H / 2.
  template <class WithPartners>
  TDAS_OPS_DEVICE void separate(Complex<float> (&X)[32], WithPartners with_partners) const {
    with_partners(X, [](Complex<float>& own, Complex<float> partner, bool lower) {
      lower ? separate_column(own, partner) : separate_column(partner, own);
    });
    if (kw == 0 && first == 0) {
      X[0] = X[0] + X[0];
      X[16] = X[16] + X[16];
    }
  }

  // Column 0: both in one again.
  template <class WithPartners>
  TDAS_OPS_DEVICE void join(Complex<float> (&X)[32], WithPartners with_partners) const {
    with_partners(X, [](Complex<float>& own, Complex<float> partner, bool lower) {
      lower ? join_column(own, partner) : join_column(partner, own);
    });
  }

 private:
  TDAS_OPS_DEVICE uint32_t first_quad() const { return (at.channel * (H / 2) + first) * columns.count + kw; }

  // Where a mask has the thread's frequencies.
  struct MaskColumn {
    const float *lower, *upper;  // of frequencies below H / 2 and from there on
    int count;                   // columns of the spectrum but column W / 2
    bool real_pair;              // frequencies 0 and H / 2 are pairs of real numbers, of columns 0 and W / 2

    TDAS_OPS_DEVICE MaskColumn(const ColumnFilter& column, const float* mask)
        : lower(mask + (column.at.channel * H + column.first) * (column.columns.count + 1) + column.kw),
          upper(lower + H / 2 * (column.columns.count + 1) + (column.kw == 0 ? column.columns.count : 0)),
          count(column.columns.count),
          real_pair(column.kw == 0 && column.first == 0) {}

    TDAS_OPS_DEVICE float at(int k) const {
      const float* mask = (k < 16 ? lower : upper) + Columns::offset(k % 16) * (count + 1);
      return __ldg(k == 16 && real_pair ? mask - count : mask);
    }
    TDAS_OPS_DEVICE float imag_at(int k) const {  // of the imaginary part
      return k % 16 == 0 && real_pair ? __ldg(k == 0 ? lower + count : upper) : at(k);
    }
  };

  static TDAS_OPS_DEVICE void add(Complex<float>& X, PolarNormal g, float re, float im) {
    if constexpr (kind == Kind::noise) {
      X = {re * g.rho * g.cos, im * g.rho * g.sin};
    } else {
      X = {__fmaf_rn(re * g.rho, g.cos, X.re), __fmaf_rn(im * g.rho, g.sin, X.im)};
    }
  }
};

}  // namespace tdas_ops::cuda
