#include "plane_snr.cuh"

namespace tdas_ops::cuda {

const SnrKernels snr_sizes[3] = {snr_kernels<32, 32>(), snr_kernels<64, 64>(), snr_kernels<128, 128>()};

}  // namespace tdas_ops::cuda
