// The kernels of large planes of csrc/cuda: rows of the widths for which SIMT_HAS_WIDTH(width) holds; columns of every
// kind for the heights for which SIMT_HAS_HEIGHT(height) holds, or of the kinds SIMT_COLUMN_KINDS(height), bits
// 1 << Kind.
#pragma once

#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/large.cu"

namespace tdas_ops::cuda {

template <int W>
constexpr RowKernels compiled_rows() {
  if constexpr (SIMT_HAS_WIDTH(W)) return row_kernels<W>();
  return {};
}

inline void missing_kernel(LargeWork) { throw std::runtime_error("a kernel that is not in this library"); }

template <int H>
constexpr ColumnKernels compiled_columns() {
#ifdef SIMT_COLUMN_KINDS
  if constexpr (SIMT_COLUMN_KINDS(H) != 0) {
    ColumnKernels kernels = {H, ColumnShape<H>::columns, ColumnShape<H>::shared_bytes, {}};
    const auto add = [&]<Kind kind>() {
      constexpr int i = static_cast<int>(kind);
      kernels.kernels[i] = missing_kernel;
      if constexpr (SIMT_COLUMN_KINDS(H) >> i & 1) kernels.kernels[i] = columns_kernel<H, kind>;
    };
    add.template operator()<Kind::drift>();
    add.template operator()<Kind::skewed_drift>();
    add.template operator()<Kind::noise>();
    add.template operator()<Kind::pixels>();
    add.template operator()<Kind::measure>();
    return kernels;
  }
#else
  if constexpr (SIMT_HAS_HEIGHT(H)) return column_kernels<H>();
#endif
  return {};
}

}  // namespace tdas_ops::cuda

#define row_kernels compiled_rows
#define column_kernels compiled_columns
#include "cuda/large_columns_from_512.cu"
#include "cuda/large_columns_to_256.cu"
#include "cuda/large_rows_from_512.cu"
#include "cuda/large_rows_to_256.cu"
