#define TDAS_OPS_VECTOR_BYTES 16
#include "all_kernels.h"

namespace tdas_ops::cpu {

template <>
const KernelsOf<Real>& of_baseline() {
  static constexpr KernelsOf<Real> kernels = all_kernels("baseline");
  return kernels;
}

}  // namespace tdas_ops::cpu
