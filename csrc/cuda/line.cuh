// The Fourier transform of a line that lies in the registers of one thread: radix 2, decimation in time, natural order
// in and out, not normalised. Every index and every twiddle is known to the compiler.
#pragma once

#include <utility>

#include "../fft.h"
#include "platform.cuh"

namespace tdas_ops::cuda {

// Of 2 pi turns, 0 <= turns < 1.
TDAS_OPS_INLINE constexpr double series_of_sine(double x, double term, double first) {
  double sum = term;
  for (int i = 1; i < 16; ++i) {
    term *= -x * x / ((first + 2 * i - 1) * (first + 2 * i));
    sum += term;
  }
  return sum;
}
TDAS_OPS_INLINE constexpr double cosine(double turns) { return series_of_sine(6.283185307179586477 * turns, 1.0, 0.0); }
TDAS_OPS_INLINE constexpr double sine(double turns) {
  const double x = 6.283185307179586477 * turns;
  return series_of_sine(x, x, 1.0);
}
TDAS_OPS_INLINE constexpr Twiddle twiddle(int k, int n) {
  return {static_cast<float>(cosine(double(k) / n)), static_cast<float>(sine(double(k) / n))};
}

// use(0), use(1), ..., use(count - 1), each with a number that the compiler knows.
template <int count, class Use, int... i>
TDAS_OPS_DEVICE void unrolled_over(Use use, std::integer_sequence<int, i...>) {
  (use(std::integral_constant<int, i>{}), ...);
}
template <int count, class Use>
TDAS_OPS_DEVICE void unrolled(Use use) {
  unrolled_over<count>(use, std::make_integer_sequence<int, count>{});
}

TDAS_OPS_DEVICE Complex<float> fused(float a, Complex<float> b, Complex<float> c) {
  return {__fmaf_rn(a, b.re, c.re), __fmaf_rn(a, b.im, c.im)};
}

// sum = e + t o and difference = e - t o with t = exp(-2 pi i k / N), or its conjugate for an inverse transform: with
// t = cos (1 - i tan), or sin (cot - i), six fused multiply-adds instead of ten operations. 0 <= k < N / 2.
template <int k, int N, bool inverse>
TDAS_OPS_DEVICE void combine(Complex<float> e, Complex<float> o, Complex<float>& sum, Complex<float>& difference) {
  static_assert(0 <= k && 2 * k < N);
  if constexpr (4 * k >= N) {
    combine<k - N / 4, N, inverse>(e, quarter<inverse>(o), sum, difference);
  } else if constexpr (k == 0) {
    sum = e + o;
    difference = e - o;
  } else {
    constexpr double cos = cosine(double(k) / N), sin = sine(double(k) / N);
    constexpr float scale = static_cast<float>(8 * k <= N ? cos : sin);
    constexpr float ratio = static_cast<float>(8 * k <= N ? sin / cos : cos / sin);
    const Complex<float> turned_o = quarter<inverse>(o);
    Complex<float> b;
    if constexpr (8 * k == N) {
      b = o + turned_o;
    } else if constexpr (8 * k < N) {
      b = fused(ratio, turned_o, o);
    } else {
      b = fused(ratio, o, turned_o);
    }
    sum = fused(scale, b, e);
    difference = fused(-scale, b, e);
  }
}

namespace detail {

template <int k, int N, bool inverse>
TDAS_OPS_DEVICE void combine_all(const Complex<float>* e, const Complex<float>* o, Complex<float>* out) {
  if constexpr (2 * k < N) {
    combine<k, N, inverse>(e[k], o[k], out[k], out[k + N / 2]);
    combine_all<k + 1, N, inverse>(e, o, out);
  }
}

template <int k, int N>
TDAS_OPS_DEVICE void combine_real(const Complex<float>* e, const Complex<float>* o, Complex<float>* out) {
  if constexpr (4 * k < N) {
    Complex<float> mirrored;
    combine<k, N, false>(e[k], o[k], out[k], mirrored);
    out[N / 2 - k] = conj(mirrored);
    combine_real<k + 1, N>(e, o, out);
  }
}

template <int k, int N>
TDAS_OPS_DEVICE void split_real(const Complex<float>* in, Complex<float>* e, Complex<float>* o) {
  if constexpr (4 * k < N) {
    constexpr Twiddle t = twiddle(k, N);
    const Complex<float> mirrored = conj(in[N / 2 - k]);
    e[k] = in[k] + mirrored;
    o[k] = turned<true>(in[k] - mirrored, t);
    split_real<k + 1, N>(in, e, o);
  }
}

}  // namespace detail

// out(k) = sum over n of in(stride n) exp(-+2 pi i k n / N).
template <int N, bool inverse, int stride = 1>
TDAS_OPS_DEVICE void transform(const Complex<float>* in, Complex<float>* out) {
  if constexpr (N == 1) {
    out[0] = in[0];
  } else {
    Complex<float> e[N / 2], o[N / 2];
    transform<N / 2, inverse, 2 * stride>(in, e);
    transform<N / 2, inverse, 2 * stride>(in + stride, o);
    detail::combine_all<0, N, inverse>(e, o, out);
  }
}

// The spectrum of N real numbers, X(k) for 0 < k < N / 2; out(0) is X(0) + i X(N / 2), both of which are real.
template <int N, int stride = 1>
TDAS_OPS_DEVICE void transform_real(const float* in, Complex<float>* out) {
  if constexpr (N == 2) {
    out[0] = {in[0] + in[stride], in[0] - in[stride]};
  } else {
    Complex<float> e[N / 4], o[N / 4];
    transform_real<N / 2, 2 * stride>(in, e);
    transform_real<N / 2, 2 * stride>(in + stride, o);
    out[0] = {e[0].re + o[0].re, e[0].re - o[0].re};
    out[N / 4] = {e[0].im, -o[0].im};
    detail::combine_real<1, N>(e, o, out);
  }
}

// The inverse of transform_real times N. Where `half`, in(0) is X(0) + i X(N / 2) / 2.
template <int N, bool half = false, int stride = 1>
TDAS_OPS_DEVICE void inverse_real(const Complex<float>* in, float* out) {
  constexpr float last = half ? 2.0f : 1.0f;
  const float first = __fmaf_rn(last, in[0].im, in[0].re), second = __fmaf_rn(-last, in[0].im, in[0].re);
  if constexpr (N == 2) {
    out[0] = first;
    out[stride] = second;
  } else {
    Complex<float> e[N / 4], o[N / 4];
    e[0] = {first, in[N / 4].re};
    o[0] = {second, -in[N / 4].im};
    detail::split_real<1, N>(in, e, o);
    inverse_real<N / 2, true, 2 * stride>(e, out);
    inverse_real<N / 2, true, 2 * stride>(o, out + stride);
  }
}

}  // namespace tdas_ops::cuda
