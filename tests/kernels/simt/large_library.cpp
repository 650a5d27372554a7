// The kernels of large planes of csrc/cuda as a C library for ctypes, see large_sizes.h. The scratch holds SIMT_PLANES
// planes, and ends with the last of them; a launch takes SIMT_CHUNK of them.
#include "large_sizes.h"
// After the harness.
#include "cuda/snr.cu"

namespace {

struct OwnScratch {
  std::vector<float> floats;
  tdas_ops::cuda::Scratch scratch;

  explicit OwnScratch(const tdas_ops::cuda::UpdateArgs& args, int64_t spectra = 1)
      : OwnScratch(args, spectra, simt::setting("SIMT_PLANES", static_cast<int>(args.batch * args.channels))) {}

  OwnScratch(const tdas_ops::cuda::UpdateArgs& args, int64_t spectra, int64_t planes) {
    floats.assign(planes * tdas_ops::cuda::scratch_of_plane(args.height, args.width, spectra), NAN);
    const int64_t chunk = simt::setting("SIMT_CHUNK", static_cast<int>(planes));
    scratch = {floats.data(), planes, std::min(chunk, planes), spectra};
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

// As simt_update, of an update with a space mask, which comes after its norms: squares[batch, channels, 2].
int simt_update_measured(const tdas_ops::cuda::UpdateArgs* args, float* squares) {
  const OwnScratch own(*args, tdas_ops::cuda::measured_spectra(args->filter));
  const cudaError_t error = tdas_ops::cuda::measure_large(*args, squares, own.scratch, nullptr);
  return error != cudaSuccess ? error : tdas_ops::cuda::update_measured(*args, own.scratch, nullptr);
}

int simt_launches() { return simt::launches(); }
}
