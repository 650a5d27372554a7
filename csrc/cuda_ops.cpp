#include "cuda_ops.h"

#include <ATen/ops/empty.h>

#include "cuda/noise.h"
#include "cuda/pixelwise.h"
#include "cuda/plane.h"
#include "cuda/snr.h"
#include "cuda_stream.h"

namespace tdas_ops {
namespace {

// A scale that is a tensor, as the kernels read it; `kept` owns a copy where they cannot read the tensor itself.
cuda::Scale scale_of(const Arguments& arguments, const char* name, double number, const OptionalTensor& tensor,
                     at::Tensor& kept) {
  if (!tensor) return {nullptr, cuda::Number::float32, false, static_cast<float>(number)};
  arguments.check_scale(name, *tensor);
  kept = tensor->contiguous();
  const bool per_sample = kept.numel() > 1;
  switch (kept.scalar_type()) {
    case at::kFloat:
      return {kept.const_data_ptr(), cuda::Number::float32, per_sample, 0.0f};
    case at::kDouble:
      return {kept.const_data_ptr(), cuda::Number::float64, per_sample, 0.0f};
    case at::kBFloat16:
      return {kept.const_data_ptr(), cuda::Number::bfloat16, per_sample, 0.0f};
    case at::kHalf:
      return {kept.const_data_ptr(), cuda::Number::float16, per_sample, 0.0f};
    default:
      TORCH_CHECK_TYPE(false, "cuda kernels: `", name, "` has dtype ", kept.scalar_type(),
                       "; expected float32, float64, bfloat16 or float16.");
  }
}

// Whether an update needs no transform; throws where it needs one of planes that have no kernel.
bool without_transform(const cuda::UpdateArgs& args) {
  if (args.masks.freq == nullptr && args.masks.skew == nullptr) return true;
  TORCH_CHECK_VALUE(args.masks.freq != nullptr && cuda::has_plane_kernel(args.height, args.width),
                    "cuda kernels: `out` has planes of ", args.height, " x ", args.width,
                    args.masks.freq == nullptr ? " without a frequency mask" : "",
                    "; expected a frequency mask and planes of 32, 64 or 128 by 32, 64 or 128.");
  return false;
}

void check_float32(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, "cuda kernels: `", name, "` has dtype ", tensor.scalar_type(),
                   "; expected float32.");
}

// An update of the state x along v, all but its noise and scales.
cuda::UpdateArgs state_update(const Arguments& arguments, const at::Tensor& out, const OptionalTensor& mean,
                              const at::Tensor& x, const char* v_name, const at::Tensor& v, const OptionalTensor& freq,
                              const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift) {
  cuda::UpdateArgs args =
      arguments.update<cuda::UpdateArgs>(filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = arguments.input("x", x);
  args.v = arguments.input(v_name, v);
  check_float32("out", out);
  check_float32("x", x);
  if (mean) check_float32("mean", *mean);
  return args;
}

// Planes, and the elements of a sample, are counted in 32 bits.
void check_count(const cuda::UpdateArgs& args) {
  const int64_t planes = args.batch * args.channels, elements = args.channels * args.height * args.width;
  TORCH_CHECK_VALUE(planes <= cuda::most_planes && elements < (int64_t{1} << 32), "cuda kernels: `out` has ", planes,
                    " planes and ", elements, " elements a sample; expected at most ", cuda::most_planes,
                    " planes and fewer than 2^32 elements.");
}

void update(const OnDevice& device, const cuda::UpdateArgs& args) {
  device.check(without_transform(args) ? cuda::update_pixels(args, device.stream())
                                       : cuda::update_planes(args, device.stream()));
}

}  // namespace

void normals_cuda(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_sample,
                  bool spectral) {
  const NormalsArgs args = normals_args(out, seeds, draw, first_sample, spectral);
  const OnDevice device("normals.cuda", out);
  device.check(cuda::normals(args, device.stream()));
}

void noise_cuda(const at::Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
                const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
                const OptionalTensor& draw, int64_t first_sample) {
  const Arguments arguments("cuda", out);
  cuda::UpdateArgs args = arguments.update<cuda::UpdateArgs>(Filter::noise, out, freq, space, {});
  int64_t* const counter = arguments.noise(args, z, seeds, draw, first_sample);
  args.draw = counter;
  TORCH_CHECK_VALUE(has_noise(args), "noise.cuda: there is no noise; expected `z`, or `seeds` and `draw`.");
  at::Tensor kept;
  args.n = scale_of(arguments, "n_tensor", n, n_tensor, kept);
  check_count(args);
  const OnDevice device("noise.cuda", out);
  update(device, args);
  if (counter != nullptr) device.check(cuda::advance(counter, device.stream()));
}

void precondition_cuda(const at::Tensor& out, const at::Tensor& v, const OptionalTensor& freq,
                       const OptionalTensor& space, std::string_view which) {
  const Arguments arguments("cuda", out);
  const Filter filter = filter_of("cuda", which);
  cuda::UpdateArgs args = arguments.update<cuda::UpdateArgs>(filter, out, freq, space, {});
  args.v = arguments.input("v", v);
  args.d.number = 1.0f;
  check_count(args);
  update(OnDevice("precondition.cuda", out), args);
}

void step_cuda(const at::Tensor& out, const OptionalTensor& mean, const at::Tensor& x, const at::Tensor& v,
               const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
               double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
               const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample,
               const OptionalTensor& cast) {
  const Arguments arguments("cuda", out);
  cuda::UpdateArgs args = state_update(arguments, out, mean, x, "v", v, freq, space, skew, filter_drift);
  if (cast) arguments.output("cast", *cast);
  int64_t* const counter = arguments.noise(args, z, seeds, draw, first_sample);
  args.draw = counter;
  at::Tensor kept_d, kept_n;
  args.d = scale_of(arguments, "d_tensor", d, d_tensor, kept_d);
  args.langevin_noise = !n && !n_tensor;
  if (!args.langevin_noise) args.n = scale_of(arguments, "n_tensor", n.value_or(0.0), n_tensor, kept_n);
  check_count(args);
  without_transform(args);  // throws before anything is written
  const OnDevice device("step.cuda", out);
  update_with_mean(arguments, args, out, mean, [&](const cuda::UpdateArgs& part) { update(device, part); });
  if (cast) cast->copy_(out);
  if (counter != nullptr) device.check(cuda::advance(counter, device.stream()));
}

void langevin_step_cuda(const at::Tensor& out, const OptionalTensor& mean, const at::Tensor& x, const at::Tensor& score,
                        const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                        bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor,
                        bool per_sample, const OptionalTensor& z, const OptionalTensor& seeds,
                        const OptionalTensor& draw, int64_t first_sample, const OptionalTensor& cast) {
  const Arguments arguments("cuda", out);
  cuda::UpdateArgs args = state_update(arguments, out, mean, x, "score", score, freq, space, skew, filter_drift);
  if (cast) arguments.output("cast", *cast);
  int64_t* const counter = arguments.noise(args, z, seeds, draw, first_sample);
  args.draw = counter;
  TORCH_CHECK_VALUE(has_noise(args), "langevin_step.cuda: there is no noise; expected `z`, or `seeds` and `draw`.");
  at::Tensor kept;
  const cuda::Scale each_alpha = scale_of(arguments, "alpha_tensor", alpha, alpha_tensor, kept);
  check_count(args);
  TORCH_CHECK_VALUE(!without_transform(args) && !(filter_drift && space && skew),
                    "langevin_step.cuda: got no frequency mask, or a skew part beside a space mask; expected a "
                    "frequency mask, and one of the two.");
  const OnDevice device("langevin_step.cuda", out);
  const int64_t planes = args.batch * args.channels;
  const at::Tensor scratch = at::empty({2 * planes + args.batch}, out.options());
  float* const squares = scratch.mutable_data_ptr<float>();
  float* const eta = squares + 2 * planes;
  device.check(cuda::measure_planes(args, squares, device.stream()));
  device.check(cuda::snr_rule({squares, eta, args.batch, args.channels, snr, each_alpha, per_sample}, device.stream()));
  args.d = {eta, cuda::Number::float32, true, 0.0f};
  args.langevin_noise = true;
  update_with_mean(arguments, args, out, mean, [&](const cuda::UpdateArgs& part) { update(device, part); });
  if (cast) cast->copy_(out);
  if (counter != nullptr) device.check(cuda::advance(counter, device.stream()));
}

std::vector<std::array<int64_t, 3>> plane_sizes() {
  std::vector<std::array<int64_t, 3>> sizes;
  for (const int64_t height : {32, 64, 128})
    for (const int64_t width : {32, 64, 128}) sizes.push_back({height, width, cuda::plane_shared_bytes(height, width)});
  return sizes;
}

}  // namespace tdas_ops
