// The kernels of large planes of csrc/cuda of one size, SIMT_HEIGHT x SIMT_WIDTH, as a C library for ctypes. The
// scratch holds SIMT_PLANES planes, and ends with the last of them.
#include "large_sizes.h"
// After the harness.
#include "cuda/snr.cu"

namespace {

struct OwnScratch {
  std::vector<float> floats;
  tdas_ops::cuda::Scratch scratch;

  explicit OwnScratch(const tdas_ops::cuda::UpdateArgs& args)
      : OwnScratch(args, simt::setting("SIMT_PLANES", static_cast<int>(args.batch * args.channels))) {}

  OwnScratch(const tdas_ops::cuda::UpdateArgs& args, int64_t planes) {
    scratch.planes = scratch.chunk = planes;
    scratch.spectra = 1;
    floats.assign(scratch.planes * tdas_ops::cuda::scratch_of_plane(args.height, args.width), NAN);
    scratch.data = floats.data();
  }
};

}  // namespace

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

uint64_t simt_args_bytes() { return sizeof(tdas_ops::cuda::UpdateArgs); }

int simt_has_kernel(int64_t height, int64_t width) {
  tdas_ops::cuda::UpdateArgs args = {};
  args.height = height;
  args.width = width;
  return tdas_ops::cuda::has_large_kernel(height, width) || tdas_ops::cuda::has_ticket_kernel(args);
}

int simt_update(const tdas_ops::cuda::UpdateArgs* args) {
  const OwnScratch own(*args);
  return tdas_ops::cuda::update_large(*args, own.scratch, nullptr);
}
}
