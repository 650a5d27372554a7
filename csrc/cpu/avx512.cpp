#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "../inline.h"

TDAS_OPS_TARGET("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")
#define TDAS_OPS_VECTOR_BYTES 64
#include "all_kernels.h"

namespace tdas_ops::cpu {

template <>
const KernelsOf<Real>& of_avx512() {
  static constexpr KernelsOf<Real> kernels = all_kernels("avx512");
  return kernels;
}

}  // namespace tdas_ops::cpu
TDAS_OPS_TARGET_END
#endif
