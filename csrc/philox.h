// The random words of the noise, for host and device: Philox4x32-10 (Salmon et al. 2011).
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

}  // namespace tdas_ops
