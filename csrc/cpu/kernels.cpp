#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tdas_ops::cpu {

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

const Kernels& choose() {
  const char* asked = std::getenv("TDAS_OPS_CPU_ISA");
  const std::string name = asked == nullptr ? "" : asked;
#if defined(__x86_64__)
  unsigned eax, ebx, ecx = 0, edx;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);  // clang 14 does not know "f16c" by name
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & bit_F16C) != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && (name.empty() || name == "avx512")) return kernels_avx512;
  if (avx2 && (name.empty() || name == "avx2")) return kernels_avx2;
#endif
  if (name.empty() || name == "baseline") return kernels_baseline;
  throw std::invalid_argument("TDAS_OPS_CPU_ISA is '" + name +
                              "'; expected avx512, avx2 or baseline, and one that this machine has.");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace tdas_ops::cpu
