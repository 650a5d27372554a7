#include "spectra.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"
#include "parallel.h"

namespace tdas_ops {
namespace {

constexpr int64_t chunk_elements = 1 << 20;  // of a tensor at once, so that scratch is bounded

int64_t element_size(Element element) { return element == Element::float64 ? 8 : element == Element::float32 ? 4 : 2; }

template <class T>
FieldOf<T> from_sample(FieldOf<T> field, int64_t first) {
  using Bytes = std::conditional_t<std::is_const_v<T>, const char, char>;
  if (field.data != nullptr)
    field.data = static_cast<Bytes*>(field.data) + first * field.strides[0] * element_size(field.element);
  return field;
}

// Samples [first, first + count) of an update.
template <class T>
UpdateArgsOf<T> samples(UpdateArgsOf<T> args, int64_t first, int64_t count) {
  args.batch = count;
  args.out = from_sample(args.out, first);
  args.base = from_sample(args.base, first);
  args.v = from_sample(args.v, first);
  args.z = from_sample(args.z, first);
  if (args.d != nullptr) args.d += first;
  if (args.n != nullptr) args.n += first;
  if (args.seeds != nullptr && args.seed_per_sample)
    args.seeds += first;
  else
    args.first_sample += first;
  return args;
}

template <class T, class Work>
void for_chunks(const UpdateArgsOf<T>& args, Work work) {
  const int64_t sample = args.channels * args.height * args.width;
  const int64_t step = std::max<int64_t>(1, chunk_elements / sample);
  for (int64_t first = 0; first < args.batch; first += step) work(first, std::min(step, args.batch - first));
}

// F or F^-1 of planes. Threads would share out a row that is alone, which changes its bits, and do not where there are
// two: it gets a second one, behind what is asked for.
Tensor transform(const Tensor& planes, bool inverse) {
  const int64_t count = planes.numel(), height = planes.sizes()[2], width = planes.sizes()[3];
  if (count != std::max(height, width) || threads() == 1) return fft2(planes, inverse);
  const std::array<int64_t, 4> shape = {2, 1, height, width};
  const Tensor pair = Tensor::empty(shape, planes.dtype(), planes.device());
  const int64_t bytes = count * (planes.dtype() == dtype::complex128 ? 16 : 8);
  std::copy_n(planes.const_data<char>(), bytes, pair.mutable_data<char>());
  std::fill_n(pair.mutable_data<char>() + bytes, bytes, '\0');
  return fft2(pair, inverse);
}

// cos and sin of 2 pi k / W for k < W / 2, padded to a whole vector of any instruction set.
template <class T>
struct Angles {
  std::vector<T> cosines, sines;

  explicit Angles(int64_t width) : cosines((width / 2 + 15) / 16 * 16), sines(cosines.size()) {
    for (int64_t k = 0; k < width / 2; ++k) {
      const double angle = 2.0 * M_PI * static_cast<double>(k) / static_cast<double>(width);
      cosines[k] = static_cast<T>(std::cos(angle));
      sines[k] = static_cast<T>(std::sin(angle));
    }
  }
};

// Some samples on their way through the transforms. A plane is complex [H, K]: even W: two neighbouring pixels are one
// element, K = W / 2; odd W: one pixel is one element, K = W.
template <class T>
class Chunk {
 public:
  using UpdateArgs = UpdateArgsOf<T>;
  using SpectraArgs = cpu::SpectraArgsOf<T>;

  Chunk(const UpdateArgs& args, const Angles<T>& angles) : args_(args), angles_(angles) {}

  // The spectrum of what the update adds to `base`, but for what stands in front of F^-1.
  Tensor update(const T* kept) const {
    const bool drift = args_.filter == Filter::drift || args_.filter == Filter::MMt;
    if (kept != nullptr || args_.filter == Filter::noise) return noise_spectrum(kept);
    if (drift) return drift_spectrum(args_.d, true);
    const Tensor v = transformed(Filter::M, args_.v, args_.filter == Filter::M, nullptr, false);
    return filtered(args_.filter == Filter::Mt ? adjoint(floats(v)) : terms(floats(v), 1));
  }

  // d D v, and n M z where asked for.
  Tensor drift_spectrum(const T* d, bool with_noise) const {
    const Tensor v = transformed(Filter::noise, args_.v, false, nullptr, false);
    const bool noise_in_pixels = with_noise && has_noise() && !noise_is_spectral();
    if (args_.masks.space == nullptr && !noise_in_pixels) {
      SpectraArgs terms = this->terms(floats(v), 2);
      terms.data = d;
      terms.skew = args_.masks.skew;
      OptionalTensor g;
      if (with_noise && has_noise()) terms.normals = floats(g.emplace(normals()));
      return filtered(terms);
    }
    OptionalTensor skew;
    if (args_.masks.skew != nullptr) {
      SpectraArgs terms = this->terms(floats(v), SpectraArgs::skew_only);
      terms.data = d;
      terms.skew = args_.masks.skew;
      skew.emplace(filtered(terms));
    }
    const Tensor pixels = inverse(filtered(adjoint(floats(v))));
    const Tensor again = transformed(Filter::drift, constant(field(pixels)), true, d, noise_in_pixels);
    SpectraArgs terms = this->terms(floats(again), 1);
    if (skew) terms.kept = floats(*skew);
    return filtered(terms);
  }

  // n M z, plus d times the spectrum `kept`.
  Tensor noise_spectrum(const T* kept) const {
    OptionalTensor drawn;
    SpectraArgs terms;
    if (noise_is_spectral()) {
      terms = this->terms(nullptr, 0);
      terms.normals = floats(drawn.emplace(normals()));
    } else if (has_noise()) {
      terms = this->terms(floats(drawn.emplace(transformed(Filter::noise, {}, true, nullptr, true))), 1);
    } else {
      terms = this->terms(nullptr, 0);
    }
    terms.kept = kept;
    terms.kept_scale = args_.d;
    return filtered(terms);
  }

  // out = base + F^-1 spectrum, for M^T times A; with Filter::noise plus d v.
  void finish(const Tensor& spectrum) const {
    const Tensor pixels = inverse(spectrum);
    UpdateArgs last = args_;
    last.filter = Filter::noise;
    last.seeds = nullptr;
    last.d = last.n = nullptr;
    last.masks = {};
    last.v = constant(field(pixels));
    last.z = {};
    if (args_.filter == Filter::noise && args_.v.data != nullptr) {
      last.v = args_.v;
      last.d = args_.d;
      last.z = constant(field(pixels));
    } else if (args_.filter == Filter::Mt) {
      last.filter = Filter::Mt;
      last.masks.space = args_.masks.space;
    }
    run(last);
  }

  // |v|^2 of every plane.
  void pixel_squares(double (*to)[2]) const {
    UpdateArgs pixels = args_;
    pixels.masks = {};
    pixels.z = {};
    pixels.seeds = nullptr;
    parallel_for(planes(), 1,
                 [&](int64_t begin, int64_t end) { cpu::kernels<T>().measure_rows(pixels, to, begin, end); });
  }

  // The squared norm of every plane that has this spectrum, as the term 0 or 1.
  void squares(const Tensor& spectrum, double (*to)[2], int term) const {
    const int64_t count = args_.height * columns();
    const T* values = floats(spectrum);
    parallel_for(planes(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane)
        to[plane][term] = cpu::kernels<T>().square(values + plane * 2 * count, 2 * count) / static_cast<double>(count);
    });
  }

  static T* floats(const Tensor& complex) { return complex.mutable_data<T>(); }

 private:
  bool packed() const { return args_.width % 2 == 0; }
  int64_t columns() const { return packed() ? args_.width / 2 : args_.width; }
  int64_t planes() const { return args_.batch * args_.channels; }
  bool has_noise() const { return args_.z.data != nullptr || args_.seeds != nullptr; }
  bool noise_is_spectral() const {
    return args_.z.data == nullptr && args_.seeds != nullptr && args_.masks.space == nullptr &&
           (args_.masks.freq != nullptr || args_.masks.matrices != nullptr);
  }

  // The real planes inside complex ones.
  OutField field(const Tensor& complex) const {
    const int64_t step = packed() ? 1 : 2, row = step * args_.width, plane = row * args_.height;
    return {floats(complex), element_of<T>, {plane * args_.channels, plane, row, step}};
  }

  Tensor complex(int64_t width) const {
    const std::array<int64_t, 4> shape = {args_.batch, args_.channels, args_.height, width};
    return Tensor::empty(shape, sizeof(T) == 8 ? dtype::complex128 : dtype::complex64, {cpu_device, 0});
  }

  Tensor scratch() const {
    Tensor made = complex(columns());
    if (!packed()) std::fill_n(floats(made), 2 * made.numel(), T{});
    return made;
  }

  static void run(const UpdateArgs& args) {
    in_parallel(args.batch * args.channels * args.height, args.width,
                [&](int64_t begin, int64_t end) { cpu::kernels<T>().update_rows(args, begin, end); });
  }

  // F of the pixels d A^power v + n A z, the power being that of the filter; A = 1 without `with_space`.
  Tensor transformed(Filter filter, const Field& v, bool with_space, const T* d, bool with_noise) const {
    const Tensor made = scratch();
    UpdateArgs pixels = args_;
    pixels.filter = filter;
    pixels.out = field(made);
    pixels.base = {};
    pixels.v = v;
    pixels.masks = {};
    if (with_space) pixels.masks.space = args_.masks.space;
    pixels.d = d;
    if (!with_noise) {
      pixels.z = {};
      pixels.seeds = nullptr;
    }
    run(pixels);
    return transform(made, false);
  }

  static Tensor inverse(const Tensor& spectrum) { return transform(spectrum, true); }

  Tensor normals() const {
    const int64_t half = (args_.width + 1) / 2;
    Tensor g = complex(half);
    const NormalsArgsOf<T> normals = {floats(g),
                                      args_.seeds,
                                      &args_.draw,
                                      args_.batch,
                                      args_.channels,
                                      args_.height * half,
                                      (args_.height + 1) / 2 * half,
                                      args_.first_sample,
                                      args_.seed_per_sample};
    draw_normals(normals);
    return g;
  }

  // The filter R^power on `from`, where not null; the noise scale is n.
  SpectraArgs terms(const T* from, int power) const {
    SpectraArgs terms = {};
    terms.from = from;
    terms.batch = args_.batch;
    terms.channels = args_.channels;
    terms.height = args_.height;
    terms.width = args_.width;
    terms.freq = args_.masks.freq;
    terms.matrices = args_.masks.matrices;
    terms.complex_matrices = args_.masks.complex_matrices;
    terms.cosines = angles_.cosines.data();
    terms.sines = angles_.sines.data();
    terms.power = power;
    terms.noise = args_.n;
    return terms;
  }

  // R^T on `from`.
  SpectraArgs adjoint(const T* from) const {
    SpectraArgs terms = this->terms(from, 1);
    terms.adjoint = true;
    return terms;
  }

  Tensor filtered(SpectraArgs terms) const {
    Tensor to = scratch();
    terms.to = floats(to);
    if (terms.matrices != nullptr) {
      in_parallel(cpu::mixed_rows(terms) * args_.batch, 2 * args_.channels * args_.width,
                  [&](int64_t begin, int64_t end) { cpu::kernels<T>().mix_spectra(terms, begin, end); });
      return to;
    }
    in_parallel(planes(), args_.height * args_.width,
                [&](int64_t begin, int64_t end) { cpu::kernels<T>().filter_spectra(terms, begin, end); });
    return to;
  }

  const UpdateArgs& args_;
  const Angles<T>& angles_;
};

}  // namespace

template <class T>
void update_spectra(const UpdateArgsOf<T>& args, const T* kept) {
  const Angles<T> angles(args.width);
  const int64_t sample = args.channels * args.height * args.width;
  for_chunks(args, [&](int64_t first, int64_t count) {
    const UpdateArgsOf<T> part = samples(args, first, count);
    const Chunk<T> chunk(part, angles);
    chunk.finish(chunk.update(kept == nullptr ? nullptr : kept + first * sample));
  });
}

template <class T>
void measure_spectra(const UpdateArgsOf<T>& args, double (*squares)[2], T* keep) {
  const Angles<T> angles(args.width);
  const int64_t sample = args.channels * args.height * args.width;
  for_chunks(args, [&](int64_t first, int64_t count) {
    UpdateArgsOf<T> part = samples(args, first, count);
    part.d = part.n = nullptr;
    const Chunk<T> chunk(part, angles);
    double (*here)[2] = squares + first * args.channels;
    if (args.filter == Filter::noise) {
      chunk.pixel_squares(here);
    } else {
      const Tensor drift = chunk.drift_spectrum(nullptr, false);
      chunk.squares(drift, here, 0);
      if (keep != nullptr) std::copy_n(Chunk<T>::floats(drift), count * sample, keep + first * sample);
    }
    chunk.squares(chunk.noise_spectrum(nullptr), here, 1);
  });
}

template void update_spectra(const UpdateArgsOf<float>& args, const float* kept);
template void update_spectra(const UpdateArgsOf<double>& args, const double* kept);
template void measure_spectra(const UpdateArgsOf<float>& args, double (*squares)[2], float* keep);
template void measure_spectra(const UpdateArgsOf<double>& args, double (*squares)[2], double* keep);

}  // namespace tdas_ops
