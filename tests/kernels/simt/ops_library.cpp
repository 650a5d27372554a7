// The CUDA ops of the extension on CPU tensors: csrc/cuda_ops.cpp and every kernel it launches, of the plane
// sizes of SIMT_SIZE, SIMT_HAS_HEIGHT and SIMT_HAS_WIDTH. Blocks of cooperative launches run at once.
#define SIMT_THREADS
#define SIMT_SNR
#define TDAS_OPS_WITH_CUDA
#include "large_sizes.h"
#include "plane_sizes.h"
// After the harness.
#include "arguments.cpp"
#include "cuda/noise.cu"
#include "cuda/pixelwise.cu"
#include "cuda/snr.cu"
#include "cuda_ops.cpp"
#include "registration.h"
#include "tensor.cpp"

extern "C" {

void simt_limit_scratch(int64_t bytes) { tdas_ops::limit_scratch(bytes); }

int simt_launches() { return simt::launches(); }
}

static const bool registered =
    tdas_ops::implement("CPU", {
                                   {"normals.cuda", &tdas_ops::Kernel<&tdas_ops::normals_cuda>::call},
                                   {"noise.cuda", &tdas_ops::Kernel<&tdas_ops::noise_cuda>::call},
                                   {"precondition.cuda", &tdas_ops::Kernel<&tdas_ops::precondition_cuda>::call},
                                   {"step.cuda", &tdas_ops::Kernel<&tdas_ops::step_cuda>::call},
                                   {"langevin_step.cuda", &tdas_ops::Kernel<&tdas_ops::langevin_step_cuda>::call},
                               });
