#include "cpu_ops.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cpu_update.h"

namespace tdas_ops {
namespace {

constexpr int64_t word_range = int64_t{1} << 32;  // Philox counts quads and samples in 32 bits

Element element_of(const char* name, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::float32;
    case at::kBFloat16:
      return Element::bfloat16;
    case at::kHalf:
      return Element::float16;
    default:
      TORCH_CHECK_TYPE(false, "cpp kernels: `", name, "` has dtype ", tensor.scalar_type(),
                       "; expected float32, bfloat16 or float16 (float64 is the reference's work).");
  }
}

void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, "cpp kernels: `", name, "` has shape ", tensor.sizes(), "; expected ",
                    shape, ".");
  TORCH_CHECK_VALUE(tensor.is_cpu(), "cpp kernels: `", name, "` is on ", tensor.device(), "; expected the CPU.");
}

template <class T>
FieldOf<T> field_of(const char* name, T* data, const at::Tensor& tensor, at::IntArrayRef shape) {
  check_shape(name, tensor, shape);
  return {data, element_of(name, tensor), {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)}};
}

Field input(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  return field_of(name, tensor.const_data_ptr(), tensor, shape);
}

OutField output(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  return field_of(name, tensor.mutable_data_ptr(), tensor, shape);
}

const float* mask_of(const char* name, const OptionalTensor& mask, at::IntArrayRef shape) {
  if (!mask) return nullptr;
  check_shape(name, *mask, shape);
  TORCH_CHECK_TYPE(mask->scalar_type() == at::kFloat, "cpp kernels: `", name, "` has dtype ", mask->scalar_type(),
                   "; expected float32.");
  TORCH_CHECK_VALUE(mask->is_contiguous(), "cpp kernels: `", name, "` has strides ", mask->strides(),
                    "; expected a contiguous tensor.");
  return mask->const_data_ptr<float>();
}

// A scale as one float a sample.
std::vector<float> scale_of(const char* name, double number, const OptionalTensor& tensor, int64_t batch) {
  if (!tensor) return std::vector<float>(batch, static_cast<float>(number));
  TORCH_CHECK_VALUE(tensor->is_cpu() && (tensor->numel() == 1 || tensor->numel() == batch), "cpp kernels: `", name,
                    "` has ", tensor->numel(), " elements on ", tensor->device(), "; expected 1 or one a sample, ",
                    batch, ", on the CPU.");
  const at::Tensor values = tensor->to(at::kFloat).contiguous();
  const float* data = values.const_data_ptr<float>();
  return values.numel() == 1 ? std::vector<float>(batch, data[0]) : std::vector<float>(data, data + batch);
}

// The noise of a call: the caller's z, or one draw of a stream, which it then advances.
class Noise {
 public:
  Noise(UpdateArgs& args, at::IntArrayRef shape, const OptionalTensor& z, const OptionalTensor& seeds,
        const OptionalTensor& draw, int64_t first_sample) {
    if (z) {
      args.z = input("z", *z, shape);
    } else if (seeds && draw) {
      const int64_t count = seeds->numel();
      TORCH_CHECK_VALUE(seeds->is_cpu() && draw->is_cpu() && seeds->scalar_type() == at::kLong &&
                            draw->scalar_type() == at::kLong && seeds->is_contiguous() && draw->numel() == 1 &&
                            (count == 1 || count == args.batch),
                        "cpp kernels: `seeds` and `draw` have ", count, " and ", draw->numel(),
                        " elements; expected int64 on the CPU, 1 or one a sample, ", args.batch, ", and 1.");
      TORCH_CHECK_VALUE(args.channels * args.height * ((args.width + 3) / 2) < word_range && first_sample >= 0 &&
                            first_sample <= word_range - args.batch,
                        "cpp kernels: `out` has shape ", shape, " and first_sample is ", first_sample,
                        "; expected fewer than 2^32 counters a sample and samples in [0, 2^32).");
      args.seeds = seeds->const_data_ptr<int64_t>();
      args.seed_per_sample = count > 1;
      args.first_sample = args.seed_per_sample ? 0 : first_sample;
      counter_ = draw->mutable_data_ptr<int64_t>();
      args.draw = *counter_;
    }
  }
  void advance() const {
    if (counter_ != nullptr) *counter_ = static_cast<int64_t>(static_cast<uint64_t>(*counter_) + 1);
  }

 private:
  int64_t* counter_ = nullptr;
};

UpdateArgs update_args(Filter filter, const at::Tensor& out, const OptionalTensor& freq, const OptionalTensor& space,
                       const OptionalTensor& skew) {
  TORCH_CHECK_VALUE(out.dim() == 4, "cpp kernels: `out` has shape ", out.sizes(), "; expected [B, C, H, W].");
  UpdateArgs args = {};
  args.filter = filter;
  args.batch = out.size(0);
  args.channels = out.size(1);
  args.height = out.size(2);
  args.width = out.size(3);
  args.out = output("out", out, out.sizes());
  const int64_t half[] = {args.channels, args.height, args.width / 2 + 1};
  args.masks = {mask_of("freq", freq, half), mask_of("space", space, out.sizes().slice(1)),
                mask_of("skew", skew, half)};
  return args;
}

UpdateArgs without_noise(UpdateArgs args) {
  args.seeds = nullptr;
  args.z = {};
  return args;
}

bool has_noise(const UpdateArgs& args) { return args.seeds != nullptr || args.z.data != nullptr; }

// mean = x + d D v and out = mean + n M z, with D as args.filter says; `kept` as in `update`.
void update_with_mean(UpdateArgs args, const at::Tensor& out, const OptionalTensor& mean, const float* kept) {
  if (mean) {
    UpdateArgs clean = without_noise(args);
    clean.out = output("mean", *mean, out.sizes());
    args.base = constant(clean.out);
    if (args.filter == Filter::noise) clean.masks = {};
    update(clean, kept);
    kept = nullptr;
    args.filter = Filter::noise;
    args.v = {};
    if (!has_noise(args)) {
      out.copy_(*mean);
      return;
    }
  }
  if (args.filter == Filter::noise) args.masks.skew = nullptr;
  if (args.filter == Filter::noise && !has_noise(args)) args.masks = {};
  update(args, kept);
}

bool overlap(const at::Tensor& a, const OptionalTensor& b) {
  if (!b) return false;
  const auto span = [](const at::Tensor& tensor) {
    int64_t last = 0;
    for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
    const char* begin = static_cast<const char*>(tensor.const_data_ptr());
    return std::pair(begin, begin + (last + 1) * tensor.element_size());
  };
  const auto [a_begin, a_end] = span(a);
  const auto [b_begin, b_end] = span(*b);
  return a_begin < b_end && b_begin < a_end;
}

// The mean of the norms that are finite, or NaN.
double finite_mean(const std::vector<double>& norms) {
  double sum = 0.0;
  int64_t count = 0;
  for (const double norm : norms)
    if (std::isfinite(norm)) {
      sum += norm;
      ++count;
    }
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

// eta = 2 alpha (snr |M z| / |D v|)^2 for every sample.
std::vector<float> snr_rule(const UpdateArgs& args, const std::vector<double>& squares, double snr,
                            const std::vector<float>& alpha, bool per_sample) {
  std::vector<double> norms[2];
  for (int term = 0; term < 2; ++term) {
    for (int64_t b = 0; b < args.batch; ++b) {
      double square = 0.0;
      for (int64_t c = 0; c < args.channels; ++c) square += squares[2 * (b * args.channels + c) + term];
      norms[term].push_back(std::sqrt(square));
    }
    if (!per_sample) norms[term].assign(args.batch, finite_mean(norms[term]));
  }
  std::vector<float> eta(args.batch);
  for (int64_t b = 0; b < args.batch; ++b) {
    const double ratio = snr * norms[1][b] / norms[0][b];
    eta[b] = static_cast<float>(2.0 * alpha[b] * ratio * ratio);
  }
  return eta;
}

std::vector<float> langevin_noise(const std::vector<float>& d) {
  std::vector<float> n;
  for (const float each : d) n.push_back(std::sqrt(2.0f * each));
  return n;
}

}  // namespace

void noise_cpp(const at::Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
               const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
               const OptionalTensor& draw, int64_t first_sample) {
  UpdateArgs args = update_args(Filter::noise, out, freq, space, {});
  const Noise noise(args, out.sizes(), z, seeds, draw, first_sample);
  const std::vector<float> scale = scale_of("n_tensor", n, n_tensor, args.batch);
  args.n = scale.data();
  update(args);
  noise.advance();
}

void precondition_cpp(const at::Tensor& out, const at::Tensor& v, const OptionalTensor& freq,
                      const OptionalTensor& space, std::string_view which) {
  TORCH_CHECK_VALUE(which == "M" || which == "Mt" || which == "MMt", "cpp kernels: `which` is '", std::string(which),
                    "'; expected M, Mt or MMt.");
  const Filter filter = which == "M" ? Filter::M : which == "Mt" ? Filter::Mt : Filter::MMt;
  UpdateArgs args = update_args(filter, out, freq, space, {});
  args.v = input("v", v, out.sizes());
  update(args);
}

void step_cpp(const at::Tensor& out, const OptionalTensor& mean, const at::Tensor& x, const at::Tensor& v,
              const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
              double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
              const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample) {
  UpdateArgs args = update_args(filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = input("x", x, out.sizes());
  args.v = input("v", v, out.sizes());
  const Noise noise(args, out.sizes(), z, seeds, draw, first_sample);
  const std::vector<float> drift_scale = scale_of("d_tensor", d, d_tensor, args.batch);
  const std::vector<float> noise_scale =
      n || n_tensor ? scale_of("n_tensor", n.value_or(0.0), n_tensor, args.batch) : langevin_noise(drift_scale);
  args.d = drift_scale.data();
  args.n = noise_scale.data();
  update_with_mean(args, out, mean, nullptr);
  noise.advance();
}

void langevin_step_cpp(const at::Tensor& out, const OptionalTensor& mean, const at::Tensor& x, const at::Tensor& score,
                       const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                       bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor, bool per_sample,
                       const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw,
                       int64_t first_sample) {
  UpdateArgs args = update_args(filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = input("x", x, out.sizes());
  args.v = input("score", score, out.sizes());
  const Noise noise(args, out.sizes(), z, seeds, draw, first_sample);
  TORCH_CHECK_VALUE(has_noise(args), "langevin_step.cpp: there is no noise; expected `z`, or `seeds` and `draw`.");
  const std::vector<float> each_alpha = scale_of("alpha_tensor", alpha, alpha_tensor, args.batch);

  // Room for the spectra of D v: an output that nothing reads before it is written, or a tensor of its own, so that the
  // bits do not depend on where the outputs lie. Where nothing is transformed, there is room for the noise instead.
  at::Tensor room;
  float* keep = nullptr;
  const bool keep_noise = pixels_alone(args) && args.seeds != nullptr;
  if (keep_noise || can_keep(args)) {
    room = mean && !keep_noise ? *mean : out;
    if (!room.is_contiguous() || overlap(room, x) || overlap(room, score) || overlap(room, z))
      room = at::empty(out.sizes(), at::kFloat);
  }
  if (keep_noise) {
    UpdateArgs drawn = args;
    drawn.filter = Filter::noise;
    drawn.out = output("room", room, out.sizes());
    drawn.base = drawn.v = {};
    drawn.masks = {};
    update(drawn);
    args.seeds = nullptr;
    args.z = constant(drawn.out);
  } else if (room.defined()) {
    keep = room.mutable_data_ptr<float>();
  }
  std::vector<double> squares(2 * args.batch * args.channels);
  measure(args, reinterpret_cast<double (*)[2]>(squares.data()), keep);
  const std::vector<float> eta = snr_rule(args, squares, snr, each_alpha, per_sample);
  const std::vector<float> n = langevin_noise(eta);
  args.d = eta.data();
  args.n = n.data();
  update_with_mean(args, out, mean, keep);
  noise.advance();
}

}  // namespace tdas_ops
