// The plane kernels of csrc/cuda as a C library for ctypes.
#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/plane.cu"
#include "cuda/plane_128.cu"
#include "cuda/plane_32.cu"
#include "cuda/plane_64.cu"

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

int simt_update(const tdas_ops::cuda::PlaneArgs* args) { return tdas_ops::cuda::update_planes(*args, nullptr); }
}
