// The Fourier transform, for host and device: complex numbers, radix butterflies, and how a real plane rides as a
// complex plane of half the width. T is a number or a vector of numbers.
//
// Transforms run in place, with no reordering pass. Forward is decimation in frequency: a stage of radix R splits a
// line of L elements into R lines of L / R, multiplies by the twiddles exp(-2 pi i j k / L), and leaves frequency k
// (mod R) in line reversed<R>(k), so that the whole transform leaves frequency k at the place whose binary digits are
// those of k reversed. Inverse is decimation in time: the same stages undone in the opposite order. Neither is
// normalised.
//
// A real row x of W elements is the complex row z(n) = x(2n) + i x(2n+1) of half the length, M = W / 2. With Z its
// transform, X(k) = E(k) + e^(-2 pi i k / W) O(k), where 2 E(k) = Z(k) + conj Z(M-k) and 2i O(k) = Z(k) - conj Z(M-k)
// are the spectra of the even and the odd columns. X(0) and X(M) are real and share a place. See `separate` and `join`.
#pragma once

#include <type_traits>
#include <utility>

#include "inline.h"

namespace tdas_ops {

// The type of a number in T.
template <class T, bool = std::is_arithmetic_v<T>>
struct NumberIn {
  using type = T;
};
template <class T>
struct NumberIn<T, false> {
  using type = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<T&>()[0])>>;
};
template <class T>
using NumberOf = typename NumberIn<T>::type;

template <class T>
struct Complex {
  T re, im;
};

template <class T>
TDAS_OPS_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}

template <class T>
TDAS_OPS_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}

template <class T>
TDAS_OPS_INLINE Complex<T> conj(Complex<T> a) {
  return {a.re, -a.im};
}

// A point of the unit circle, exp(i angle) for an angle that is given with positive sign; or one for every lane.
template <class T>
struct TwiddleOf {
  T cos, sin;
};
using Twiddle = TwiddleOf<float>;

template <class T>
constexpr TwiddleOf<NumberOf<T>> twiddle_of(double cos, double sin) {
  return {static_cast<NumberOf<T>>(cos), static_cast<NumberOf<T>>(sin)};
}

// a e^(-i angle), or a e^(i angle) for an inverse transform.
template <bool inverse, class T, class U>
TDAS_OPS_INLINE Complex<T> turned(Complex<T> a, TwiddleOf<U> t) {
  if constexpr (inverse) return {a.re * t.cos - a.im * t.sin, a.im * t.cos + a.re * t.sin};
  return {a.re * t.cos + a.im * t.sin, a.im * t.cos - a.re * t.sin};
}

// A quarter turn: a times -i, or i for an inverse transform.
template <bool inverse, class T>
TDAS_OPS_INLINE Complex<T> quarter(Complex<T> a) {
  if constexpr (inverse) return {-a.im, a.re};
  return {a.im, -a.re};
}

// The binary digits of k < n in reverse order.
TDAS_OPS_INLINE constexpr int reversed(int k, int n) {
  int result = 0;
  for (int digit = 1; digit < n; digit *= 2, k /= 2) result = 2 * result + k % 2;
  return result;
}

template <bool inverse, class T>
TDAS_OPS_INLINE void butterfly2(Complex<T>& a, Complex<T>& b) {
  const Complex<T> difference = a - b;
  a = a + b;
  b = difference;
}

template <bool inverse, class T>
TDAS_OPS_INLINE void butterfly4(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d) {
  const Complex<T> p = a + c, q = a - c, r = b + d, s = quarter<inverse>(b - d);
  a = p + r;
  b = q + s;
  c = p - r;
  d = q - s;
}

template <bool inverse, class T>
TDAS_OPS_INLINE void butterfly3(Complex<T>& a, Complex<T>& b, Complex<T>& c) {
  constexpr auto half_root = static_cast<NumberOf<T>>(0.86602540378443865);
  const Complex<T> sum = b + c, turn = quarter<inverse>(b - c);
  const Complex<T> middle = {a.re - 0.5f * sum.re, a.im - 0.5f * sum.im};
  a = a + sum;
  b = {middle.re + half_root * turn.re, middle.im + half_root * turn.im};
  c = {middle.re - half_root * turn.re, middle.im - half_root * turn.im};
}

template <bool inverse, class T>
TDAS_OPS_INLINE void butterfly5(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d, Complex<T>& e) {
  constexpr auto one = twiddle_of<T>(0.30901699437494742, 0.95105651629515357);
  constexpr auto two = twiddle_of<T>(-0.80901699437494742, 0.58778525229247313);
  const Complex<T> p = b + e, q = c + d, r = quarter<inverse>(b - e), s = quarter<inverse>(c - d);
  const Complex<T> m = {a.re + one.cos * p.re + two.cos * q.re, a.im + one.cos * p.im + two.cos * q.im};
  const Complex<T> n = {a.re + two.cos * p.re + one.cos * q.re, a.im + two.cos * p.im + one.cos * q.im};
  const Complex<T> u = {one.sin * r.re + two.sin * s.re, one.sin * r.im + two.sin * s.im};
  const Complex<T> v = {two.sin * r.re - one.sin * s.re, two.sin * r.im - one.sin * s.im};
  a = a + p + q;
  b = m + u;
  c = n + v;
  d = n - v;
  e = m - u;
}

template <int R, bool inverse, class T>
TDAS_OPS_INLINE void butterfly(Complex<T> (&x)[R]);

// The number that n times leaves 1 when divided by the modulus.
constexpr int reciprocal(int n, int modulus) {
  int result = 1;
  while (result * n % modulus != 1) ++result;
  return result;
}

// The transform of A B elements for A and B without a common factor, which needs no twiddles (Good 1958): n = B a + A b
// (mod A B) makes W^(n k) the product of W_A^(a k) and W_B^(b k), so that k is what leaves (a, b) when divided by A, B.
template <int A, int B, bool inverse, class T>
TDAS_OPS_INLINE void coprime_butterfly(Complex<T> (&x)[A * B]) {
  constexpr int at_a = B * reciprocal(B, A), at_b = A * reciprocal(A, B);
  Complex<T> columns[B][A], rows[A][B];
  TDAS_OPS_UNROLL
  for (int b = 0; b < B; ++b) {
    TDAS_OPS_UNROLL
    for (int a = 0; a < A; ++a) columns[b][a] = x[(a * B + b * A) % (A * B)];
    butterfly<A, inverse>(columns[b]);
  }
  TDAS_OPS_UNROLL
  for (int a = 0; a < A; ++a) {
    TDAS_OPS_UNROLL
    for (int b = 0; b < B; ++b) rows[a][b] = columns[b][a];
    butterfly<B, inverse>(rows[a]);
    TDAS_OPS_UNROLL
    for (int b = 0; b < B; ++b) x[(a * at_a + b * at_b) % (A * B)] = rows[a][b];
  }
}

// The transform of R elements, natural order in and out.
template <int R, bool inverse, class T>
TDAS_OPS_INLINE void butterfly(Complex<T> (&x)[R]) {
  constexpr auto eighth = twiddle_of<T>(0.70710678118654752, 0.70710678118654752);
  static_assert(R == 2 || R == 3 || R == 4 || R == 5 || R == 6 || R == 8 || R == 10 || R == 12 || R == 16);
  if constexpr (R == 2) {
    butterfly2<inverse>(x[0], x[1]);
  } else if constexpr (R == 3) {
    butterfly3<inverse>(x[0], x[1], x[2]);
  } else if constexpr (R == 5) {
    butterfly5<inverse>(x[0], x[1], x[2], x[3], x[4]);
  } else if constexpr (R == 6 || R == 10) {
    coprime_butterfly<R / 2, 2, inverse>(x);
  } else if constexpr (R == 12) {
    coprime_butterfly<3, 4, inverse>(x);
  } else if constexpr (R == 4) {
    butterfly4<inverse>(x[0], x[1], x[2], x[3]);
  } else if constexpr (R == 8) {  // two of four
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) butterfly2<inverse>(x[i], x[i + 4]);
    const Complex<T> q5 = quarter<inverse>(x[5]), q7 = quarter<inverse>(x[7]);
    x[6] = quarter<inverse>(x[6]);
    x[5] = {(x[5].re + q5.re) * eighth.cos, (x[5].im + q5.im) * eighth.cos};
    x[7] = {(q7.re - x[7].re) * eighth.cos, (q7.im - x[7].im) * eighth.cos};
    butterfly4<inverse>(x[0], x[1], x[2], x[3]);
    butterfly4<inverse>(x[4], x[5], x[6], x[7]);
    const Complex<T> odd0 = x[4], odd1 = x[5], odd2 = x[6];
    x[6] = x[3];
    x[4] = x[2];
    x[2] = x[1];
    x[1] = odd0;
    x[3] = odd1;
    x[5] = odd2;
  } else {  // four of four
    constexpr auto first = twiddle_of<T>(0.92387953251128674, 0.38268343236508977);
    constexpr decltype(first) third = {first.sin, first.cos};
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) butterfly4<inverse>(x[i], x[i + 4], x[i + 8], x[i + 12]);
    x[5] = turned<inverse>(x[5], first);
    x[6] = turned<inverse>(x[6], eighth);
    x[7] = turned<inverse>(x[7], third);
    x[9] = turned<inverse>(x[9], eighth);
    x[10] = quarter<inverse>(x[10]);
    x[11] = turned<inverse>(x[11], TwiddleOf<NumberOf<T>>{-eighth.cos, eighth.sin});
    x[13] = turned<inverse>(x[13], third);
    x[14] = turned<inverse>(x[14], TwiddleOf<NumberOf<T>>{-eighth.cos, eighth.sin});
    x[15] = turned<inverse>(x[15], TwiddleOf<NumberOf<T>>{-first.cos, -first.sin});
    Complex<T> result[16];
    TDAS_OPS_UNROLL
    for (int k = 0; k < 4; ++k) {
      butterfly4<inverse>(x[4 * k], x[4 * k + 1], x[4 * k + 2], x[4 * k + 3]);
      TDAS_OPS_UNROLL
      for (int q = 0; q < 4; ++q) result[k + 4 * q] = x[4 * k + q];
    }
    TDAS_OPS_UNROLL
    for (int k = 0; k < 16; ++k) x[k] = result[k];
  }
}

// The radix of the first stage of a line of N elements: what is left over when the other stages are of radix 8. For
// 1024 a fourth stage is cheaper: sixteen elements 8 KiB apart do not stay in an L1 cache of eight ways.
constexpr int first_radix(int n) {
  if (n == 1024) return 4;
  int digits = 0;
  for (; n > 1; n /= 2) ++digits;
  return digits < 3 ? 1 << digits : digits % 3 == 0 ? 8 : digits % 3 == 1 ? 16 : 4;
}

// (Z(k), Z(M-k)) to twice (X(k), X(M-k)), for 0 < k < M/2; t is the angle 2 pi k / W.
template <class T, class U>
TDAS_OPS_INLINE void separate(Complex<T>& a, Complex<T>& b, TwiddleOf<U> t) {
  const Complex<T> even = a + conj(b), odd = quarter<false>(a - conj(b));
  const Complex<T> turned_odd = turned<false>(odd, t);
  a = even + turned_odd;
  b = conj(even - turned_odd);
}

// The inverse: (X(k), X(M-k)) to twice (Z(k), Z(M-k)).
template <class T, class U>
TDAS_OPS_INLINE void join(Complex<T>& a, Complex<T>& b, TwiddleOf<U> t) {
  const Complex<T> even = a + conj(b), odd = quarter<true>(turned<true>(a - conj(b), t));
  a = even + odd;
  b = conj(even - odd);
}

}  // namespace tdas_ops
