#include "large.cuh"

namespace tdas_ops::cuda {

const ColumnKernels columns_from_512[3] = {column_kernels<512>(), column_kernels<1024>(), column_kernels<2048>()};

}  // namespace tdas_ops::cuda
