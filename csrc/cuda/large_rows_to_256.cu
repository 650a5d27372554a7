#include "large.cuh"

namespace tdas_ops::cuda {

const RowKernels rows_to_256[4] = {row_kernels<32>(), row_kernels<64>(), row_kernels<128>(), row_kernels<256>()};

}  // namespace tdas_ops::cuda
