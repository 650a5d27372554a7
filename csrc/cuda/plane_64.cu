#include "plane.cuh"

namespace tdas_ops::cuda {

const PlaneKernels planes_of_64[3] = {plane_kernels<64, 32>(), plane_kernels<64, 64>(), plane_kernels<64, 128>()};

}  // namespace tdas_ops::cuda
