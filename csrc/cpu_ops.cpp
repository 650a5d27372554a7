#include "cpu_ops.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cpu_update.h"
#include "parallel.h"

namespace tdas_ops {
namespace {

// The sizes, the output and the masks of an update, `freq` being a mask or matrices.
UpdateArgs update_args(const Arguments& arguments, Filter filter, const Tensor& out, const OptionalTensor& freq,
                       const OptionalTensor& space, const OptionalTensor& skew) {
  if (!freq || freq->dim() != 4) return arguments.update<UpdateArgs>(filter, out, freq, space, skew);
  TDAS_OPS_CHECK(!skew, "cpp kernels: `skew` is there beside matrices; expected none.");
  UpdateArgs args = arguments.update<UpdateArgs>(filter, out, {}, space, {});
  args.masks.matrices = arguments.matrices(*freq);
  args.masks.complex_matrices = freq->dtype() == dtype::complex64;
  return args;
}

// A scale as one float a sample.
std::vector<float> scale_of(const Arguments& arguments, const char* name, double number, const OptionalTensor& tensor,
                            int64_t batch) {
  if (!tensor) return std::vector<float>(batch, static_cast<float>(number));
  arguments.check_scale(name, *tensor);
  const Tensor values = tensor->contiguous(dtype::float32);
  const float* data = values.const_data<float>();
  return values.numel() == 1 ? std::vector<float>(batch, data[0]) : std::vector<float>(data, data + batch);
}

// The noise of a call, whose draw is taken when all checks are done.
class Noise {
 public:
  Noise(const Arguments& arguments, UpdateArgs& args, const OptionalTensor& z, const OptionalTensor& seeds,
        const OptionalTensor& draw, int64_t first_sample)
      : counter_(arguments.noise(args, z, seeds, draw, first_sample)) {}

  // Reads and advances the counter at once, so that of threads that share a stream no two take the same draw.
  void take(UpdateArgs& args) const {
    if (counter_ != nullptr) args.draw = std::atomic_ref(*counter_).fetch_add(1, std::memory_order_relaxed);
  }

 private:
  int64_t* counter_;
};

bool overlap(const Tensor& a, const Tensor& b) {
  const auto span = [](const Tensor& tensor) {
    int64_t last = 0;
    const Sizes sizes = tensor.sizes(), strides = tensor.strides();
    for (size_t i = 0; i < sizes.size(); ++i) last += (sizes[i] - 1) * strides[i];
    const int64_t bytes = tensor.dtype() == dtype::float32 ? 4 : 2;
    const char* begin = tensor.const_data<char>();
    return std::pair(begin, begin + (last + 1) * bytes);
  };
  const auto [a_begin, a_end] = span(a);
  const auto [b_begin, b_end] = span(b);
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

// eta = 2 alpha (snr |M z| / |D v|)^2 for every sample; a score of zero says nothing of a step size, which is then 0.
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
    const double ratio = norms[0][b] == 0.0 ? 0.0 : snr * norms[1][b] / norms[0][b];
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

void normals_cpp(const Tensor& out, const Tensor& seeds, const Tensor& draw, int64_t first_sample, bool spectral) {
  draw_normals(normals_args(out, seeds, draw, first_sample, spectral));
}

void noise_cpp(const Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
               const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
               const OptionalTensor& draw, int64_t first_sample) {
  const Arguments arguments("cpp", out);
  UpdateArgs args = update_args(arguments, Filter::noise, out, freq, space, {});
  const Noise noise(arguments, args, z, seeds, draw, first_sample);
  const std::vector<float> scale = scale_of(arguments, "n_tensor", n, n_tensor, args.batch);
  args.n = scale.data();
  noise.take(args);
  update(args);
}

void precondition_cpp(const Tensor& out, const Tensor& v, const OptionalTensor& freq, const OptionalTensor& space,
                      std::string_view which) {
  const Arguments arguments("cpp", out);
  UpdateArgs args = update_args(arguments, filter_of("cpp", which), out, freq, space, {});
  args.v = arguments.input("v", v);
  update(args);
}

void step_cpp(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& v,
              const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
              double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
              const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample,
              const OptionalTensor& cast) {
  const Arguments arguments("cpp", out);
  UpdateArgs args = update_args(arguments, filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = arguments.input("x", x);
  args.v = arguments.input("v", v);
  if (mean) arguments.output("mean", *mean);
  if (cast) arguments.output("cast", *cast);
  const Noise noise(arguments, args, z, seeds, draw, first_sample);
  const std::vector<float> drift_scale = scale_of(arguments, "d_tensor", d, d_tensor, args.batch);
  const std::vector<float> noise_scale = n || n_tensor
                                             ? scale_of(arguments, "n_tensor", n.value_or(0.0), n_tensor, args.batch)
                                             : langevin_noise(drift_scale);
  args.d = drift_scale.data();
  args.n = noise_scale.data();
  noise.take(args);
  update_with_mean(arguments, args, out, mean, [](const UpdateArgs& part) { update(part); });
  if (cast) cast->copy_from(out);
}

void langevin_step_cpp(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& score,
                       const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                       bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor, bool per_sample,
                       const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw,
                       int64_t first_sample, const OptionalTensor& cast) {
  const Arguments arguments("cpp", out);
  UpdateArgs args = update_args(arguments, filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = arguments.input("x", x);
  args.v = arguments.input("score", score);
  if (mean) arguments.output("mean", *mean);
  if (cast) arguments.output("cast", *cast);
  const Noise noise(arguments, args, z, seeds, draw, first_sample);
  TDAS_OPS_CHECK(has_noise(args), "langevin_step.cpp: there is no noise; expected `z`, or `seeds` and `draw`.");
  const std::vector<float> each_alpha = scale_of(arguments, "alpha_tensor", alpha, alpha_tensor, args.batch);
  noise.take(args);

  // Room for the spectra of D v and M z: an output that nothing reads before it is written, or a tensor of its own, so
  // that the bits do not depend on where the outputs lie. Where nothing is transformed, there is room for the noise.
  const int64_t plane = args.height * args.width;
  const auto room = [&](const Tensor* output, int64_t floats) {
    const auto fits = [&](const Tensor& tensor) {
      const bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data()) % keep_alignment == 0;
      return floats == plane && tensor.is_contiguous() && aligned && !overlap(tensor, x) && !overlap(tensor, score) &&
             !(z && overlap(tensor, *z));
    };
    if (output != nullptr && fits(*output)) return output->shared();
    const int64_t own[] = {args.batch * args.channels * floats};
    return Tensor::empty(floats == plane ? out.sizes() : Sizes(own), dtype::float32, out.device());
  };
  OptionalTensor drift_room, noise_room;
  Keep keep;
  if (pixels_alone(args) && args.seeds != nullptr) {
    noise_room = room(&out, plane);
    UpdateArgs drawn = args;
    drawn.filter = Filter::noise;
    drawn.out = arguments.output("room", *noise_room);
    drawn.base = drawn.v = {};
    drawn.masks = {};
    update(drawn);
    args.seeds = nullptr;
    args.z = constant(drawn.out);
  } else {
    const KeptFloats floats = kept_floats(args);
    if (floats.drift > 0) {
      drift_room = room(mean ? &*mean : &out, floats.drift);
      keep.drift = drift_room->mutable_data<float>();
    }
    if (floats.noise > 0) {
      noise_room = room(floats.drift > 0 && !mean ? nullptr : &out, floats.noise);
      keep.noise = noise_room->mutable_data<float>();
    }
  }
  std::vector<double> squares(2 * args.batch * args.channels);
  measure(args, reinterpret_cast<double (*)[2]>(squares.data()), keep);
  const std::vector<float> eta = snr_rule(args, squares, snr, each_alpha, per_sample);
  const std::vector<float> n = langevin_noise(eta);
  args.d = eta.data();
  args.n = n.data();
  update_with_mean(arguments, args, out, mean, [&](const UpdateArgs& part) {
    update(part, {std::exchange(keep.drift, nullptr), keep.noise});  // D v is in the first of two
  });
  if (cast) cast->copy_from(out);
}

}  // namespace tdas_ops
