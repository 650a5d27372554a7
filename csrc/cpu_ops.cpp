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

// work(T()) with T the number that an op computes in, float or double.
template <class Work>
void with_number(const Arguments& arguments, Work work) {
  arguments.in_float64() ? work(double()) : work(float());
}

// The sizes, the output and the masks of an update, `freq` being a mask or matrices.
template <class T>
UpdateArgsOf<T> update_args(const Arguments& arguments, Filter filter, const Tensor& out, const OptionalTensor& freq,
                            const OptionalTensor& space, const OptionalTensor& skew) {
  if (!freq || freq->dim() != 4) return arguments.update<UpdateArgsOf<T>>(filter, out, freq, space, skew);
  TDAS_OPS_CHECK(!skew, "cpp kernels: `skew` is there beside matrices; expected none.");
  UpdateArgsOf<T> args = arguments.update<UpdateArgsOf<T>>(filter, out, {}, space, {});
  args.masks.matrices = arguments.matrices<T>(*freq);
  args.masks.complex_matrices = freq->dtype() == dtype::complex64 || freq->dtype() == dtype::complex128;
  return args;
}

// An update of the state x along v, all but its noise and scales.
template <class T>
UpdateArgsOf<T> state_update(const Arguments& arguments, const Tensor& out, const OptionalTensor& mean,
                             const OptionalTensor& cast, const Tensor& x, const char* v_name, const Tensor& v,
                             const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                             bool filter_drift) {
  UpdateArgsOf<T> args =
      update_args<T>(arguments, filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = arguments.input("x", x);
  args.v = arguments.input(v_name, v);
  arguments.check_computed("out", out);
  arguments.check_computed("x", x);
  if (mean) arguments.output("mean", *mean);
  if (mean) arguments.check_computed("mean", *mean);
  if (cast) arguments.input("cast", *cast);  // of any kind: it is copied
  return args;
}

template <class T>
int32_t dtype_of() {
  return sizeof(T) == 8 ? dtype::float64 : dtype::float32;
}

// A scale as one number a sample.
template <class T>
std::vector<T> scale_of(const Arguments& arguments, const char* name, double number, const OptionalTensor& tensor,
                        int64_t batch) {
  if (!tensor) return std::vector<T>(batch, static_cast<T>(number));
  arguments.check_scale(name, *tensor);
  const Tensor values = tensor->contiguous(dtype_of<T>());
  const T* data = values.const_data<T>();
  return values.numel() == 1 ? std::vector<T>(batch, data[0]) : std::vector<T>(data, data + batch);
}

// The noise of a call, whose draw is taken when all checks are done.
class Noise {
 public:
  template <class T>
  Noise(const Arguments& arguments, UpdateArgsOf<T>& args, const OptionalTensor& z, const OptionalTensor& seeds,
        const OptionalTensor& draw, int64_t first_sample)
      : counter_(arguments.noise(args, z, seeds, draw, first_sample)) {}

  // Reads and advances the counter at once, so that of threads that share a stream no two take the same draw.
  template <class T>
  void take(UpdateArgsOf<T>& args) const {
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
    const int64_t bytes = tensor.dtype() == dtype::float64 ? 8 : tensor.dtype() == dtype::float32 ? 4 : 2;
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
template <class T>
std::vector<T> snr_rule(const UpdateArgsOf<T>& args, const std::vector<double>& squares, double snr,
                        const std::vector<T>& alpha, bool per_sample) {
  std::vector<double> norms[2];
  for (int term = 0; term < 2; ++term) {
    for (int64_t b = 0; b < args.batch; ++b) {
      double square = 0.0;
      for (int64_t c = 0; c < args.channels; ++c) square += squares[2 * (b * args.channels + c) + term];
      norms[term].push_back(std::sqrt(square));
    }
    if (!per_sample) norms[term].assign(args.batch, finite_mean(norms[term]));
  }
  std::vector<T> eta(args.batch);
  for (int64_t b = 0; b < args.batch; ++b) {
    const double ratio = norms[0][b] == 0.0 ? 0.0 : snr * norms[1][b] / norms[0][b];
    eta[b] = static_cast<T>(2.0 * alpha[b] * ratio * ratio);
  }
  return eta;
}

template <class T>
std::vector<T> langevin_noise(const std::vector<T>& d) {
  std::vector<T> n;
  for (const T each : d) n.push_back(std::sqrt(2 * each));
  return n;
}

}  // namespace

void normals_cpp(const Tensor& out, const Tensor& seeds, const Tensor& draw, int64_t first_sample, bool spectral) {
  draw_normals(normals_args(out, seeds, draw, first_sample, spectral));
}

void noise_cpp(const Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
               const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
               const OptionalTensor& draw, int64_t first_sample) {
  const Arguments arguments("cpp", out, true);
  with_number(arguments, [&](auto number) {
    using T = decltype(number);
    UpdateArgsOf<T> args = update_args<T>(arguments, Filter::noise, out, freq, space, {});
    const Noise noise(arguments, args, z, seeds, draw, first_sample);
    TDAS_OPS_CHECK(has_noise(args), "noise.cpp: there is no noise; expected `z`, or `seeds` and `draw`.");
    const std::vector<T> scale = scale_of<T>(arguments, "n_tensor", n, n_tensor, args.batch);
    args.n = scale.data();
    noise.take(args);
    update(args);
  });
}

void precondition_cpp(const Tensor& out, const Tensor& v, const OptionalTensor& freq, const OptionalTensor& space,
                      std::string_view which) {
  const Arguments arguments("cpp", out, true);
  with_number(arguments, [&](auto number) {
    using T = decltype(number);
    UpdateArgsOf<T> args = update_args<T>(arguments, filter_of("cpp", which), out, freq, space, {});
    args.v = arguments.input("v", v);
    update(args);
  });
}

void step_cpp(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& v,
              const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
              double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
              const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample,
              const OptionalTensor& cast) {
  const Arguments arguments("cpp", out, true);
  with_number(arguments, [&](auto number) {
    using T = decltype(number);
    UpdateArgsOf<T> args = state_update<T>(arguments, out, mean, cast, x, "v", v, freq, space, skew, filter_drift);
    const Noise noise(arguments, args, z, seeds, draw, first_sample);
    const std::vector<T> drift_scale = scale_of<T>(arguments, "d_tensor", d, d_tensor, args.batch);
    const std::vector<T> noise_scale = n || n_tensor
                                           ? scale_of<T>(arguments, "n_tensor", n.value_or(0.0), n_tensor, args.batch)
                                           : langevin_noise(drift_scale);
    args.d = drift_scale.data();
    args.n = noise_scale.data();
    noise.take(args);
    update_with_mean(arguments, args, out, mean, [](const UpdateArgsOf<T>& part) { update(part); });
    if (cast) cast->copy_from(out);
  });
}

void langevin_step_cpp(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& score,
                       const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                       bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor, bool per_sample,
                       const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw,
                       int64_t first_sample, const OptionalTensor& cast) {
  const Arguments arguments("cpp", out, true);
  with_number(arguments, [&](auto number) {
    using T = decltype(number);
    UpdateArgsOf<T> args =
        state_update<T>(arguments, out, mean, cast, x, "score", score, freq, space, skew, filter_drift);
    const Noise noise(arguments, args, z, seeds, draw, first_sample);
    TDAS_OPS_CHECK(has_noise(args), "langevin_step.cpp: there is no noise; expected `z`, or `seeds` and `draw`.");
    const std::vector<T> each_alpha = scale_of<T>(arguments, "alpha_tensor", alpha, alpha_tensor, args.batch);
    noise.take(args);

    // Room for the spectra of D v and M z: an output that nothing reads before it is written, or a tensor of its own,
    // so that the bits do not depend on where the outputs lie. Where nothing is transformed, there is room for the
    // noise.
    const int64_t plane = args.height * args.width;
    const auto room = [&](const Tensor* output, int64_t floats) {
      const auto fits = [&](const Tensor& tensor) {
        const bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data()) % keep_alignment == 0;
        return floats == plane && tensor.is_contiguous() && aligned && !overlap(tensor, x) && !overlap(tensor, score) &&
               !(z && overlap(tensor, *z));
      };
      if (output != nullptr && fits(*output)) return output->shared();
      const int64_t own[] = {args.batch * args.channels * floats};
      return Tensor::empty(floats == plane ? out.sizes() : Sizes(own), dtype_of<T>(), out.device());
    };
    OptionalTensor drift_room, noise_room;
    KeptOf<T> keep;
    if (pixels_alone(args) && args.seeds != nullptr) {
      noise_room = room(&out, plane);
      UpdateArgsOf<T> drawn = args;
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
        keep.drift = drift_room->mutable_data<T>();
      }
      if (floats.noise > 0) {
        noise_room = room(floats.drift > 0 && !mean ? nullptr : &out, floats.noise);
        keep.noise = noise_room->mutable_data<T>();
      }
    }
    std::vector<double> squares(2 * args.batch * args.channels);
    measure(args, reinterpret_cast<double (*)[2]>(squares.data()), keep);
    const std::vector<T> eta = snr_rule(args, squares, snr, each_alpha, per_sample);
    const std::vector<T> n = langevin_noise(eta);
    args.d = eta.data();
    args.n = n.data();
    update_with_mean(arguments, args, out, mean, [&](const UpdateArgsOf<T>& part) {
      update(part, {std::exchange(keep.drift, nullptr), keep.noise});  // D v is in the first of two
    });
    if (cast) cast->copy_from(out);
  });
}

}  // namespace tdas_ops
