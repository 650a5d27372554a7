// csrc/cuda/noise.cu as a C library for ctypes.
#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/noise.cu"

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

int simt_normal_pairs(float* out, const int64_t* seeds, const int64_t* draw, int64_t pairs, int64_t rows, int64_t width,
                      int64_t first_pair, int seed_per_pair) {
  return tdas_ops::cuda::normal_pairs({out, seeds, draw, pairs, rows, width, first_pair, seed_per_pair != 0}, nullptr);
}

uint32_t simt_quotient(uint32_t n, uint32_t divisor) { return tdas_ops::cuda::Divider(divisor).quotient(n); }
}

#ifdef SIMT_MAIN
// pairs, rows, width: runs on buffers of exactly the size needed, for the address sanitizer.
int main(int, char** arguments) {
  const int64_t pairs = std::atoll(arguments[1]), rows = std::atoll(arguments[2]), width = std::atoll(arguments[3]);
  std::vector<float> out(2 * pairs * rows * width);
  const std::vector<int64_t> seeds{7}, draw{3};
  return simt_normal_pairs(out.data(), seeds.data(), draw.data(), pairs, rows, width, 0, 0);
}
#endif
