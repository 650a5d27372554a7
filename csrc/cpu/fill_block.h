// The body of fill_block_*, compiled once for each instruction set. The including file names it with `#pragma GCC
// target` and defines TDAS_OPS_VECTOR_BYTES to match (older compilers set no macro after the pragma). Everything is
// local to that file, so no other code gets those instructions.
#if defined(TDAS_OPS_VECTOR_BYTES)
#include <immintrin.h>
#endif

#include <cstring>

#include "block.h"
#include "polynomial_math.h"

namespace tdas_ops::cpu {
namespace {

#if defined(TDAS_OPS_VECTOR_BYTES)

constexpr int vector_bytes = TDAS_OPS_VECTOR_BYTES, lanes = vector_bytes / 8;
constexpr int streams = vector_bytes == 64 ? 4 : 2;  // as many as the registers hold

// A Philox word a 64-bit lane. Only the low 32 bits count: the multiply ignores the rest, which saves the masking.
using Words = uint64_t __attribute__((vector_size(vector_bytes)));
using NarrowWords = uint32_t __attribute__((vector_size(vector_bytes / 2)));

inline Words multiply(Words a, Words b) {
#if TDAS_OPS_VECTOR_BYTES == 64
  return reinterpret_cast<Words>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif TDAS_OPS_VECTOR_BYTES == 32
  return reinterpret_cast<Words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return reinterpret_cast<Words>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#endif
}

inline Words broadcast(uint32_t word) { return Words{} + word; }

inline void store_low_halves(uint32_t* target, Words words) {
  const NarrowWords narrow = __builtin_convertvector(words, NarrowWords);
  std::memcpy(target, &narrow, sizeof(narrow));
}

// Several independent streams hide the latency of the multiply.
inline void fill_words(uint32_t (&words)[4][quads_per_block], PhiloxWords first, PhiloxKey key) {
  Words lane{};
  for (int i = 0; i < lanes; ++i) lane[i] = static_cast<uint64_t>(i);
  for (int start = 0; start < quads_per_block; start += streams * lanes) {
    Words w0[streams], w1[streams], w2[streams], w3[streams];
    for (int s = 0; s < streams; ++s) {
      w0[s] = lane + broadcast(first.w0 + static_cast<uint32_t>(start + s * lanes));
      w1[s] = broadcast(first.w1);
      w2[s] = broadcast(first.w2);
      w3[s] = broadcast(first.w3);
    }
    PhiloxKey round_key = key;
    TDAS_OPS_UNROLL
    for (int round = 0; round < 10; ++round) {
      TDAS_OPS_UNROLL
      for (int s = 0; s < streams; ++s) {
        const Words product0 = multiply(w0[s], broadcast(0xD2511F53u));
        const Words product2 = multiply(w2[s], broadcast(0xCD9E8D57u));
        w0[s] = (product2 >> 32) ^ w1[s] ^ broadcast(round_key.low);
        w1[s] = product2;
        w2[s] = (product0 >> 32) ^ w3[s] ^ broadcast(round_key.high);
        w3[s] = product0;
      }
      round_key = {round_key.low + 0x9E3779B9u, round_key.high + 0xBB67AE85u};
    }
    for (int s = 0; s < streams; ++s) {
      store_low_halves(words[0] + start + s * lanes, w0[s]);
      store_low_halves(words[1] + start + s * lanes, w1[s]);
      store_low_halves(words[2] + start + s * lanes, w2[s]);
      store_low_halves(words[3] + start + s * lanes, w3[s]);
    }
  }
}

#else

inline void fill_words(uint32_t (&words)[4][quads_per_block], PhiloxWords first, PhiloxKey key) {
  for (int quad = 0; quad < quads_per_block; ++quad) {
    const PhiloxWords r = philox4x32({first.w0 + static_cast<uint32_t>(quad), first.w1, first.w2, first.w3}, key);
    words[0][quad] = r.w0;
    words[1][quad] = r.w1;
    words[2][quad] = r.w2;
    words[3][quad] = r.w3;
  }
}

#endif

// The loop the compiler turns into vectors.
inline void fill_normals(float* normals, const uint32_t* radius_words, const uint32_t* angle_words) {
  for (int quad = 0; quad < quads_per_block; ++quad) {
    const ComplexNormal g = box_muller<PolynomialMath>(radius_words[quad], angle_words[quad]);
    normals[2 * quad] = g.real;
    normals[2 * quad + 1] = g.imag;
  }
}

inline void fill_block(Block& block, PhiloxWords first, PhiloxKey key) {
  alignas(64) uint32_t words[4][quads_per_block];
  fill_words(words, first, key);
  fill_normals(block.left, words[0], words[1]);
  fill_normals(block.right, words[2], words[3]);
}

}  // namespace
}  // namespace tdas_ops::cpu
