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

TDAS_OPS_TARGET("avx2,fma,f16c")
#define TDAS_OPS_VECTOR_BYTES 32
#include "all_kernels.h"

namespace tdas_ops::cpu {

template <>
const KernelsOf<Real>& of_avx2() {
  static constexpr KernelsOf<Real> kernels = all_kernels("avx2");
  return kernels;
}

}  // namespace tdas_ops::cpu
TDAS_OPS_TARGET_END
#endif
