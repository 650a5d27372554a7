#define TDAS_OPS_VECTOR_BYTES 16
#include "all_kernels.h"

namespace tdas_ops::cpu {

extern const Kernels kernels_baseline;
constexpr Kernels kernels_baseline = all_kernels("baseline");

}  // namespace tdas_ops::cpu
