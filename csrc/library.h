// What the library with the ops offers to the Python module beside it (binding.cpp), without Python and without torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#define TDAS_OPS_EXPORT __attribute__((visibility("default")))

namespace tdas_ops {

struct BuildInfo {
  std::string compiler, cpu_instruction_set;
  std::string cuda;  // such as "13.0"; empty where there are no CUDA kernels
  std::vector<std::string> cuda_architectures;
};

TDAS_OPS_EXPORT BuildInfo build_info();

#ifdef TDAS_OPS_WITH_CUDA

// Bytes of scratch that passes over large planes take at most, beyond what one plane needs; 0 is what keeps a device
// busy, or up to 1 GiB where spectra stay from the norms of langevin_step to its update.
TDAS_OPS_EXPORT void limit_scratch(int64_t bytes);

#endif

}  // namespace tdas_ops
