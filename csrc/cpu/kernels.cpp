#include "instruction_sets.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tdas_ops::cpu {

namespace {

template <class T>
const KernelsOf<T>& choose() {
  const char* asked = std::getenv("TDAS_OPS_CPU_ISA");
  const std::string name = asked == nullptr ? "" : asked;
#if defined(__x86_64__)
  unsigned eax, ebx, ecx = 0, edx;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);  // clang 14 does not know "f16c" by name
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & bit_F16C) != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && (name.empty() || name == "avx512")) return of_avx512<T>();
  if (avx2 && (name.empty() || name == "avx2")) return of_avx2<T>();
#endif
  if (name.empty() || name == "baseline") return of_baseline<T>();
  throw std::invalid_argument("TDAS_OPS_CPU_ISA is '" + name +
                              "'; expected avx512, avx2 or baseline, and one that this machine has.");
}

}  // namespace

template <class T>
const KernelsOf<T>& kernels() {
  static const KernelsOf<T>& chosen = choose<T>();
  return chosen;
}

template const KernelsOf<float>& kernels();
template const KernelsOf<double>& kernels();

}  // namespace tdas_ops::cpu
