// csrc/cuda/noise.cu as a C library for ctypes.
#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/noise.cu"

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

int simt_normals(float* out, const int64_t* seeds, const int64_t* draw, int64_t samples, int64_t rows, int64_t width,
                 int64_t half, int64_t first_sample, int seed_per_sample) {
  return tdas_ops::cuda::normals({out, seeds, draw, samples, rows, width, half, first_sample, seed_per_sample != 0},
                                 nullptr);
}

uint32_t simt_quotient(uint32_t n, uint32_t divisor) { return tdas_ops::cuda::Divider(divisor).quotient(n); }
}

#ifdef SIMT_MAIN
// samples, rows, width, half: runs on buffers of exactly the size needed, for the address sanitizer.
int main(int, char** arguments) {
  const int64_t samples = std::atoll(arguments[1]), rows = std::atoll(arguments[2]), width = std::atoll(arguments[3]);
  const int64_t half = std::atoll(arguments[4]);
  std::vector<float> out(2 * samples * rows * width);
  const std::vector<int64_t> seeds{7}, draw{3};
  return simt_normals(out.data(), seeds.data(), draw.data(), samples, rows, width, half, 0, 0);
}
#endif
