// The noise formula, for host and device: Philox4x32-10 (Salmon et al. 2011) and Box-Muller in float32.
//
// Key = (seed low, seed high), counter = (quad, sample, draw low, draw high), quad = row * half + column.
// Words 0 and 1 of the result make g at the column, words 2 and 3 make g at column + half.
#pragma once

#include <cstdint>

#include "inline.h"

namespace tdas_ops {

struct PhiloxWords {
  uint32_t w0, w1, w2, w3;
};

struct PhiloxKey {
  uint32_t low, high;
};

TDAS_OPS_INLINE PhiloxKey philox_key(int64_t seed) {
  const uint64_t bits = static_cast<uint64_t>(seed);
  return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
}

TDAS_OPS_INLINE PhiloxWords philox_counter(uint32_t quad, uint32_t sample, int64_t draw) {
  const uint64_t bits = static_cast<uint64_t>(draw);
  return {quad, sample, static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
}

TDAS_OPS_INLINE PhiloxWords philox4x32(PhiloxWords counter, PhiloxKey key) {
  TDAS_OPS_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(counter.w0) * 0xD2511F53u;
    const uint64_t product2 = static_cast<uint64_t>(counter.w2) * 0xCD9E8D57u;
    counter = {static_cast<uint32_t>(product2 >> 32) ^ counter.w1 ^ key.low, static_cast<uint32_t>(product2),
               static_cast<uint32_t>(product0 >> 32) ^ counter.w3 ^ key.high, static_cast<uint32_t>(product0)};
    key = {key.low + 0x9E3779B9u, key.high + 0xBB67AE85u};
  }
  return counter;
}

struct ComplexNormal {
  float real, imag;
};

// g = rho (cos theta + i sin theta), rho = sqrt(-2 ln u), u in (0, 1).
// `Math` gives minus_two_log(u), root(x) and turn(x) -> {cos, sin} of pi x: polynomials on a CPU, the special function
// unit on a GPU. Close to u = 1 float32 cannot hold 1 - u, so there rho^2 comes from a series in v = 1 - u.
template <class Math>
TDAS_OPS_INLINE ComplexNormal box_muller(uint32_t radius_word, uint32_t angle_word) {
  constexpr float unit = 0x1p-32f, half_unit = 0x1p-33f;
  const float u = Math::fused(static_cast<float>(radius_word), unit, half_unit);
  const float v = Math::fused(static_cast<float>(~radius_word), unit, half_unit);
  const float series =
      v * Math::fused(v, Math::fused(v, Math::fused(v, 0.5f, static_cast<float>(2.0 / 3.0)), 1.0f), 2.0f);
  const float rho = Math::root(v < 0x1p-5f ? series : Math::minus_two_log(u));
  const ComplexNormal direction = Math::turn(static_cast<float>(static_cast<int32_t>(angle_word)) * 0x1p-31f);
  return {rho * direction.real, rho * direction.imag};
}

}  // namespace tdas_ops
