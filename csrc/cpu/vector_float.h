// What vectors of float and vectors of double each have words of their own for: float. Included by vector.h.
#pragma once

namespace tdas_ops::cpu {
namespace {

// Part 0 is all of it.
TDAS_OPS_INLINE Floats widened(Singles x, int) { return x; }

TDAS_OPS_INLINE void store_past_cache(float* p, Floats value) {
#if TDAS_OPS_VECTOR_BYTES == 64
  _mm512_stream_ps(p, reinterpret_cast<__m512>(value));
#elif TDAS_OPS_VECTOR_BYTES == 32
  _mm256_stream_ps(p, reinterpret_cast<__m256>(value));
#else
  store(p, value);
#endif
}

// The transpose of a square tile: row i of `to` is column i of `from`. Rows of `from` may have any alignment.
#if TDAS_OPS_VECTOR_BYTES == 64
template <class Load>
TDAS_OPS_INLINE void transpose(Load row, Floats (&result)[lanes]) {
  __m512 r[16], t[16];
  TDAS_OPS_UNROLL
  for (int i = 0; i < 16; ++i) r[i] = reinterpret_cast<__m512>(row(i));
  TDAS_OPS_UNROLL
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_ps(0xffff, r[i], r[i + 1]);
    t[i + 1] = _mm512_maskz_unpackhi_ps(0xffff, r[i], r[i + 1]);
  }
  TDAS_OPS_UNROLL
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_maskz_shuffle_ps(0xffff, t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_maskz_shuffle_ps(0xffff, t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm512_maskz_shuffle_ps(0xffff, t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_maskz_shuffle_ps(0xffff, t[i + 1], t[i + 3], 0xEE);
  }
  TDAS_OPS_UNROLL
  for (int c = 0; c < 4; ++c) {  // 128 bits q of r[4 g + c] hold column 4 q + c of rows 4 g to 4 g + 3
    const __m512 a0 = _mm512_maskz_shuffle_f32x4(0xffff, r[c], r[4 + c], 0x88);
    const __m512 a1 = _mm512_maskz_shuffle_f32x4(0xffff, r[c], r[4 + c], 0xDD);
    const __m512 b0 = _mm512_maskz_shuffle_f32x4(0xffff, r[8 + c], r[12 + c], 0x88);
    const __m512 b1 = _mm512_maskz_shuffle_f32x4(0xffff, r[8 + c], r[12 + c], 0xDD);
    result[c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f32x4(0xffff, a0, b0, 0x88));
    result[4 + c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f32x4(0xffff, a1, b1, 0x88));
    result[8 + c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f32x4(0xffff, a0, b0, 0xDD));
    result[12 + c] = reinterpret_cast<Floats>(_mm512_maskz_shuffle_f32x4(0xffff, a1, b1, 0xDD));
  }
}
#elif TDAS_OPS_VECTOR_BYTES == 32
template <class Load>
TDAS_OPS_INLINE void transpose(Load row, Floats (&result)[lanes]) {
  __m256 r[8], t[8];
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) r[i] = reinterpret_cast<__m256>(row(i));
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
  }
  TDAS_OPS_UNROLL
  for (int c = 0; c < 4; ++c) {
    result[c] = reinterpret_cast<Floats>(_mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    result[4 + c] = reinterpret_cast<Floats>(_mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}
#else
template <class Load>
TDAS_OPS_INLINE void transpose(Load row, Floats (&result)[lanes]) {
  const Floats a = row(0), b = row(1), c = row(2), d = row(3);
  const auto low = [](int i) { return i / 2 + i % 2 * 4; };       // 0 4 1 5
  const auto high = [](int i) { return i / 2 + i % 2 * 4 + 2; };  // 2 6 3 7
  const auto first = [](int i) { return i % 2 + i / 2 * 4; };     // 0 1 4 5
  const auto last = [](int i) { return i % 2 + i / 2 * 4 + 2; };  // 2 3 6 7
  const Floats ab0 = shuffled(a, b, low), ab1 = shuffled(a, b, high);
  const Floats cd0 = shuffled(c, d, low), cd1 = shuffled(c, d, high);
  result[0] = shuffled(ab0, cd0, first);
  result[1] = shuffled(ab0, cd0, last);
  result[2] = shuffled(ab1, cd1, first);
  result[3] = shuffled(ab1, cd1, last);
}
#endif

}  // namespace
}  // namespace tdas_ops::cpu
