// What a formula needs to be inlined and unrolled by the host's compiler and by nvcc alike; the host's instruction
// sets.
#pragma once

#ifdef __CUDACC__
#define TDAS_OPS_INLINE __host__ __device__ __forceinline__
#define TDAS_OPS_UNROLL _Pragma("unroll")
#else
#define TDAS_OPS_INLINE inline __attribute__((always_inline))
#define TDAS_OPS_UNROLL _Pragma("GCC unroll 16")
#endif

// All functions between both may use these instructions. Headers of the standard library come before, so that their
// inline functions keep the baseline.
#define TDAS_OPS_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define TDAS_OPS_TARGET(features) \
  TDAS_OPS_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TDAS_OPS_TARGET_END TDAS_OPS_PRAGMA(clang attribute pop)
#else
#define TDAS_OPS_TARGET(features) TDAS_OPS_PRAGMA(GCC push_options) TDAS_OPS_PRAGMA(GCC target(features))
#define TDAS_OPS_TARGET_END TDAS_OPS_PRAGMA(GCC pop_options)
#endif
