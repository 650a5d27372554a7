// The CPU kernels of the instruction set that TDAS_OPS_CPU_ISA names, for the sanitizers, other compilers and other
// machines: buffers of exactly the size that is needed, outputs and scratch filled with NaN, any alignment, every
// layout; results against reference.h. Exit status 1 and a line for each failure. With an argument it makes a mistake
// that has to be found: "read" or "write" past an end, "unwritten" output. "numbers FILE" leaves the results of small
// sizes in a file: a 32-bit count, how far apart two builds may be (relative RMS, float), so many doubles, and so on.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>

#include "../../../csrc/cpu/kernels.h"
#include "reference.h"

// Scratch is NaN, or a read before it is written would find what an earlier case left.
void* operator new(std::size_t size, std::align_val_t alignment) {
  void* memory = std::aligned_alloc(static_cast<size_t>(alignment), (size + 63) / 64 * 64);
  std::memset(memory, 0xff, size);
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

using namespace tdas_ops;
using reference::Real;

std::mt19937 random_bits(1);
int failures = 0;
std::FILE* numbers = nullptr;

void record(const std::vector<double>& values, float bound) {
  if (numbers == nullptr) return;
  const int32_t count = static_cast<int32_t>(values.size());
  std::fwrite(&count, sizeof(count), 1, numbers);
  std::fwrite(&bound, sizeof(bound), 1, numbers);
  std::fwrite(values.data(), sizeof(double), values.size(), numbers);
}

enum class Layout { contiguous, shifted, padded, channels_last, transposed, expanded };
constexpr Layout layouts[] = {Layout::contiguous,    Layout::shifted,    Layout::padded,
                              Layout::channels_last, Layout::transposed, Layout::expanded};
const char* const layout_names[] = {"contiguous", "shifted", "padded", "channels_last", "transposed", "expanded"};

struct Shape {
  int64_t batch, channels, height, width;
  int64_t plane() const { return height * width; }
  int64_t size() const { return batch * channels * plane(); }
};

uint16_t encode(float value, Element element) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (element == Element::bfloat16) return static_cast<uint16_t>(bits >> 16);
  if (value == 0.0f) return 0;
  return static_cast<uint16_t>((((bits & 0x7fffffffu) >> 13) - (112u << 10)) | ((bits >> 16) & 0x8000u));
}

double decode(uint16_t bits, Element element) {
  if (element == Element::bfloat16) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                                     : std::ldexp(exponent ? 1024 + fraction : fraction, std::max(exponent, 1) - 25);
  return bits & 0x8000 ? -size : size;
}

// [B, C, H, W] in memory that ends with its last element; NaN until written.
class Tensor {
 public:
  Tensor(Shape shape, Element element, Layout layout) : shape_(shape), element_(element) {
    const auto [B, C, H, W] = shape;
    const int64_t pad = layout == Layout::padded ? 3 : 0;
    strides_[3] = 1, strides_[2] = W + pad, strides_[1] = H * (W + pad), strides_[0] = C * strides_[1];
    if (layout == Layout::channels_last) strides_[1] = 1, strides_[3] = C, strides_[2] = W * C, strides_[0] = H * W * C;
    if (layout == Layout::transposed) strides_[3] = H, strides_[2] = 1;
    if (layout == Layout::expanded) strides_[0] = 0;
    first_ = layout == Layout::shifted || layout == Layout::padded ? 1 : 0;
    count_ = first_ + 1 + (B - 1) * strides_[0] + (C - 1) * strides_[1] + (H - 1) * strides_[2] + (W - 1) * strides_[3];
    memory_.reset(new unsigned char[count_ * bytes()]);
    std::memset(memory_.get(), 0xff, count_ * bytes());
  }

  // Multiples of 1/16 below 4, which every element type holds.
  void fill() {
    for (int64_t i = 0; i < shape_.size(); ++i) {
      const float value = static_cast<float>(static_cast<int>(random_bits() % 127) - 63) / 16.0f;
      unsigned char* to = memory_.get() + index(i) * bytes();
      if (element_ == Element::float64) {
        const double wide = value;
        std::memcpy(to, &wide, 8);
      } else if (element_ == Element::float32) {
        std::memcpy(to, &value, 4);
      } else {
        const uint16_t bits = encode(value, element_);
        std::memcpy(to, &bits, 2);
      }
    }
  }

  double operator[](int64_t i) const { return at(index(i)); }

  Real plane(int64_t p) const {
    Real values(shape_.plane());
    for (int64_t i = 0; i < shape_.plane(); ++i) values[i] = (*this)[p * shape_.plane() + i];
    return values;
  }

  // Elements that are no part of the tensor and were written to.
  int64_t stray() const {
    std::vector<bool> own(count_);
    for (int64_t i = 0; i < shape_.size(); ++i) own[index(i)] = true;
    int64_t found = 0;
    for (int64_t i = 0; i < count_; ++i) found += !own[i] && !std::isnan(at(i));
    return found;
  }

  template <class T>
  FieldOf<T> field(int64_t moved = 0) {
    return {memory_.get() + (first_ + moved) * bytes(), element_, {strides_[0], strides_[1], strides_[2], strides_[3]}};
  }

 private:
  int64_t bytes() const { return element_ == Element::float64 ? 8 : element_ == Element::float32 ? 4 : 2; }
  int64_t index(int64_t i) const {
    const auto [B, C, H, W] = shape_;
    return first_ + i / (C * H * W) * strides_[0] + i / (H * W) % C * strides_[1] + i / W % H * strides_[2] +
           i % W * strides_[3];
  }
  double at(int64_t position) const {
    const unsigned char* from = memory_.get() + position * bytes();
    if (element_ == Element::float64) {
      double value;
      std::memcpy(&value, from, 8);
      return value;
    }
    if (element_ == Element::float32) {
      float value;
      std::memcpy(&value, from, 4);
      return value;
    }
    uint16_t bits;
    std::memcpy(&bits, from, 2);
    return decode(bits, element_);
  }

  Shape shape_;
  Element element_;
  int64_t strides_[4], first_, count_;
  std::unique_ptr<unsigned char[]> memory_;
};

// A mask of every channel: what the kernels take, of exactly that size, and the full spectrum or plane.
template <class T>
struct Mask {
  std::unique_ptr<T[]> given;
  std::vector<Real> full;
};

enum class Kind { even, odd, space };

template <class T>
Mask<T> make_mask(Shape shape, Kind kind) {
  const int64_t H = shape.height, W = shape.width, columns = kind == Kind::space ? W : W / 2 + 1;
  Mask<T> mask = {std::unique_ptr<T[]>(new T[shape.channels * H * columns]), {}};
  std::uniform_real_distribution<float> values(0.5f, 1.5f);
  for (int64_t c = 0; c < shape.channels; ++c) {
    std::vector<float> any(H * W);
    for (float& value : any) value = values(random_bits);
    Real full(H * W);
    for (int64_t h = 0; h < H; ++h)
      for (int64_t w = 0; w < W; ++w) {
        const float here = any[h * W + w], mirrored = any[(H - h) % H * W + (W - w) % W];
        full[h * W + w] = kind == Kind::space ? here : kind == Kind::even ? 0.5f * (here + mirrored) : here - mirrored;
        if (w < columns) mask.given[(c * H + h) * columns + w] = static_cast<T>(full[h * W + w]);
      }
    mask.full.push_back(full);
  }
  return mask;
}

// Of memory that holds spectra between measuring and updating, which begins with a line of the cache.
template <class T>
struct alignas(64) Line {
  T values[64 / sizeof(T)];
};

enum class Noise { absent, given, drawn, drawn_per_sample };

struct Case {
  Shape shape;
  Filter filter;
  bool space, skew;
  Noise noise;
  bool in_place;
  Element element;  // of v, and of the output where there is no state
  Layout layout;    // of v; those of the others follow
  bool measured;    // norms first, and then the update from the spectrum that they left
  bool in_double;
};

std::string name_of(const Case& c) {
  char text[200];
  std::snprintf(text, sizeof(text), "%s %ldx%ldx%ldx%ld filter %d%s%s noise %d%s element %d %s%s",
                c.in_double ? "double" : "float", long(c.shape.batch), long(c.shape.channels), long(c.shape.height),
                long(c.shape.width), int(c.filter), c.space ? " space" : "", c.skew ? " skew" : "", int(c.noise),
                c.in_place ? " in place" : "", int(c.element), layout_names[int(c.layout)],
                c.measured ? " measured" : "");
  return text;
}

void check(bool good, const Case& c, const char* what, double value) {
  if (good) return;
  ++failures;
  std::printf("%s: %s %g\n", name_of(c).c_str(), what, value);
}

double relative(double error, double size) { return std::sqrt(error / size); }

template <class T>
void run(const Case& c, const std::string& plant) {
  constexpr Element own_element = element_of<T>;
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
  const Shape shape = c.shape;
  const int64_t planes = shape.batch * shape.channels, size = shape.plane();
  const bool sampling = c.filter == Filter::drift || c.filter == Filter::noise;
  const int second = (int(c.layout) + 1) % 5;  // an output or a state is not expanded

  const Mask<T> freq = make_mask<T>(shape, Kind::even), space = make_mask<T>(shape, Kind::space),
                skew = make_mask<T>(shape, Kind::odd);
  Tensor v(shape, c.element, c.layout), z(shape, own_element, layouts[(int(c.layout) + 2) % 6]);
  Tensor base(shape, own_element, layouts[second]);
  const Element out_element = sampling || c.in_double ? own_element : c.element;
  Tensor own(shape, out_element, layouts[c.layout == Layout::expanded ? second : int(c.layout)]);
  v.fill(), z.fill(), base.fill();
  std::vector<Real> state;
  for (int64_t p = 0; p < planes; ++p) state.push_back(base.plane(p));
  Tensor& out = c.in_place ? base : own;

  const bool per_sample = c.noise == Noise::drawn_per_sample;
  const std::unique_ptr<T[]> d(new T[shape.batch]), n(new T[shape.batch]);
  const std::unique_ptr<int64_t[]> seeds(new int64_t[per_sample ? shape.batch : 1]);
  for (int64_t b = 0; b < shape.batch; ++b) {
    d[b] = T(0.25) + static_cast<T>(b);
    n[b] = T(0.5) + static_cast<T>(b);
    if (b == 0 || per_sample) seeds[b] = b == 0 ? -7 : 1000 * b;
  }

  UpdateArgsOf<T> args = {};
  args.filter = c.filter;
  args.batch = shape.batch, args.channels = shape.channels, args.height = shape.height, args.width = shape.width;
  args.out = out.field<void>(plant == "write" ? 1 : 0);
  args.v = v.field<const void>(plant == "read" ? 1 : 0);
  if (sampling) args.base = base.field<const void>();
  args.masks = {{freq.given.get(), c.space ? space.given.get() : nullptr, c.skew ? skew.given.get() : nullptr}};
  if (sampling) args.d = d.get();
  if (c.noise != Noise::absent) args.n = n.get();
  if (c.noise == Noise::given) args.z = z.field<const void>();
  if (c.noise >= Noise::drawn) args.seeds = seeds.get();
  args.draw = (int64_t{1} << 33) + 5;
  args.first_sample = per_sample ? 0 : 3;
  args.seed_per_sample = per_sample;

  const std::unique_ptr<double[][2]> squares(new double[planes][2]);
  const int64_t kept_size = planes * kernels.kept_floats(shape.height, shape.width);
  const int64_t lines = (kept_size * int64_t{sizeof(T)} + 63) / int64_t{sizeof(Line<T>)};
  const std::unique_ptr<Line<T>[]> kept(new Line<T>[lines]), kept_noise(new Line<T>[lines]);
  for (Line<T>* each : {kept.get(), kept_noise.get()})
    std::fill_n(each->values, kept_size, std::numeric_limits<T>::quiet_NaN());
  // A thread of its own has scratch of its own.
  std::thread([&] {
    const bool pixel_noise = c.space || c.noise == Noise::given;
    const KeptOf<T> keep = {c.measured && c.filter == Filter::drift ? kept[0].values : nullptr,
                            c.measured && pixel_noise ? kept_noise[0].values : nullptr};
    if (c.measured) kernels.measure_planes(args, squares.get(), keep, 0, planes);
    kernels.update_planes(args, {keep.drift, keep.noise}, 0, planes - (plant == "unwritten" ? 1 : 0));
  }).join();

  // Normals are those of float in double as well.
  const bool exact = c.in_double && c.noise < Noise::drawn;
  double error = 0.0, total = 0.0;
  for (int64_t p = 0; p < planes; ++p) {
    const int64_t b = p / shape.channels, channel = p % shape.channels;
    const int H = static_cast<int>(shape.height), W = static_cast<int>(shape.width);
    const reference::Plane plane = {H, W, freq.full[channel], c.space ? space.full[channel] : Real(size, 1.0),
                                    c.skew ? skew.full[channel] : Real()};
    const Real x = v.plane(p);
    const Real drift = c.filter == Filter::drift ? plane.D(x)
                       : c.filter == Filter::M   ? plane.M(x)
                       : c.filter == Filter::Mt  ? plane.Mt(x)
                       : c.filter == Filter::MMt ? plane.MMt(x)
                                                 : x;
    Real coloured(size, 0.0);
    if (c.noise == Noise::given)
      coloured = plane.M(z.plane(p));
    else if (c.noise != Noise::absent)
      coloured = plane.M(reference::white(seeds[per_sample ? b : 0], per_sample ? 0 : args.first_sample + b, args.draw,
                                          static_cast<int>(channel), H, W, !c.space));
    double sums[2] = {0.0, 0.0};
    for (int64_t i = 0; i < size; ++i) {
      const double expected = sampling ? state[p][i] + d[b] * drift[i] + n[b] * coloured[i] : drift[i];
      const double got = out[p * size + i];
      error += (got - expected) * (got - expected);
      total += expected * expected;
      sums[0] += drift[i] * drift[i];
      sums[1] += coloured[i] * coloured[i];
    }
    for (int i = 0; i < 2 && c.measured; ++i) {
      const double wrong = std::abs(squares[p][i] / sums[i] - 1.0);
      check(wrong < (exact ? 1e-13 : 1e-5), c,
            i == 0 ? "|D v|^2 is wrong by a part of" : "|M z|^2 is wrong by a part of", wrong);
    }
  }
  const double bound = exact                              ? 1e-14
                       : out_element == Element::bfloat16 ? 4e-3
                       : out_element == Element::float16  ? 5e-4
                                                          : 1e-6;
  check(relative(error, total) < bound, c, "relative RMS", relative(error, total));
  std::vector<double> values(planes * size);
  for (size_t i = 0; i < values.size(); ++i) values[i] = out[i];
  record(values, static_cast<float>(bound));
  check(out.stray() == 0, c, "elements written outside the output:", static_cast<double>(out.stray()));
}

void check_reference() {
  reference::Spectrum x(32 * 32);
  for (auto& value : x) value = {static_cast<double>(random_bits() % 17), static_cast<double>(random_bits() % 17)};
  const auto fast = reference::transform_plane(x, 32, 32, -1), slow = reference::transform_plane(x, 32, 32, -1, true);
  for (size_t i = 0; i < x.size(); ++i)
    if (!(std::abs(fast[i] - slow[i]) < 1e-9)) {
      ++failures;
      std::printf("reference: the fast transform differs from the definition by %g\n", std::abs(fast[i] - slow[i]));
      return;
    }
}

template <class T>
std::unique_ptr<T[]> nan_filled(int64_t count) {
  std::unique_ptr<T[]> values(new T[count]);
  std::fill_n(values.get(), count, std::numeric_limits<T>::quiet_NaN());
  return values;
}

template <class T>
std::unique_ptr<T[]> filled(int64_t count) {
  std::unique_ptr<T[]> values(new T[count]);
  std::fill_n(values.get(), count, T(0.5));
  return values;
}

template <class T>
void check_finite(const std::unique_ptr<T[]>& values, int64_t count, const char* what, Shape shape,
                  float bound = sizeof(T) == 8 ? 1e-14f : 1e-6f) {
  record(std::vector<double>(values.get(), values.get() + count), bound);
  const int64_t bad = std::count_if(values.get(), values.get() + count, [](T x) { return !std::isfinite(x); });
  if (bad == 0) return;
  ++failures;
  std::printf("%s %ldx%ld: %ld of %ld values not finite\n", what, long(shape.height), long(shape.width), long(bad),
              long(count));
}

constexpr int64_t any_sizes[] = {1, 2, 3, 5, 8, 16, 17, 31, 33, 40, 64, 127};

// Without a frequency mask: out = base + d A^2 v + n A z, of every width.
template <class T>
void check_rows() {
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
  for (const int64_t width : any_sizes)
    for (const Layout layout : {Layout::contiguous, Layout::shifted, Layout::channels_last})
      for (const bool drawn : {false, true}) {
        const Shape shape = {2, 3, 7, width};
        const Mask<T> space = make_mask<T>(shape, Kind::space);
        Tensor v(shape, Element::bfloat16, layout), z(shape, element_of<T>, layout);
        Tensor base(shape, element_of<T>, layout), out(shape, element_of<T>, layout);
        v.fill(), z.fill(), base.fill();
        const auto d = filled<T>(2), n = filled<T>(2);
        const int64_t seed = 5;
        UpdateArgsOf<T> args = {};
        args.filter = Filter::drift;
        args.batch = 2, args.channels = 3, args.height = 7, args.width = width;
        args.out = out.field<void>();
        args.base = base.field<const void>(), args.v = v.field<const void>();
        if (drawn)
          args.seeds = &seed;
        else
          args.z = z.field<const void>();
        args.masks.space = space.given.get();
        args.d = d.get(), args.n = n.get();
        const std::unique_ptr<double[][2]> squares(new double[6][2]);
        std::thread([&] {
          kernels.update_rows(args, 0, 42);
          kernels.measure_rows(args, squares.get(), 0, 6);
        }).join();
        double error = 0.0, total = 0.0;
        for (int64_t i = 0; i < shape.size(); ++i) {
          const double A = space.full[i / shape.plane() % 3][i % shape.plane()];
          const double expected = base[i] + 0.5 * A * A * v[i] + 0.5 * A * z[i];
          error += drawn ? (std::isfinite(out[i]) ? 0.0 : NAN) : (out[i] - expected) * (out[i] - expected);
          total += expected * expected;
        }
        if (relative(error, total) < (sizeof(T) == 8 ? 1e-15 : 1e-6) && out.stray() == 0) continue;
        ++failures;
        std::printf("rows of %ld, %s: relative RMS %g\n", long(width), layout_names[int(layout)],
                    relative(error, total));
      }
}

// Memory alone: the numbers are those of tests/kernels/test_fuzz.py.
template <class T>
void check_spectra() {
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
  for (const int64_t height : any_sizes)
    for (const int64_t width : any_sizes) {
      const Shape shape = {2, 2, height, width};
      const int64_t half = (width + 1) / 2, spectrum = 2 * height * (width % 2 == 0 ? half : width),
                    mask = height * (width / 2 + 1);
      const auto to = nan_filled<T>(4 * spectrum), from = filled<T>(4 * spectrum), kept = filled<T>(4 * spectrum);
      const auto normals = filled<T>(4 * 2 * height * half), freq = filled<T>(2 * mask), skew = filled<T>(2 * mask);
      const auto turns = filled<T>((width / 2 + 15) / 16 * 16), scales = filled<T>(2);
      cpu::SpectraArgsOf<T> args = {};
      args.to = to.get(), args.from = from.get(), args.normals = normals.get(), args.kept = kept.get();
      args.channels = 2, args.height = height, args.width = width;
      args.freq = freq.get(), args.skew = skew.get(), args.cosines = args.sines = turns.get();
      args.power = 2;
      args.data = args.noise = args.kept_scale = scales.get();
      kernels.filter_spectra(args, 0, 4);
      check_finite(to, 4 * spectrum, "spectra", shape);
      const auto mixed = nan_filled<T>(4 * spectrum), matrices = filled<T>(2 * 2 * 2 * mask);
      args.to = mixed.get(), args.batch = 2, args.matrices = matrices.get();
      for (const bool is_complex : {false, true}) {
        args.complex_matrices = is_complex;
        kernels.mix_spectra(args, 0, cpu::mixed_rows(args) * args.batch);
        check_finite(mixed, 4 * spectrum, "mixed spectra", shape);
      }
    }
}

template <class T>
void check_normals() {
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
  for (const int64_t rows : any_sizes)
    for (const int64_t width : any_sizes) {
      const int64_t samples = 3, count = 2 * samples * rows * width, draw = 4;
      const auto out = nan_filled<T>(count);
      const std::unique_ptr<int64_t[]> seeds(new int64_t[samples]{1, -1, 7});
      const NormalsArgsOf<T> args = {out.get(), seeds.get(), &draw, samples, rows, width, (width + 1) / 2, 0, true};
      kernels.normals(args, 0, cpu::normals_blocks(args));
      check_finite(out, count, "normals", {1, 1, rows, width}, 1e-6f);  // float ones, whatever T is
    }
}

template <class T>
void check_parts() {
  check_rows<T>();
  check_spectra<T>();
  check_normals<T>();
}

}  // namespace

int main(int count, char** arguments) {
  const std::string plant = count > 1 ? arguments[1] : "";
  if (plant == "nothing") return 0;
  if (plant == "numbers") numbers = std::fopen(arguments[2], "wb");
  if (plant.empty() || numbers != nullptr) {
    check_reference();
    check_parts<float>();
    check_parts<double>();
  }
  std::vector<Shape> shapes = {{2, 2, 32, 32}};
  if (plant.empty())
    shapes.insert(shapes.end(), {{1, 3, 64, 64},
                                 {3, 1, 32, 64},
                                 {1, 2, 64, 32},
                                 {1, 1, 128, 128},
                                 {1, 1, 256, 256},
                                 {1, 1, 32, 256},
                                 {1, 1, 256, 32},
                                 {1, 1, 2048, 32},
                                 {1, 1, 32, 2048},
                                 // Other lengths: even and odd, with and without whole vectors, and every radix.
                                 {1, 2, 48, 64},
                                 {1, 1, 64, 40},
                                 {1, 1, 33, 100},
                                 {2, 1, 45, 38},
                                 {1, 1, 37, 48},
                                 {1, 2, 50, 33},
                                 {1, 1, 35, 75},
                                 {1, 1, 36, 37},
                                 {1, 1, 721, 32}});
  int cases = 0, skipped = 0, singly = 0;
  for (const Shape& shape : shapes) {
    const auto next = [&](Filter filter, bool space, bool skew, Noise noise, bool measured) {
      const Element elements[] = {Element::float32, Element::bfloat16, Element::float16, Element::float64};
      // Every combination of layout and element comes up, some for each filter; a third of the filters for large
      // planes, and of those of planes that are not small in double.
      const int repeats = numbers != nullptr                            ? 1
                          : shape.plane() <= 1024                       ? 5
                          : shape.plane() <= 4096 || ++skipped % 3 == 0 ? 1
                                                                        : 0;
      for (int i = 0; i < repeats; ++i, ++cases) {
        Case each = {shape,    filter, space, skew, noise, cases % 4 == 3, elements[cases % 3], layouts[cases / 3 % 6],
                     measured, false};
        run<float>(each, plant);
        if (i > 0 || (plant.empty() && shape.plane() > 1024 && ++singly % 3 != 0)) continue;
        each.in_double = true;
        each.element = elements[cases / 5 % 4];
        run<double>(each, plant);
      }
    };
    for (const bool space : {false, true}) {
      for (const Noise noise : {Noise::absent, Noise::given, Noise::drawn, Noise::drawn_per_sample}) {
        for (const bool skew : {false, true})
          for (const bool measured : {false, true})
            if (!measured || noise != Noise::absent) next(Filter::drift, space, skew, noise, measured);
        if (noise != Noise::absent)
          for (const bool measured : {false, true}) next(Filter::noise, space, false, noise, measured);
      }
      for (const Filter filter : {Filter::M, Filter::Mt, Filter::MMt}) next(filter, space, false, Noise::absent, false);
    }
  }
  if (numbers != nullptr) std::fclose(numbers);
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures == 0 ? 0 : 1;
}
