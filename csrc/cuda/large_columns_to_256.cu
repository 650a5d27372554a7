#include "large.cuh"

namespace tdas_ops::cuda {

const ColumnKernels columns_to_256[4] = {column_kernels<32>(), column_kernels<64>(), column_kernels<128>(),
                                         column_kernels<256>()};

}  // namespace tdas_ops::cuda
