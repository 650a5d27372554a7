// Complex unit normals in vectors: the formula of philox.h, with polynomials for the logarithm and the circle.
#pragma once

#include "../philox.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

// One draw of one sample: everything of the Philox key and counter but the quad. Round keys are made once.
struct Draw {
  uint64_t round_keys[10][2];
  uint64_t sample, low, high;

  Draw(int64_t seed, int64_t sample_index, int64_t draw) {
    PhiloxKey key = philox_key(seed);
    for (auto& round : round_keys) {
      round[0] = key.low;
      round[1] = key.high;
      key = {key.low + 0x9E3779B9u, key.high + 0xBB67AE85u};
    }
    const PhiloxWords counter = philox_counter(0, static_cast<uint32_t>(sample_index), draw);
    sample = counter.w1;
    low = counter.w2;
    high = counter.w3;
  }
};

TDAS_OPS_INLINE WideWords broadcast_word(uint64_t value) { return value - WideWords{}; }

// Quads of the lanes relative to the first one: lane l is at l * step.
struct LaneQuads {
  WideWords even, odd;

  explicit LaneQuads(uint64_t step) {
    for (int i = 0; i < lanes / 2; ++i) {
      even[i] = step * (2 * i);
      odd[i] = step * (2 * i + 1);
    }
  }
};

// -2 ln u with u = 2^e (1 + m), -2 ln(1 + m) = m p(m). Close to u = 1 float32 cannot hold 1 - u, so for e = 0 m comes
// from the word itself: as a signed number it is 2^32 (u - 1).
TDAS_OPS_INLINE Floats minus_two_log(Words word) {
  const Floats u = to_floats(word) * 0x1p-32f + 0x1p-33f;
  const Floats below_one = __builtin_convertvector(reinterpret_cast<Ints>(word), Floats) * 0x1p-32f + 0x1p-33f;
  Floats significand;
  const Floats e = split_exponent(u, significand);
  const Floats m = e == 0.0f ? below_one : significand - 1.0f;
  Floats p = 0.132921204f * m - 0.282637328f;
  p = p * m + 0.347444445f;
  p = p * m - 0.402160674f;
  p = p * m + 0.499535829f;
  p = p * m - 0.666595280f;
  p = p * m + 1.00000429f;
  p = p * m - 2.00000024f;
  return p * m + e * -1.38629436f;
}

// rho (cos theta, sin theta) with theta = 2 pi angle / 2^32: half a turn is taken off by a sign, so that polynomials
// over a quarter of a turn to both sides remain.
TDAS_OPS_INLINE Complexes box_muller(Words radius, Words angle) {
  const Words doubled = angle << 1;
  const Floats t = __builtin_convertvector(reinterpret_cast<Ints>(doubled), Floats) * 0x1p-33f;
  const Floats rho = reinterpret_cast<Floats>(reinterpret_cast<Words>(root(minus_two_log(radius))) ^
                                              ((angle ^ doubled) & 0x80000000u));
  const Floats t2 = t * t;
  Floats sine = 39.5369225f * t2 - 76.5498123f;
  sine = sine * t2 + 81.6010056f;
  sine = sine * t2 - 41.3416557f;
  sine = sine * t2 + 6.28318501f;
  Floats cosine = 56.242382f * t2 - 85.2403336f;
  cosine = cosine * t2 + 64.9345932f;
  cosine = cosine * t2 - 19.7391720f;
  cosine = cosine * t2 + 0.99999994f;
  return {rho * cosine, rho * (t * sine)};
}

// The two elements that the calls of each lane make, for `groups` first quads at once: as many as the registers hold.
constexpr int groups_at_once = vector_bytes == 64 ? 2 : 1;

template <int groups>
TDAS_OPS_INLINE void draw_normals(const Draw& draw, const uint32_t (&first)[groups], const LaneQuads& quads,
                                  Complexes (&result)[groups][2]) {
  WideWords w0[2 * groups], w1[2 * groups], w2[2 * groups], w3[2 * groups];
  TDAS_OPS_UNROLL
  for (int s = 0; s < 2 * groups; ++s) {
    w0[s] = broadcast_word(first[s / 2]) + (s % 2 == 0 ? quads.even : quads.odd);
    w1[s] = broadcast_word(draw.sample);
    w2[s] = broadcast_word(draw.low);
    w3[s] = broadcast_word(draw.high);
  }
  TDAS_OPS_UNROLL
  for (int round = 0; round < 10; ++round) {
    const WideWords low = broadcast_word(draw.round_keys[round][0]), high = broadcast_word(draw.round_keys[round][1]);
    TDAS_OPS_UNROLL
    for (int s = 0; s < 2 * groups; ++s) {
      const WideWords product0 = multiply(w0[s], broadcast_word(0xD2511F53u));
      const WideWords product2 = multiply(w2[s], broadcast_word(0xCD9E8D57u));
      w0[s] = exclusive_or(product2 >> 32, w1[s], low);
      w1[s] = product2;
      w2[s] = exclusive_or(product0 >> 32, w3[s], high);
      w3[s] = product0;
    }
  }
  TDAS_OPS_UNROLL
  for (int g = 0; g < groups; ++g) {
    result[g][0] = box_muller(interleave(w0[2 * g], w0[2 * g + 1]), interleave(w1[2 * g], w1[2 * g + 1]));
    result[g][1] = box_muller(interleave(w2[2 * g], w2[2 * g + 1]), interleave(w3[2 * g], w3[2 * g + 1]));
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
