#include "cuda_ops.h"

#include <algorithm>
#include <atomic>

#include "cuda/large.h"
#include "cuda/noise.h"
#include "cuda/pixelwise.h"
#include "cuda/plane.h"
#include "cuda/snr.h"
#include "cuda_stream.h"
#include "library.h"

namespace tdas_ops {
namespace {

// A scale that is a tensor, as the kernels read it; `kept` owns a copy where they cannot read the tensor itself.
cuda::Scale scale_of(const Arguments& arguments, const char* name, double number, const OptionalTensor& tensor,
                     OptionalTensor& kept) {
  if (!tensor) return {nullptr, cuda::Number::float32, false, static_cast<float>(number)};
  arguments.check_scale(name, *tensor);
  kept.emplace(tensor->contiguous());
  const bool per_sample = kept->numel() > 1;
  const int32_t type = kept->dtype();
  const void* const values = kept->const_data();
  if (type == dtype::float32) return {values, cuda::Number::float32, per_sample, 0.0f};
  if (type == dtype::float64) return {values, cuda::Number::float64, per_sample, 0.0f};
  if (type == dtype::bfloat16) return {values, cuda::Number::bfloat16, per_sample, 0.0f};
  return {values, cuda::Number::float16, per_sample, 0.0f};
}

// Whether an update needs no transform; throws where it needs one of planes that have no kernel.
bool without_transform(const cuda::UpdateArgs& args) {
  if (args.masks.freq == nullptr && args.masks.skew == nullptr) return true;
  const bool has_kernel =
      cuda::has_plane_kernel(args.height, args.width) || cuda::has_large_kernel(args.height, args.width);
  TDAS_OPS_CHECK(args.masks.freq != nullptr && has_kernel, "cuda kernels: `out` has planes of ", args.height, " x ",
                 args.width, args.masks.freq == nullptr ? " without a frequency mask" : "",
                 "; expected a frequency mask, and H and W powers of two from 32 to 2048.");
  return false;
}

// An update of the state x along v, all but its noise and scales.
cuda::UpdateArgs state_update(const Arguments& arguments, const Tensor& out, const OptionalTensor& mean,
                              const OptionalTensor& cast, const Tensor& x, const char* v_name, const Tensor& v,
                              const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                              bool filter_drift) {
  cuda::UpdateArgs args =
      arguments.update<cuda::UpdateArgs>(filter_drift ? Filter::drift : Filter::noise, out, freq, space, skew);
  args.base = arguments.input("x", x);
  args.v = arguments.input(v_name, v);
  arguments.check_computed("out", out);
  arguments.check_computed("x", x);
  if (mean) arguments.check_computed("mean", *mean);
  if (cast) args.cast = arguments.output("cast", *cast);
  return args;
}

int64_t bytes_of(Element element) { return element == Element::float32 ? 4 : 2; }

// The scale of the samples from `first` on.
cuda::Scale scale_from(cuda::Scale scale, int64_t first) {
  const int64_t bytes = scale.type == cuda::Number::float64 ? 8 : scale.type == cuda::Number::float32 ? 4 : 2;
  if (scale.per_sample) scale.values = static_cast<const char*>(scale.values) + first * bytes;
  return scale;
}

Tensor floats(int64_t count, Device device) { return Tensor::empty(Sizes(&count, 1), dtype::float32, device); }

struct Samples {
  int64_t first, count;
};

// The same for some samples of the batch.
cuda::UpdateArgs of_samples(cuda::UpdateArgs args, Samples samples) {
  const auto move = [&](auto& field, auto* data) {
    if (data != nullptr) field.data = data + samples.first * field.strides[0] * bytes_of(field.element);
  };
  for (OutField* field : {&args.out, &args.cast}) move(*field, static_cast<char*>(field->data));
  for (Field* field : {&args.base, &args.v, &args.z}) move(*field, static_cast<const char*>(field->data));
  args.batch = samples.count;
  args.d = scale_from(args.d, samples.first);
  args.n = scale_from(args.n, samples.first);
  if (!args.seed_per_sample) {
    args.first_sample += samples.first;
  } else if (args.seeds != nullptr) {  // a mean has none
    args.seeds += samples.first;
  }
  return args;
}

// Planes, and the elements of a sample, are counted in 32 bits.
void check_count(const cuda::UpdateArgs& args) {
  const int64_t planes = args.batch * args.channels, elements = args.channels * args.height * args.width;
  TDAS_OPS_CHECK(planes <= cuda::most_planes && elements < (int64_t{1} << 32), "cuda kernels: `out` has ", planes,
                 " planes and ", elements, " elements a sample; expected at most ", cuda::most_planes,
                 " planes and fewer than 2^32 elements.");
}

// Of the spectra that stay from the norms of langevin_step to its update, unless told otherwise.
constexpr int64_t most_kept_bytes = int64_t{1} << 30;
std::atomic<int64_t> most_scratch_bytes{0};  // 0: as keeps the device busy

// What the planes of one op go through: no transform, one on chip, or passes over memory, which is allocated here.
class Planes {
 public:
  // Where norms are measured before the update, `together` samples have one step size.
  Planes(const OnDevice& device, const cuda::UpdateArgs& args, const Tensor& out, int64_t together = 0)
      : device_(device), out_(out), at_once_(args.batch) {
    if (without_transform(args)) {
      path_ = Path::pixels;
    } else if (cuda::has_plane_kernel(args.height, args.width)) {
      path_ = Path::on_chip;
    } else {
      path_ = Path::passes;
      measured_ = together > 0 && args.masks.space != nullptr;
      allocate(args, together * args.channels);
      if (measured_) at_once_ = std::max(together, scratch_.planes / std::max<int64_t>(args.channels, 1));
    }
  }

  // Samples that are measured and updated before the next ones.
  int64_t at_once() const { return at_once_; }

  void update(const cuda::UpdateArgs& args) const {
    if (without_transform(args)) {  // noise joins a mean, or not
      device_.check(cuda::update_pixels(args, device_.stream()));
    } else if (path_ == Path::on_chip) {
      device_.check(cuda::update_planes(args, device_.stream()));
    } else if (measured_) {
      device_.check(cuda::update_measured(args, scratch_, device_.stream()));
    } else {
      device_.check(cuda::update_large(args, scratch_, device_.stream()));
    }
  }

  // |D v|^2 and |M z|^2 of every plane: squares[batch, channels, 2].
  void measure(const cuda::UpdateArgs& args, float* squares) const {
    if (path_ == Path::on_chip) {
      device_.check(cuda::measure_planes(args, squares, device_.stream()));
      return;
    }
    const bool passes = path_ == Path::passes;
    if (passes) device_.check(cuda::measure_large(args, squares, scratch_, device_.stream()));
    if (passes && args.filter == Filter::drift) return;
    cuda::UpdateArgs of_pixels = args;
    if (passes) of_pixels.seeds = nullptr, of_pixels.z = {}, of_pixels.masks = {};
    const int64_t planes = args.batch * args.channels, of_plane = cuda::pixel_parts(args.height, args.width);
    const Tensor parts = floats(planes * of_plane * 2, out_.device());
    float* const data = parts.mutable_data<float>();
    device_.check(cuda::measure_pixels(of_pixels, data, device_.stream()));
    device_.check(cuda::sum_squares(data, of_plane, squares, planes, true, !passes, device_.stream()));
  }

 private:
  enum class Path { pixels, on_chip, passes };

  // Of as many planes at once as the device needs to be busy, or as there is memory for. Of as many as stay from norms
  // to update, where there may be room for the `together` planes that have one step size.
  void allocate(const cuda::UpdateArgs& args, int64_t together) {
    const int64_t planes = std::max<int64_t>(args.batch * args.channels, 1);
    const int64_t spectra = measured_ ? cuda::measured_spectra(args.filter) : 1;
    const int64_t of_plane = cuda::scratch_of_plane(args.height, args.width, spectra);
    const int64_t most = most_scratch_bytes.load(std::memory_order_relaxed);
    const int64_t wanted = most > 0 ? most : cuda::busy_scratch_bytes(device_.multiprocessors()) * spectra;
    const int64_t chunk = std::clamp<int64_t>(wanted / (4 * of_plane), 1, planes);
    int64_t count = chunk;
    if (measured_ && together > 0) {
      const int64_t room = (most > 0 ? most : most_kept_bytes) / (4 * of_plane) / together * together;
      count = std::max(count, std::min(planes, room));
    }
    for (;; count = (count + 1) / 2) {
      try {
        memory_.emplace(floats(count * of_plane, out_.device()));
        break;
      } catch (const std::runtime_error&) {  // which torch says nothing else of
        if (count <= 1)
          fail<std::runtime_error>("cuda kernels: planes of ", args.height, " x ", args.width, " need ", 4 * of_plane,
                                   " bytes of scratch, which the device does not have.");
      }
    }
    scratch_ = {memory_->mutable_data<float>(), count, std::min(chunk, count), spectra};
  }

  const OnDevice& device_;
  const Tensor& out_;
  int64_t at_once_;
  Path path_;
  bool measured_ = false;  // its terms are in the scratch
  OptionalTensor memory_;
  cuda::Scratch scratch_ = {};
};

// The update of some samples of a state, with its mean and its copy in another format where they are asked for.
void update_state(const Arguments& arguments, const cuda::UpdateArgs& args, const Planes& planes, Samples samples,
                  const Tensor& out, const OptionalTensor& mean, const OptionalTensor& cast) {
  update_with_mean(arguments, args, out, mean, [&](cuda::UpdateArgs part) {
    if (part.out.data != args.out.data) part.cast = {};  // of the mean
    planes.update(of_samples(part, samples));
  });
  if (cast && mean && !has_noise(args)) cast->copy_from(out);  // which is the mean
}

}  // namespace

void normals_cuda(const Tensor& out, const Tensor& seeds, const Tensor& draw, int64_t first_sample, bool spectral) {
  const NormalsArgs args = normals_args(out, seeds, draw, first_sample, spectral);
  const OnDevice device("normals.cuda", out);
  device.check(cuda::normals(args, device.stream()));
}

void noise_cuda(const Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
                const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
                const OptionalTensor& draw, int64_t first_sample) {
  const Arguments arguments("cuda", out);
  cuda::UpdateArgs args = arguments.update<cuda::UpdateArgs>(Filter::noise, out, freq, space, {});
  int64_t* const counter = arguments.noise(args, z, seeds, draw, first_sample);
  args.draw = counter;
  TDAS_OPS_CHECK(has_noise(args), "noise.cuda: there is no noise; expected `z`, or `seeds` and `draw`.");
  OptionalTensor kept;
  args.n = scale_of(arguments, "n_tensor", n, n_tensor, kept);
  check_count(args);
  const OnDevice device("noise.cuda", out);
  Planes(device, args, out).update(args);
  if (counter != nullptr) device.check(cuda::advance(counter, device.stream()));
}

void precondition_cuda(const Tensor& out, const Tensor& v, const OptionalTensor& freq, const OptionalTensor& space,
                       std::string_view which) {
  const Arguments arguments("cuda", out);
  const Filter filter = filter_of("cuda", which);
  cuda::UpdateArgs args = arguments.update<cuda::UpdateArgs>(filter, out, freq, space, {});
  args.v = arguments.input("v", v);
  args.d.number = 1.0f;
  check_count(args);
  const OnDevice device("precondition.cuda", out);
  Planes(device, args, out).update(args);
}

void step_cuda(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& v,
               const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
               double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
               const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample,
               const OptionalTensor& cast) {
  const Arguments arguments("cuda", out);
  cuda::UpdateArgs args = state_update(arguments, out, mean, cast, x, "v", v, freq, space, skew, filter_drift);
  int64_t* const counter = arguments.noise(args, z, seeds, draw, first_sample);
  args.draw = counter;
  OptionalTensor kept_d, kept_n;
  args.d = scale_of(arguments, "d_tensor", d, d_tensor, kept_d);
  args.langevin_noise = !n && !n_tensor;
  if (!args.langevin_noise) args.n = scale_of(arguments, "n_tensor", n.value_or(0.0), n_tensor, kept_n);
  check_count(args);
  const OnDevice device("step.cuda", out);
  const Planes planes(device, args, out);
  update_state(arguments, args, planes, {0, args.batch}, out, mean, cast);
  if (counter != nullptr) device.check(cuda::advance(counter, device.stream()));
}

void langevin_step_cuda(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& score,
                        const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                        bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor,
                        bool per_sample, const OptionalTensor& z, const OptionalTensor& seeds,
                        const OptionalTensor& draw, int64_t first_sample, const OptionalTensor& cast) {
  const Arguments arguments("cuda", out);
  cuda::UpdateArgs args = state_update(arguments, out, mean, cast, x, "score", score, freq, space, skew, filter_drift);
  int64_t* const counter = arguments.noise(args, z, seeds, draw, first_sample);
  args.draw = counter;
  TDAS_OPS_CHECK(has_noise(args), "langevin_step.cuda: there is no noise; expected `z`, or `seeds` and `draw`.");
  OptionalTensor kept;
  const cuda::Scale each_alpha = scale_of(arguments, "alpha_tensor", alpha, alpha_tensor, kept);
  check_count(args);
  TDAS_OPS_CHECK(!(filter_drift && space && skew),
                 "langevin_step.cuda: got a skew part beside a space mask; expected one of the two.");
  const OnDevice device("langevin_step.cuda", out);
  const Planes planes(device, args, out, per_sample ? 1 : args.batch);
  const int64_t count = args.batch * args.channels;
  const Tensor numbers = floats(2 * count + args.batch, out.device());
  float* const squares = numbers.mutable_data<float>();
  float* const eta = squares + 2 * count;
  const auto in_one_launch = [&] {
    if (mean || !cuda::has_snr_kernel(args, per_sample, device.cooperating())) return false;
    const cuda::SnrArgs rule = {squares, nullptr, args.batch, args.channels, snr, each_alpha, per_sample};
    uint32_t* const counters = reinterpret_cast<uint32_t*>(eta);  // in whose place nothing else will be
    const cudaError_t error = cuda::langevin_planes(args, rule, squares, counters, device.stream());
    if (error == cudaErrorCooperativeLaunchTooLarge || error == cudaErrorNotSupported) {
      cudaGetLastError();  // taken note of: nothing has happened
      return false;
    }
    device.check(error);
    return true;
  };
  if (!in_one_launch()) {
    cuda::UpdateArgs update = args;
    update.d = {eta, cuda::Number::float32, true, 0.0f};
    update.langevin_noise = true;
    for (int64_t first = 0; first < args.batch; first += planes.at_once()) {
      const Samples samples = {first, std::min(planes.at_once(), args.batch - first)};
      float* const own_squares = squares + 2 * first * args.channels;
      planes.measure(of_samples(args, samples), own_squares);
      const cuda::Scale alphas = scale_from(each_alpha, first);
      device.check(cuda::snr_rule({own_squares, eta + first, samples.count, args.channels, snr, alphas, per_sample},
                                  device.stream()));
      update_state(arguments, update, planes, samples, out, mean, cast);
    }
  }
  if (counter != nullptr) device.check(cuda::advance(counter, device.stream()));
}

void limit_scratch(int64_t bytes) { most_scratch_bytes.store(bytes, std::memory_order_relaxed); }

}  // namespace tdas_ops
