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

// A vector of words has the calls of one group of `lanes`, or of two.
constexpr int groups_in_vector = word_lanes / lanes;

// Quads of a group relative to its first one: lane l is at l * step.
struct LaneQuads {
  WideWords even, odd;

  explicit LaneQuads(uint64_t step) {
    for (int i = 0; i < word_lanes / 2; ++i) {
      even[i] = step * (2 * i % lanes);
      odd[i] = step * ((2 * i + 1) % lanes);
    }
  }
};

// -2 ln u with u = 2^e (1 + m), -2 ln(1 + m) = m p(m). Close to u = 1 float32 cannot hold 1 - u, so for e = 0 m comes
// from the word itself: as a signed number it is 2^32 (u - 1).
TDAS_OPS_INLINE Singles minus_two_log(Words word) {
  const Singles u = to_singles(word) * 0x1p-32f + 0x1p-33f;
  const Singles below_one = __builtin_convertvector(reinterpret_cast<Ints>(word), Singles) * 0x1p-32f + 0x1p-33f;
  Singles significand;
  const Singles e = split_exponent(u, significand);
  const Singles m = e == 0.0f ? below_one : significand - 1.0f;
  Singles p = 0.132921204f * m - 0.282637328f;
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
TDAS_OPS_INLINE Complex<Singles> box_muller(Words radius, Words angle) {
  const Words doubled = angle << 1;
  const Singles t = __builtin_convertvector(reinterpret_cast<Ints>(doubled), Singles) * 0x1p-33f;
  const Singles rho = reinterpret_cast<Singles>(reinterpret_cast<Words>(root(minus_two_log(radius))) ^
                                                ((angle ^ doubled) & 0x80000000u));
  const Singles t2 = t * t;
  Singles sine = 39.5369225f * t2 - 76.5498123f;
  sine = sine * t2 + 81.6010056f;
  sine = sine * t2 - 41.3416557f;
  sine = sine * t2 + 6.28318501f;
  Singles cosine = 56.242382f * t2 - 85.2403336f;
  cosine = cosine * t2 + 64.9345932f;
  cosine = cosine * t2 - 19.7391720f;
  cosine = cosine * t2 + 0.99999994f;
  return {rho * cosine, rho * (t * sine)};
}

// The two elements that the calls of each lane make, for `groups` first quads at once: as many as the registers hold.
// They are made in float whatever Real is.
constexpr int groups_at_once = (vector_bytes == 64 ? 2 : 1) * groups_in_vector;

// The first quad of its group for every other lane.
TDAS_OPS_INLINE WideWords broadcast_quads(const uint32_t* first) {
  const WideWords one = broadcast_word(first[0]);
  if constexpr (groups_in_vector == 1) return one;
  return shuffled(one, broadcast_word(first[groups_in_vector - 1]),
                  [](int i) { return i < lanes / 2 ? i : lanes + i; });
}

template <int groups>
TDAS_OPS_INLINE void draw_normals(const Draw& draw, const uint32_t (&first)[groups], const LaneQuads& quads,
                                  Complexes (&result)[groups][2]) {
  constexpr int vectors = groups / groups_in_vector;
  WideWords w0[2 * vectors], w1[2 * vectors], w2[2 * vectors], w3[2 * vectors];
  TDAS_OPS_UNROLL
  for (int s = 0; s < 2 * vectors; ++s) {
    w0[s] = broadcast_quads(first + s / 2 * groups_in_vector) + (s % 2 == 0 ? quads.even : quads.odd);
    w1[s] = broadcast_word(draw.sample);
    w2[s] = broadcast_word(draw.low);
    w3[s] = broadcast_word(draw.high);
  }
  TDAS_OPS_UNROLL
  for (int round = 0; round < 10; ++round) {
    const WideWords low = broadcast_word(draw.round_keys[round][0]), high = broadcast_word(draw.round_keys[round][1]);
    TDAS_OPS_UNROLL
    for (int s = 0; s < 2 * vectors; ++s) {
      const WideWords product0 = multiply(w0[s], broadcast_word(0xD2511F53u));
      const WideWords product2 = multiply(w2[s], broadcast_word(0xCD9E8D57u));
      w0[s] = exclusive_or(product2 >> 32, w1[s], low);
      w1[s] = product2;
      w2[s] = exclusive_or(product0 >> 32, w3[s], high);
      w3[s] = product0;
    }
  }
  TDAS_OPS_UNROLL
  for (int v = 0; v < vectors; ++v) {
    const Complex<Singles> g[2] = {
        box_muller(interleave(w0[2 * v], w0[2 * v + 1]), interleave(w1[2 * v], w1[2 * v + 1])),
        box_muller(interleave(w2[2 * v], w2[2 * v + 1]), interleave(w3[2 * v], w3[2 * v + 1]))};
    TDAS_OPS_UNROLL
    for (int part = 0; part < groups_in_vector; ++part) {
      TDAS_OPS_UNROLL
      for (int i = 0; i < 2; ++i)
        result[v * groups_in_vector + part][i] = {widened(g[i].re, part), widened(g[i].im, part)};
    }
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
