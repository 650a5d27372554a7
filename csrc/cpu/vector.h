// Vectors in the instruction set that the including file is compiled for: it defines TDAS_OPS_VECTOR_BYTES
// (64, 32 or 16) beside its TDAS_OPS_TARGET. Everything is local to that file, so that no other code gets those
// instructions. Arithmetic is the vector arithmetic that g++ and clang share, intrinsics stand where it lacks a word.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstdint>
#include <cstring>
#include <utility>

#include "real.h"

namespace tdas_ops::cpu {
namespace {

constexpr int vector_bytes = TDAS_OPS_VECTOR_BYTES, lanes = vector_bytes / sizeof(Real), word_lanes = vector_bytes / 4;

using Floats = Real __attribute__((vector_size(vector_bytes)));
// As attributes of the name: clang hears no others.
using LooseFloats __attribute__((aligned(sizeof(Real)), may_alias)) = Floats;
using Singles = float __attribute__((vector_size(vector_bytes)));  // whatever Real is
using LooseSingles __attribute__((aligned(4), may_alias)) = Singles;
using Ints = int32_t __attribute__((vector_size(vector_bytes)));
using Words = uint32_t __attribute__((vector_size(vector_bytes)));
using WideWords = uint64_t __attribute__((vector_size(vector_bytes)));  // a word in the low half of every lane
using Complexes = Complex<Floats>;

// A line of complex vectors: element n is 2 * lanes floats, real parts then imaginary parts.
constexpr int line_step = 2 * lanes;

TDAS_OPS_INLINE Floats load(const Real* p) { return *reinterpret_cast<const Floats*>(p); }
TDAS_OPS_INLINE Floats load_loose(const Real* p) { return *reinterpret_cast<const LooseFloats*>(p); }
TDAS_OPS_INLINE Singles load_singles(const float* p) { return *reinterpret_cast<const LooseSingles*>(p); }
TDAS_OPS_INLINE void store(Real* p, Floats value) { *reinterpret_cast<Floats*>(p) = value; }
TDAS_OPS_INLINE void store_loose(Real* p, Floats value) { *reinterpret_cast<LooseFloats*>(p) = value; }
TDAS_OPS_INLINE Complexes load_element(const Real* line, int64_t n) {
  return {load(line + n * line_step), load(line + n * line_step + lanes)};
}
TDAS_OPS_INLINE void store_element(Real* line, int64_t n, Complexes value) {
  store(line + n * line_step, value.re);
  store(line + n * line_step + lanes, value.im);
}

// N elements of a line from `first` on, `step` apart.
template <int N>
TDAS_OPS_INLINE void load_elements(Complexes (&x)[N], const Real* line, int64_t first, int64_t step) {
  TDAS_OPS_UNROLL
  for (int i = 0; i < N; ++i) x[i] = load_element(line, first + i * step);
}

template <int N>
TDAS_OPS_INLINE void store_elements(Real* line, int64_t first, int64_t step, const Complexes (&x)[N]) {
  TDAS_OPS_UNROLL
  for (int i = 0; i < N; ++i) store_element(line, first + i * step, x[i]);
}

TDAS_OPS_INLINE Floats broadcast(Real value) { return value - Floats{}; }

template <class Vector, class At, int... i>
TDAS_OPS_INLINE Vector shuffled(Vector a, Vector b, At at, std::integer_sequence<int, i...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, at(i)...);
#else  // what g++ 11 knows; indices have the type of a comparison
  return __builtin_shuffle(a, b, decltype(a < b){at(i)...});
#endif
}

// Lane i is lane at(i) of a and b side by side; `at` captures nothing.
template <class Vector, class At>
TDAS_OPS_INLINE Vector shuffled(Vector a, Vector b, At at) {
  return shuffled(a, b, at, std::make_integer_sequence<int, sizeof(Vector) / sizeof(a[0])>());
}

// bfloat16 and half precision, one at a time; rounded to nearest even.
inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float from_bfloat16(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }
inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
// Exact: the exponent is moved by a product with 2^112, which also makes normal numbers of subnormal ones.
inline float from_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, rest = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const float value = rest >= 0x0f800000u ? bits_to_float(rest | 0x7f800000u) : bits_to_float(rest) * 0x1p112f;
  return bits_to_float(float_to_bits(value) | sign);
}
inline uint16_t to_half(float value) {
  const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000u;
  const float magnitude = bits_to_float(bits & 0x7fffffffu);
  uint32_t half;
  if (value != value)
    half = 0x7e00u;
  else if (magnitude >= 65520.0f)
    half = 0x7c00u;
  else if (magnitude < 0x1p-14f)  // subnormal: adding 0.5 rounds to a multiple of 2^-24
    half = float_to_bits(magnitude + 0.5f) - 0x3f000000u;
  else {
    const uint32_t normal = float_to_bits(magnitude);
    half = (normal - 0x38000000u + 0xfffu + ((normal >> 13) & 1u)) >> 13;
  }
  return static_cast<uint16_t>(half | sign);
}

#if TDAS_OPS_VECTOR_BYTES == 64

TDAS_OPS_INLINE Singles root(Singles x) {
  return reinterpret_cast<Singles>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(x)));
}
TDAS_OPS_INLINE Singles to_singles(Words x) {
  return reinterpret_cast<Singles>(_mm512_maskz_cvtepu32_ps(0xffff, reinterpret_cast<__m512i>(x)));
}
TDAS_OPS_INLINE WideWords multiply(WideWords a, WideWords b) {
  return reinterpret_cast<WideWords>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
// The low words of `even` and `odd`, alternating.
TDAS_OPS_INLINE Words interleave(WideWords even, WideWords odd) {
  return reinterpret_cast<Words>(_mm512_mask_shuffle_epi32(reinterpret_cast<__m512i>(even), 0xAAAA,
                                                           reinterpret_cast<__m512i>(odd), _MM_PERM_CCAA));
}
TDAS_OPS_INLINE WideWords exclusive_or(WideWords a, WideWords b, WideWords c) {
  return reinterpret_cast<WideWords>(_mm512_ternarylogic_epi64(
      reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b), reinterpret_cast<__m512i>(c), 0x96));
}
// The exponent e and significand 1 + m of x = 2^e (1 + m), m in [-1/4, 1/2), as floats; the product with 4/3 rounds so
// that both agree for every x.
TDAS_OPS_INLINE Singles split_exponent(Singles x, Singles& significand) {
  significand = reinterpret_cast<Singles>(
      _mm512_getmant_ps(reinterpret_cast<__m512>(x), _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src));
  return reinterpret_cast<Singles>(_mm512_getexp_ps(reinterpret_cast<__m512>(x * 1.33333337f)));
}
TDAS_OPS_INLINE Singles widen_bfloat16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Singles>(reinterpret_cast<Words>(_mm512_cvtepu16_epi32(bits)) << 16);
}
TDAS_OPS_INLINE Singles widen_half(const uint16_t* p) {
  return reinterpret_cast<Singles>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}

#elif TDAS_OPS_VECTOR_BYTES == 32

TDAS_OPS_INLINE Singles root(Singles x) {
  return reinterpret_cast<Singles>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
}
TDAS_OPS_INLINE WideWords multiply(WideWords a, WideWords b) {
  return reinterpret_cast<WideWords>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
TDAS_OPS_INLINE Words interleave(WideWords even, WideWords odd) {
  return reinterpret_cast<Words>(
      _mm256_blend_epi32(reinterpret_cast<__m256i>(even), reinterpret_cast<__m256i>(odd << 32), 0xAA));
}
TDAS_OPS_INLINE Singles widen_bfloat16(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Singles>(reinterpret_cast<Words>(_mm256_cvtepu16_epi32(bits)) << 16);
}
TDAS_OPS_INLINE Singles widen_half(const uint16_t* p) {
  return reinterpret_cast<Singles>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

#else

TDAS_OPS_INLINE Singles root(Singles x) {
#if defined(__x86_64__)
  return reinterpret_cast<Singles>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#else
  for (int i = 0; i < word_lanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
TDAS_OPS_INLINE WideWords multiply(WideWords a, WideWords b) {
#if defined(__x86_64__)
  return reinterpret_cast<WideWords>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#elif defined(__aarch64__)
  return reinterpret_cast<WideWords>(
      vmull_u32(vmovn_u64(reinterpret_cast<uint64x2_t>(a)), vmovn_u64(reinterpret_cast<uint64x2_t>(b))));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}
TDAS_OPS_INLINE Words interleave(WideWords even, WideWords odd) {
  return reinterpret_cast<Words>((even & 0xffffffffu) | (odd << 32));
}
TDAS_OPS_INLINE Singles widen_bfloat16(const uint16_t* p) {
  return Singles{from_bfloat16(p[0]), from_bfloat16(p[1]), from_bfloat16(p[2]), from_bfloat16(p[3])};
}
TDAS_OPS_INLINE Singles widen_half(const uint16_t* p) {
#if defined(__aarch64__)
  return reinterpret_cast<Singles>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))));
#else
  return Singles{from_half(p[0]), from_half(p[1]), from_half(p[2]), from_half(p[3])};
#endif
}

#endif

#if TDAS_OPS_VECTOR_BYTES != 64
// The exponent e and significand 1 + m of x = 2^e (1 + m), m in [-1/4, 1/2), as floats.
TDAS_OPS_INLINE Singles split_exponent(Singles x, Singles& significand) {
  const Ints bits = reinterpret_cast<Ints>(x), exponent = (bits - 0x3f400000) >> 23;
  significand = reinterpret_cast<Singles>(bits - (exponent << 23));
  return __builtin_convertvector(exponent, Singles);
}
TDAS_OPS_INLINE WideWords exclusive_or(WideWords a, WideWords b, WideWords c) { return a ^ b ^ c; }
// Rounded once, as the conversion of AVX-512 is: both halves and the product are exact.
TDAS_OPS_INLINE Singles to_singles(Words x) {
  return __builtin_convertvector(reinterpret_cast<Ints>(x >> 16), Singles) * 65536.0f +
         __builtin_convertvector(reinterpret_cast<Ints>(x & 0xffffu), Singles);
}
#endif

}  // namespace
}  // namespace tdas_ops::cpu

#ifdef TDAS_OPS_DOUBLE
#include "vector_double.h"
#else
#include "vector_float.h"
#endif
