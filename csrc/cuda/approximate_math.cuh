// The special function unit's logarithm, root, sine and cosine: about 1e-6 absolute on a normal, one instruction each.
// Outside nvcc (tests run the kernels as C++) the exact functions stand in.
#pragma once

#include <cmath>

#include "../philox.h"

namespace tdas_ops::cuda {

#ifdef __CUDACC__

__device__ __forceinline__ float approximate_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float approximate_root(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float approximate_sine(float x) {
  float y;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float approximate_cosine(float x) {
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

struct ApproximateMath {
  static __device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

  static __device__ __forceinline__ float root(float x) { return approximate_root(x); }

  static __device__ __forceinline__ float minus_two_log(float u) {
    return approximate_log2(u) * -1.3862943611198906f;  // -2 ln 2
  }

  // x = theta / pi is an exact product with a power of two, so theta loses nothing to the detour.
  static __device__ __forceinline__ ComplexNormal turn(float x) {
    const float theta = x * 3.14159274f;
    return {approximate_cosine(theta), approximate_sine(theta)};
  }
};

}  // namespace tdas_ops::cuda
