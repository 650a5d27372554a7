#include "large.cuh"

namespace tdas_ops::cuda {

const RowKernels rows_from_512[3] = {row_kernels<512>(), row_kernels<1024>(), row_kernels<2048>()};

}  // namespace tdas_ops::cuda
