// Logarithm, sine and cosine to about one unit in the last place without libm, so that the compiler can vectorise them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../philox.h"

namespace tdas_ops {

template <class To, class From>
TDAS_OPS_INLINE To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Every operation here is rounded as IEEE 754 says, and the build forbids contraction: all instruction sets give the
// same bits.
struct PolynomialMath {
  static TDAS_OPS_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

  static TDAS_OPS_INLINE float root(float x) { return __builtin_sqrtf(x); }

  // u = 2^e (1 + m) with 1 + m in [sqrt(1/2), sqrt(2)); ln(1 + m) = m - m^2/2 + m^3 P(m), P a minimax polynomial; ln 2
  // is split in two so that e ln 2 is exact to the last place.
  static TDAS_OPS_INLINE float minus_two_log(float u) {
    const int32_t bits = bit_cast<int32_t>(u);
    const int32_t e = (bits - 0x3f3504f3) >> 23;
    const float m =
        bit_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(bits) - (static_cast<uint32_t>(e) << 23))) - 1.0f;
    const float exponent = static_cast<float>(e);
    float p = 7.0376836292e-2f;
    p = fused(p, m, -1.1514610310e-1f);
    p = fused(p, m, 1.1676998740e-1f);
    p = fused(p, m, -1.2420140846e-1f);
    p = fused(p, m, 1.4249322787e-1f);
    p = fused(p, m, -1.6668057665e-1f);
    p = fused(p, m, 2.0000714765e-1f);
    p = fused(p, m, -2.4999993993e-1f);
    p = fused(p, m, 3.3333331174e-1f);
    const float m2 = m * m;
    float tail = fused(exponent, -2.12194440e-4f, m * m2 * p);
    tail = fused(-0.5f, m2, tail);
    return -2.0f * fused(exponent, 0.693359375f, m + tail);
  }

  // cos and sin of pi x for |x| <= 1. Adding 1.5 * 2^23 rounds 2x to an integer and leaves the quadrant in the low
  // bits.
  static TDAS_OPS_INLINE ComplexNormal turn(float x) {
    constexpr float round_to_integer = 12582912.0f;
    const float shifted = fused(2.0f, x, round_to_integer);
    const uint32_t quadrant = bit_cast<uint32_t>(shifted);
    const float angle = fused(shifted - round_to_integer, -0.5f, x) * 3.14159274f;
    const float a2 = angle * angle;
    const float sine =
        fused(fused(fused(-1.9515295891e-4f, a2, 8.3321608736e-3f), a2, -1.6666654611e-1f) * a2, angle, angle);
    const float cosine =
        fused(fused(fused(2.443315711809948e-5f, a2, -1.388731625493765e-3f), a2, 4.166664568298827e-2f), a2 * a2,
              fused(-0.5f, a2, 1.0f));
    const bool swapped = (quadrant & 1u) != 0;
    const uint32_t cosine_sign = ((quadrant + 1u) & 2u) << 30, sine_sign = (quadrant & 2u) << 30;
    return {bit_cast<float>(bit_cast<uint32_t>(swapped ? sine : cosine) ^ cosine_sign),
            bit_cast<float>(bit_cast<uint32_t>(swapped ? cosine : sine) ^ sine_sign)};
  }
};

}  // namespace tdas_ops
