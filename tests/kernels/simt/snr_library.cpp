// langevin_step of planes on chip in one launch and in three, as a C library for ctypes, of the kinds
// SIMT_KINDS(height, width). Blocks run at once. Its program takes planes of SIMT_HEIGHT x SIMT_WIDTH.
#include <cstdio>

#define SIMT_THREADS
#define SIMT_SNR
#include "plane_sizes.h"
// After the harness.
#include "cuda/snr.cu"

namespace {

using namespace tdas_ops::cuda;

// squares[batch, channels, 2], eta[batch]
cudaError_t in_launches(UpdateArgs args, const SnrArgs& rule, float* squares) {
  cudaError_t error = measure_planes(args, squares, nullptr);
  if (error == cudaSuccess) error = snr_rule(rule, nullptr);
  args.d = {rule.eta, Number::float32, true, 0.0f};
  args.langevin_noise = true;
  return error == cudaSuccess ? update_planes(args, nullptr) : error;
}

cudaError_t in_one_launch(const UpdateArgs& args, SnrArgs rule, float* squares) {
  std::vector<uint32_t> counters(args.batch, 7);
  rule.eta = nullptr;
  if (!has_snr_kernel(args, rule.per_sample, simt::multiprocessors())) return cudaErrorInvalidValue;
  return langevin_planes(args, rule, squares, counters.data(), nullptr);
}

}  // namespace

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

uint64_t simt_args_bytes() { return sizeof(UpdateArgs); }

int simt_has_kernel(int64_t height, int64_t width) { return has_plane_kernel(height, width); }

int simt_update(const UpdateArgs* args) { return update_planes(*args, nullptr); }

int simt_langevin(const UpdateArgs* args, double snr, const Scale* alpha, int per_sample, int cooperative,
                  float* squares, float* eta) {
  const SnrArgs rule = {squares, eta, args->batch, args->channels, snr, *alpha, per_sample != 0};
  return cooperative ? in_one_launch(*args, rule, squares) : in_launches(*args, rule, squares);
}
}

#ifdef SIMT_MAIN
// batch, channels, whether norms are those of each sample: a step in place, for the thread sanitizer.
int main(int, char** arguments) {
  UpdateArgs args = {};
  args.filter = tdas_ops::Filter::drift;
  args.batch = std::atoll(arguments[1]);
  args.channels = std::atoll(arguments[2]);
  args.height = SIMT_HEIGHT;
  args.width = SIMT_WIDTH;
  const int64_t plane = args.height * args.width, planes = args.batch * args.channels, seed = 7, draw = 3;
  std::vector<float> x(planes * plane, 1.0f), v(x), squares(2 * planes);
  const std::vector<float> freq(args.channels * args.height * (args.width / 2 + 1), 1.0f);
  const auto field = [&](auto* data) {
    return tdas_ops::FieldOf<std::remove_pointer_t<decltype(data)>>{
        data, tdas_ops::Element::float32, {args.channels * plane, plane, args.width, 1}};
  };
  args.out = field(static_cast<void*>(x.data()));
  args.base = tdas_ops::constant(args.out);
  args.v = field(static_cast<const void*>(v.data()));
  args.masks.freq = freq.data();
  args.seeds = &seed;
  args.draw = &draw;
  const Scale alpha = {nullptr, Number::float32, false, 1.0f};
  const bool per_sample = std::atoi(arguments[3]) != 0;
  const SnrArgs rule = {squares.data(), nullptr, args.batch, args.channels, 0.16, alpha, per_sample};
  const int status = in_one_launch(args, rule, squares.data());
  if (status != cudaSuccess) std::fprintf(stderr, "%s\n", simt_error());
  return status;
}
#endif
