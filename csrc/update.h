// What an update does to one frequency and to one pixel, for host and device. T is a number or a vector of numbers.
#pragma once

#include "fft.h"

namespace tdas_ops {

// (linear R + square R^2) x: R is the frequency mask, square the scale of M M^T without a space mask.
template <class T>
TDAS_OPS_INLINE Complex<T> filtered(Complex<T> x, T R, NumberOf<T> linear, NumberOf<T> square) {
  const T factor = R * (square * R + linear);
  return {factor * x.re, factor * x.im};
}

// y + noise R g, g being complex unit normals.
template <class T>
TDAS_OPS_INLINE Complex<T> with_noise(Complex<T> y, Complex<T> g, T R, NumberOf<T> noise) {
  const T factor = noise * R;
  return {y.re + factor * g.re, y.im + factor * g.im};
}

// y + i w x, the skew part.
template <class T>
TDAS_OPS_INLINE Complex<T> with_skew(Complex<T> y, Complex<T> x, T w) {
  return {y.re - w * x.im, y.im + w * x.re};
}

// A (data A u + noise z): A is the space mask.
template <class T>
TDAS_OPS_INLINE T filtered_pixel(T u, T z, T A, NumberOf<T> data, NumberOf<T> noise) {
  return A * (data * A * u + noise * z);
}

// Column 0 of the packed rows is column 0 of the spectrum plus i times column M, both of real rows: with a(h) and b(h)
// their transforms, frequency h holds a + i b. Apart, h < H / 2 holds 2 a(h) and H - h holds 2 b(h). (0 and H / 2 hold
// both, which are real there.)
template <class T>
TDAS_OPS_INLINE void separate_column(Complex<T>& p, Complex<T>& q) {  // h and H - h, 0 < h < H / 2
  const Complex<T> a = p, b = q;
  p = {a.re + b.re, a.im - b.im};
  q = {a.im + b.im, b.re - a.re};
}

template <class T>
TDAS_OPS_INLINE void join_column(Complex<T>& p, Complex<T>& q) {
  const Complex<T> a = p, b = q;
  p = {a.re - b.im, a.im + b.re};
  q = {a.re + b.im, b.re - a.im};
}

}  // namespace tdas_ops
