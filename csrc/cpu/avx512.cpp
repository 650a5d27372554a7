#if defined(__x86_64__)
// Before the pragma, so that the standard library's inline functions keep the baseline.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c,prefer-vector-width=512")
#define TDAS_OPS_VECTOR_BYTES 64
#include "all_kernels.h"

namespace tdas_ops::cpu {

extern const Kernels kernels_avx512;
constexpr Kernels kernels_avx512 = all_kernels("avx512");

}  // namespace tdas_ops::cpu
#endif
