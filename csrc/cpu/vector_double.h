// What vectors of float and vectors of double each have words of their own for: double. Included by vector.h.
#pragma once

namespace tdas_ops::cpu {
namespace {

// The first half of the lanes, part 0, or the second one.
TDAS_OPS_INLINE Floats widened(Singles x, int part) {
#if TDAS_OPS_VECTOR_BYTES == 64
  const __m512 all = reinterpret_cast<__m512>(x);
  const __m256 half = part == 0 ? _mm512_castps512_ps256(all) : _mm512_maskz_extractf32x8_ps(0xff, all, 1);
  return reinterpret_cast<Floats>(_mm512_maskz_cvtps_pd(0xff, half));
#elif TDAS_OPS_VECTOR_BYTES == 32
  const __m256 all = reinterpret_cast<__m256>(x);
  return reinterpret_cast<Floats>(
      _mm256_cvtps_pd(part == 0 ? _mm256_castps256_ps128(all) : _mm256_extractf128_ps(all, 1)));
#elif defined(__aarch64__)
  const float32x4_t all = reinterpret_cast<float32x4_t>(x);
  return reinterpret_cast<Floats>(part == 0 ? vcvt_f64_f32(vget_low_f32(all)) : vcvt_high_f64_f32(all));
#else
  return Floats{x[2 * part], x[2 * part + 1]};
#endif
}

TDAS_OPS_INLINE void store_past_cache(double* p, Floats value) {
#if TDAS_OPS_VECTOR_BYTES == 64
  _mm512_stream_pd(p, reinterpret_cast<__m512d>(value));
#elif TDAS_OPS_VECTOR_BYTES == 32
  _mm256_stream_pd(p, reinterpret_cast<__m256d>(value));
#else
  store(p, value);
#endif
}

template <class Load>
TDAS_OPS_INLINE void transpose(Load row, Floats (&result)[lanes]) {
#if TDAS_OPS_VECTOR_BYTES == 64
  __m512d r[8], t[8];
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) r[i] = reinterpret_cast<__m512d>(row(i));
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; i += 2) {  // 128 bits q of t[i + c] hold column 2 q + c of rows i and i + 1
    t[i] = _mm512_maskz_unpacklo_pd(0xff, r[i], r[i + 1]);
    t[i + 1] = _mm512_maskz_unpackhi_pd(0xff, r[i], r[i + 1]);
  }
  TDAS_OPS_UNROLL
  for (int c = 0; c < 2; ++c) {
    const __m512d a0 = _mm512_maskz_shuffle_f64x2(0xff, t[c], t[2 + c], 0x88);
    const __m512d a1 = _mm512_maskz_shuffle_f64x2(0xff, t[c], t[2 + c], 0xDD);
    const __m512d b0 = _mm512_maskz_shuffle_f64x2(0xff, t[4 + c], t[6 + c], 0x88);
    const __m512d b1 = _mm512_maskz_shuffle_f64x2(0xff, t[4 + c], t[6 + c], 0xDD);
    result[c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f64x2(0xff, a0, b0, 0x88));
    result[2 + c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f64x2(0xff, a1, b1, 0x88));
    result[4 + c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f64x2(0xff, a0, b0, 0xDD));
    result[6 + c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f64x2(0xff, a1, b1, 0xDD));
  }
#elif TDAS_OPS_VECTOR_BYTES == 32
  __m256d r[4], t[4];
  TDAS_OPS_UNROLL
  for (int i = 0; i < 4; ++i) r[i] = reinterpret_cast<__m256d>(row(i));
  TDAS_OPS_UNROLL
  for (int i = 0; i < 4; i += 2) {
    t[i] = _mm256_unpacklo_pd(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_pd(r[i], r[i + 1]);
  }
  TDAS_OPS_UNROLL
  for (int c = 0; c < 2; ++c) {
    result[c] = reinterpret_cast<Floats>(_mm256_permute2f128_pd(t[c], t[2 + c], 0x20));
    result[2 + c] = reinterpret_cast<Floats>(_mm256_permute2f128_pd(t[c], t[2 + c], 0x31));
  }
#else
  const Floats a = row(0), b = row(1);
  result[0] = Floats{a[0], b[0]};
  result[1] = Floats{a[1], b[1]};
#endif
}

}  // namespace
}  // namespace tdas_ops::cpu
