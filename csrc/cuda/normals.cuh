// Unit complex normals from the words of Philox, by the special function unit: one instruction for a logarithm, a root,
// a sine or a cosine. About 3e-6 absolute. Outside nvcc (tests run the kernels as C++) the exact functions stand in.
#pragma once

#include <cmath>

#include "../philox.h"
#include "platform.cuh"

namespace tdas_ops::cuda {

#ifdef __CUDACC__

TDAS_OPS_DEVICE float approximate_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

TDAS_OPS_DEVICE float approximate_root(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

TDAS_OPS_DEVICE float approximate_sine(float x) {
  float y;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

TDAS_OPS_DEVICE float approximate_cosine(float x) {
  float y;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#else

inline float approximate_log2(float x) { return std::log2(x); }
inline float approximate_root(float x) { return std::sqrt(x); }
inline float approximate_sine(float x) { return std::sin(x); }
inline float approximate_cosine(float x) { return std::cos(x); }

#endif

// The normal rho (cos theta + i sin theta), not multiplied out: what scales it scales rho.
struct PolarNormal {
  float rho, cos, sin;
};

// The same as it comes: half of the numbers, to be held for later.
struct Polar {
  float rho, theta;

  TDAS_OPS_DEVICE PolarNormal normal() const { return {rho, approximate_cosine(theta), approximate_sine(theta)}; }
};

// Close to u = 1 the logarithm has only an absolute bound, so there -2 ln(1 - v) = 2 v + v^2 + O(v^3): 3e-6 at worst.
TDAS_OPS_DEVICE Polar polar(uint32_t radius_word, uint32_t angle_word) {
  const bool near_one = radius_word >= 0xFF800000u;                                                          // v < 2^-9
  const float t = __fmaf_rn(static_cast<float>(near_one ? ~radius_word : radius_word), 0x1p-32f, 0x1p-33f);  // v or u
  const float square = near_one ? __fmaf_rn(t, t, t + t) : approximate_log2(t) * -1.3862943611198906f;
  const float theta = static_cast<float>(static_cast<int32_t>(angle_word)) * 1.4629180792671596e-9f;  // 2 pi 2^-32
  return {approximate_root(square), theta};
}

TDAS_OPS_DEVICE PolarNormal polar_normal(uint32_t radius_word, uint32_t angle_word) {
  return polar(radius_word, angle_word).normal();
}

struct ComplexNormal {
  float real, imag;
};

TDAS_OPS_DEVICE ComplexNormal complex_normal(uint32_t radius_word, uint32_t angle_word) {
  const PolarNormal g = polar_normal(radius_word, angle_word);
  return {g.rho * g.cos, g.rho * g.sin};
}

}  // namespace tdas_ops::cuda
