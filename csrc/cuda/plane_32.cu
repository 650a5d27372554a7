#include "plane.cuh"

namespace tdas_ops::cuda {

const PlaneKernels planes_of_32[3] = {plane_kernels<32, 32>(), plane_kernels<32, 64>(), plane_kernels<32, 128>()};

}  // namespace tdas_ops::cuda
