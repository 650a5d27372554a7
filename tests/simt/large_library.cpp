// The kernels of large planes of csrc/cuda of one size, SIMT_HEIGHT x SIMT_WIDTH, as a C library for ctypes. The scratch
// holds SIMT_PLANES planes, and ends with the last of them.
#include <cstdlib>

#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/large.cu"
#include "cuda/snr.cu"

namespace tdas_ops::cuda {

template <int W>
constexpr RowKernels compiled_rows() {
  if constexpr (W == SIMT_WIDTH) return row_kernels<W>();
  return {};
}

template <int H>
constexpr ColumnKernels compiled_columns() {
  if constexpr (H == SIMT_HEIGHT) return column_kernels<H>();
  return {};
}

}  // namespace tdas_ops::cuda

#define row_kernels compiled_rows
#define column_kernels compiled_columns
#include "cuda/large_columns_from_512.cu"
#include "cuda/large_columns_to_256.cu"
#include "cuda/large_rows_from_512.cu"
#include "cuda/large_rows_to_256.cu"

namespace {

struct OwnScratch {
  std::vector<float> floats;
  tdas_ops::cuda::Scratch scratch;

  explicit OwnScratch(const tdas_ops::cuda::UpdateArgs& args) {
    const char* planes = std::getenv("SIMT_PLANES");
    scratch.planes = planes == nullptr ? args.batch * args.channels : std::atoi(planes);
    floats.assign(scratch.planes * tdas_ops::cuda::scratch_of_plane(args.height, args.width), NAN);
    scratch.data = floats.data();
  }
};

}  // namespace

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

uint64_t simt_args_bytes() { return sizeof(tdas_ops::cuda::UpdateArgs); }

int simt_has_kernel(int64_t height, int64_t width) { return tdas_ops::cuda::has_large_kernel(height, width); }

int simt_update(const tdas_ops::cuda::UpdateArgs* args) {
  const OwnScratch own(*args);
  return tdas_ops::cuda::update_large(*args, own.scratch, nullptr);
}

int simt_measure(const tdas_ops::cuda::UpdateArgs* args, float* squares) {
  const OwnScratch own(*args);
  return tdas_ops::cuda::measure_large(*args, squares, own.scratch, nullptr);
}
}
