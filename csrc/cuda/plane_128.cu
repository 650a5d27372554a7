#include "plane.cuh"

namespace tdas_ops::cuda {

const PlaneKernels planes_of_128[3] = {plane_kernels<128, 32>(), plane_kernels<128, 64>(), plane_kernels<128, 128>()};

}  // namespace tdas_ops::cuda
