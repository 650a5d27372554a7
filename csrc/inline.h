// What a formula needs to be inlined and unrolled by the host's compiler and by nvcc alike.
#pragma once

#ifdef __CUDACC__
#define TDAS_OPS_INLINE __host__ __device__ __forceinline__
#define TDAS_OPS_UNROLL _Pragma("unroll")
#else
#define TDAS_OPS_INLINE inline __attribute__((always_inline))
#define TDAS_OPS_UNROLL _Pragma("GCC unroll 16")
#endif
