#include "library.h"

#include "cpu/kernels.h"
#include "cpu_ops.h"
#include "registration.h"

#ifdef TDAS_OPS_WITH_CUDA
#include "cuda/build.h"
#include "cuda_ops.h"
#endif

namespace tdas_ops {
namespace {

// The schemas are in tdas_ops/_schema.py.
[[maybe_unused]] const bool for_cpu = implement("CPU", {
                                                           {"normals.cpp", &Kernel<&normals_cpp>::call},
                                                           {"noise.cpp", &Kernel<&noise_cpp>::call},
                                                           {"precondition.cpp", &Kernel<&precondition_cpp>::call},
                                                           {"step.cpp", &Kernel<&step_cpp>::call},
                                                           {"langevin_step.cpp", &Kernel<&langevin_step_cpp>::call},
                                                       });

#ifdef TDAS_OPS_WITH_CUDA
[[maybe_unused]] const bool for_cuda = implement("CUDA", {
                                                             {"normals.cuda", &Kernel<&normals_cuda>::call},
                                                             {"noise.cuda", &Kernel<&noise_cuda>::call},
                                                             {"precondition.cuda", &Kernel<&precondition_cuda>::call},
                                                             {"step.cuda", &Kernel<&step_cuda>::call},
                                                             {"langevin_step.cuda", &Kernel<&langevin_step_cuda>::call},
                                                         });
#endif

}  // namespace

BuildInfo build_info() {
#ifdef TDAS_OPS_WITH_CUDA
  return {__VERSION__, cpu::kernels<float>().name, cuda::toolkit_version(), cuda::architectures()};
#else
  return {__VERSION__, cpu::kernels<float>().name, "", {}};
#endif
}

}  // namespace tdas_ops
