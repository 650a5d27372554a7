// One filtered update of planes of 32, 64 or 128 by 32, 64 or 128, from pixels to pixels in one kernel: every plane is
// transformed, filtered and transformed back in registers and shared memory.
//
// A thread holds 64 floats throughout, H W / 64 threads a plane, as one of
//   pixels   four items of 2 x 2 runs (pixels.cuh),
//   a row    64 numbers of a row, which it transforms as real numbers: 32 frequencies, or
//   a column 32 frequencies of one column of the half spectrum.
// From pixels to rows and back through `staging`, [H][W + 4] floats; from rows to columns and back through `spectrum`,
// [class][W / 2][rows + 2] complex numbers in the same memory. Both pitches are 4 floats modulo 32 banks, so that eight
// neighbouring threads reach all banks with 16 bytes each.
//
// Lines longer than a thread are split by butterflies of radix 2 between pixels half a plane apart. In y, for H >= 64:
// class 0 of the rows (sums) has the even frequencies, class 1 (differences, times exp(-2 pi i h / H)) the odd ones. In
// x, for W = 128: the sums have the even frequencies; of the differences, again split, c(n) = (v(n) - i v(n + 32))
// exp(-2 pi i n / 128) has X(4k + 1), all others being their conjugates. At H = 128 a column is split once more on its
// way out of shared memory. So kh = classes halves k + classes half + class.
//
// Column 0 of the spectrum is real in x like column W / 2, and holds both: P = A + i B. A(h) and B(h) of Hermitian
// columns are told apart by P(H - h), which lies in the same class; see separate_column and join_column of update.h.
#pragma once

#include <cstdint>

#include "../philox.h"
#include "../update.h"
#include "divider.h"
#include "line.cuh"
#include "normals.cuh"
#include "pixels.cuh"
#include "plane.h"

namespace tdas_ops::cuda {

enum class Kind {
  drift,         // out = base + F^-1 (d R^2 F v + n R Z)
  skewed_drift,  // out = base + F^-1 (d (R^2 + i w) F v + n R Z)
  noise,         // out = base + d v + F^-1 n R Z
  pixels,  // out = base + d v + [A] F^-1 R F u, once or twice, u being v, z or drawn pixels, [A] and noise between
};

// Arguments of the kernels.
struct PlaneWork {
  PixelsOf<const void> base, v, z;
  PixelsOf<void> out;
  Masks masks;
  Scale d, n;
  const int64_t* seeds;
  const int64_t* draw;
  uint32_t first_sample;
  uint32_t planes;
  uint32_t channels;
  Divider by_channels;
  bool langevin_noise;
  bool seed_per_sample;
  bool square;       // kind skewed_drift: whether there is R^2
  bool add_v;        // whether out has d v
  bool noise_first;  // kind pixels: u is z or drawn, times n
  bool space_first;  // kind pixels: u is multiplied by A
  bool twice;        // kind pixels: F^-1 R F A (d A [.] + n z)
  bool space_last;   // kind pixels: the result is multiplied by A
};

// The smallest number from n on that is `residue` modulo 32.
constexpr int padded(int n, int residue) { return n + ((residue - n) % 32 + 32) % 32; }

// 1 / sqrt(n), n being a power of two.
constexpr float white_scale(int n) {
  float scale = 1.0f;
  for (; n >= 4; n /= 4) scale /= 2;
  return n == 1 ? scale : scale * 0.70710678f;
}

template <int H, int W>
struct PlaneShape {
  static constexpr int threads = H * W / 64;                        // of a plane
  static constexpr int planes = threads < 128 ? 128 / threads : 1;  // of a block
  static constexpr int block = threads * planes;
  static constexpr int blocks = 512 / block;  // of a multiprocessor, at 128 registers
  static constexpr int classes = H >= 64 ? 2 : 1;
  static constexpr int rows = H / classes;
  static constexpr int halves = rows / 32;
  static constexpr int columns = W / 2;
  static constexpr int lines = W == 32 ? 2 : 1;  // rows of a thread
  // Pitches in floats. Eight neighbouring threads of a column phase have `together` columns of all classes and planes.
  static constexpr int together = 8 / (planes * classes);
  static constexpr int row_pitch = W + 4;
  static constexpr int column_pitch = 2 * (rows + 2);
  static constexpr int class_pitch = padded(columns * column_pitch, 4 * together);
  static constexpr int staging = H * row_pitch, spectrum = classes * class_pitch;
  static constexpr int plane_pitch = padded(staging > spectrum ? staging : spectrum, 4 * together * classes);
  static constexpr int shared_bytes = planes * plane_pitch * 4;
  static constexpr float per_pixel = 1.0f / (H * W);
  static constexpr float white = white_scale(2 * H * W);  // of F^-1 g
};

// cos and sin of 2 pi k / 128.
struct Turns {
  Twiddle at[64];
};
constexpr Turns all_turns() {
  Turns turns = {};
  for (int k = 0; k < 64; ++k) turns.at[k] = twiddle(k, 128);
  return turns;
}
static __device__ const Turns turns = all_turns();

TDAS_OPS_DEVICE float scale_of(const Scale& scale, uint32_t sample) {
  if (scale.values == nullptr) return scale.number;
  const uint32_t i = scale.per_sample ? sample : 0;
  switch (scale.type) {
    case Number::float32:
      return static_cast<const float*>(scale.values)[i];
    case Number::float64:
      return static_cast<float>(static_cast<const double*>(scale.values)[i]);
    case Number::bfloat16:
      return from_bfloat16(static_cast<const uint16_t*>(scale.values)[i]);
    default:
      return from_float16(static_cast<const uint16_t*>(scale.values)[i]);
  }
}

TDAS_OPS_DEVICE float noise_scale(const PlaneWork& work, uint32_t sample) {
  return work.langevin_noise ? sqrtf(2.0f * scale_of(work.d, sample)) : scale_of(work.n, sample);
}

// Which plane a thread works on; past the last one, the last once more, and nothing is stored.
struct Position {
  uint32_t sample, channel;
  bool there;

  TDAS_OPS_DEVICE Position(const PlaneWork& work, uint32_t plane) : there(plane < work.planes) {
    const uint32_t clamped = there ? plane : work.planes - 1;
    sample = work.by_channels.quotient(clamped);
    channel = clamped - sample * work.channels;
  }

  template <class T>
  TDAS_OPS_DEVICE int64_t plane(const PixelsOf<T>& field) const {
    return sample * field.strides[0] + channel * field.strides[1];
  }
};

// The noise of one sample: all of the Philox key and counter but the quad.
struct DrawnNoise {
  PhiloxKey key;
  uint32_t sample;
  int64_t draw;

  TDAS_OPS_DEVICE DrawnNoise(const PlaneWork& work, uint32_t b)
      : key(philox_key(work.seeds[work.seed_per_sample ? b : 0])),
        sample(work.seed_per_sample ? 0 : work.first_sample + b),
        draw(*work.draw) {}

  // Round keys are made anew after this, a few instructions for many quads, instead of filling twenty registers.
  TDAS_OPS_DEVICE void forget_round_keys() { key = {opaque(key.low), opaque(key.high)}; }

  TDAS_OPS_DEVICE PhiloxWords words(uint32_t quad) const { return philox4x32(philox_counter(quad, sample, draw), key); }
};

template <int H, int W, Kind kind>
struct PlaneKernel {
  using Shape = PlaneShape<H, W>;
  using Access = PixelAccess<H, W>;
  static constexpr int classes = Shape::classes, rows = Shape::rows, halves = Shape::halves, columns = Shape::columns;
  static constexpr bool has_skew = kind == Kind::skewed_drift;

  // Threads that share a plane's pixels and rows wait for each other.
  static TDAS_OPS_DEVICE void plane_barrier() {
    if constexpr (Shape::threads <= 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // Between a plane's pixels and what the rows transform. Its own inverse but for a factor 2 each.
  static TDAS_OPS_DEVICE void butterflies(Item& item) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (H >= 64) {
        TDAS_OPS_UNROLL
        for (int right = 0; right < 2; ++right) {
          const float upper = item[0][right].at[i], lower = item[1][right].at[i];
          item[0][right].at[i] = upper + lower;
          item[1][right].at[i] = upper - lower;
        }
      }
      if constexpr (W == 128) {
        TDAS_OPS_UNROLL
        for (int row = 0; row < 2; ++row) {
          const float left = item[row][0].at[i], right = item[row][1].at[i];
          item[row][0].at[i] = left + right;
          item[row][1].at[i] = left - right;
        }
      }
    }
  }

  static TDAS_OPS_DEVICE float4* staged(float* staging, const Access& access, int item, int lower, int right) {
    return reinterpret_cast<float4*>(staging + access.first(Shape::row_pitch) +
                                     Access::offset(item, lower, right, Shape::row_pitch));
  }

  static TDAS_OPS_DEVICE void stage(float* staging, const Access& access, Item (&items)[4]) {
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) butterflies(items[item]);
    each_run([&](int item, int lower, int right) {
      const Run& run = items[item][lower][right];
      *staged(staging, access, item, lower, right) = make_float4(run.at[0], run.at[1], run.at[2], run.at[3]);
    });
  }

  static TDAS_OPS_DEVICE void unstage(float* staging, const Access& access, int item, Item& runs) {
    TDAS_OPS_UNROLL
    for (int lower = 0; lower < 2; ++lower) TDAS_OPS_UNROLL
    for (int right = 0; right < 2; ++right) {
      const float4 run = *staged(staging, access, item, lower, right);
      runs[lower][right] = {run.x, run.y, run.z, run.w};
    }
    butterflies(runs);
  }

  // ---- rows ----

  // use(k, kw, conjugate): the thread's k-th frequency is that of column kw, or its conjugate.
  template <class Use>
  static TDAS_OPS_DEVICE void each_frequency(int side, Use use) {
    if (W == 128 && side == 1) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 16; ++k) use(k, 4 * k + 1, false);
      TDAS_OPS_UNROLL
      for (int k = 16; k < 32; ++k) use(k, 127 - 4 * k, true);
    } else {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 16; ++k) use(k, W == 128 ? 2 * k : k, false);
      TDAS_OPS_UNROLL
      for (int k = 16; k < 32; ++k) use(k, W == 128 ? 2 * k : W == 64 ? k : k - 16, false);
    }
  }

  // A thread's row in `staging`, and where its frequencies are in `spectrum`. Of its two rows at W = 32, the first.
  struct Row {
    int index, side;
    TDAS_OPS_DEVICE explicit Row(int thread) : index(W == 32 ? thread : thread % H), side(W == 128 ? thread / H : 0) {}
    TDAS_OPS_DEVICE int row_class(int line) const { return classes == 1 ? 0 : W == 32 ? line : index / rows; }
    TDAS_OPS_DEVICE int row(int line) const {  // within its class
      return classes == 1 ? index + line * (H / 2) : W == 32 ? index : index % rows;
    }
    TDAS_OPS_DEVICE const float* numbers(const float* staging, int line) const {
      return staging + (index + line * (H / 2)) * Shape::row_pitch + side * 64;
    }
    TDAS_OPS_DEVICE float* frequencies(float* spectrum, int line) const {
      return spectrum + row_class(line) * Shape::class_pitch;
    }
    TDAS_OPS_DEVICE Twiddle twiddle() const { return turns.at[row(0) * (128 / H)]; }
  };

  static TDAS_OPS_DEVICE void rows_forward(float* shared, int thread) {
    const Row row(thread);
    float numbers[64];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      constexpr int line_runs = 16 / Shape::lines;
      const float4 run = reinterpret_cast<const float4*>(row.numbers(shared, i / line_runs))[i % line_runs];
      numbers[4 * i] = run.x;
      numbers[4 * i + 1] = run.y;
      numbers[4 * i + 2] = run.z;
      numbers[4 * i + 3] = run.w;
    }
    plane_barrier();
    Complex<float> spectrum[32];
    if constexpr (W == 32) {
      transform_real<32>(numbers, spectrum);
      transform_real<32>(numbers + 32, spectrum + 16);
    } else {
      if (W == 128 && row.side == 1) {
        Complex<float> c[32];
        unrolled<32>(
            [&](auto n) { c[n] = turned<false>(Complex<float>{numbers[n], -numbers[n + 32]}, twiddle(n, 128)); });
        transform<32, false>(c, spectrum);
      } else {
        transform_real<64>(numbers, spectrum);
      }
    }
    const Twiddle class_twiddle = row.twiddle();
    each_frequency(row.side, [&](int k, int kw, bool conjugate) {
      const int line = Shape::lines == 2 ? k / 16 : 0;
      Complex<float> X = conjugate ? conj(spectrum[k]) : spectrum[k];
      if (row.row_class(line) == 1) X = turned<false>(X, class_twiddle);
      float2* column = reinterpret_cast<float2*>(row.frequencies(shared, line) + kw * Shape::column_pitch);
      column[row.row(line)] = make_float2(X.re, X.im);
    });
  }

  static TDAS_OPS_DEVICE void rows_inverse(float* shared, int thread) {
    const Row row(thread);
    Complex<float> spectrum[32];
    const Twiddle class_twiddle = row.twiddle();
    each_frequency(row.side, [&](int k, int kw, bool conjugate) {
      const int line = Shape::lines == 2 ? k / 16 : 0;
      const float2* column = reinterpret_cast<const float2*>(row.frequencies(shared, line) + kw * Shape::column_pitch);
      const float2 first = column[row.row(line) % 32];
      Complex<float> X = {first.x, first.y};
      if constexpr (halves == 2) {
        const float2 second = column[32 + row.row(line) % 32];
        X = fused(row.row(line) < 32 ? 1.0f : -1.0f, Complex<float>{second.x, second.y}, X);
      }
      if (row.row_class(line) == 1) X = turned<true>(X, class_twiddle);
      spectrum[k] = conjugate ? conj(X) : X;
    });
    plane_barrier();
    float numbers[64];
    if constexpr (W == 32) {
      inverse_real<32>(spectrum, numbers);
      inverse_real<32>(spectrum + 16, numbers + 32);
    } else {
      if (W == 128 && row.side == 1) {
        Complex<float> c[32];
        transform<32, true>(spectrum, c);
        unrolled<32>([&](auto n) {
          constexpr Twiddle t = twiddle(n, 128);
          const Complex<float> x = turned<true>(c[n], Twiddle{2.0f * t.cos, 2.0f * t.sin});
          numbers[n] = x.re;
          numbers[n + 32] = -x.im;
        });
      } else {
        inverse_real<64>(spectrum, numbers);
      }
    }
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      constexpr int line_runs = 16 / Shape::lines;
      float4* runs = const_cast<float4*>(reinterpret_cast<const float4*>(row.numbers(shared, i / line_runs)));
      runs[i % line_runs] = make_float4(numbers[4 * i], numbers[4 * i + 1], numbers[4 * i + 2], numbers[4 * i + 3]);
    }
  }

  // ---- columns ----

  struct Column {
    int plane, row_class, kw, half;
    TDAS_OPS_DEVICE explicit Column(int thread)
        : plane(thread % Shape::planes),
          row_class(thread / Shape::planes % classes),
          kw(thread / (Shape::planes * classes) % columns),
          half(halves == 2 ? thread / (Shape::planes * classes * columns) : 0) {}
    TDAS_OPS_DEVICE int first() const { return classes * half + row_class; }  // frequency of k = 0
    TDAS_OPS_DEVICE float* numbers(float* shared) const {
      return shared + plane * Shape::plane_pitch + row_class * Shape::class_pitch + kw * Shape::column_pitch;
    }
  };
  static constexpr int step = classes * halves;  // from a frequency of a column to the next

  static TDAS_OPS_DEVICE void columns_forward(float* numbers, const Column& column, Complex<float> (&out)[32]) {
    const float4* pairs = reinterpret_cast<const float4*>(numbers);
    Complex<float> in[32];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float4 pair = pairs[i];
      in[2 * i] = {pair.x, pair.y};
      in[2 * i + 1] = {pair.z, pair.w};
    }
    if constexpr (halves == 2) {
      const float sign = column.half == 0 ? 1.0f : -1.0f;
      TDAS_OPS_UNROLL
      for (int i = 0; i < 16; ++i) {
        const float4 pair = pairs[16 + i];
        in[2 * i] = fused(sign, Complex<float>{pair.x, pair.y}, in[2 * i]);
        in[2 * i + 1] = fused(sign, Complex<float>{pair.z, pair.w}, in[2 * i + 1]);
      }
      if (column.half == 1) {
        unrolled<32>([&](auto h) { in[h] = turned<false>(in[h], twiddle(h, 64)); });
      }
      __syncthreads();
    }
    transform<32, false>(in, out);
  }

  static TDAS_OPS_DEVICE void columns_inverse(float* numbers, const Column& column, const Complex<float> (&in)[32]) {
    Complex<float> out[32];
    transform<32, true>(in, out);
    if constexpr (halves == 2) {
      if (column.half == 1) {
        unrolled<32>([&](auto h) { out[h] = turned<true>(out[h], twiddle(h, 64)); });
      }
      __syncthreads();
    }
    float4* pairs = reinterpret_cast<float4*>(numbers) + column.half * 16;
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i)
      pairs[i] = make_float4(out[2 * i].re, out[2 * i].im, out[2 * i + 1].re, out[2 * i + 1].im);
  }

  // Column 0: every thread of it leaves its frequencies where the thread of H - h, maybe itself, finds them.
  // use(k, partner) for the frequencies that are not their own partners.
  template <class Use>
  static TDAS_OPS_DEVICE void with_partners(float* numbers, const Column& column, Complex<float> (&X)[32], Use use) {
    float2* all = reinterpret_cast<float2*>(numbers);
    if (column.kw == 0) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) all[halves * k + column.half] = make_float2(X[k].re, X[k].im);
    }
    if constexpr (halves == 2) __syncthreads();
    if (column.kw == 0) {
      const bool even = column.first() == 0;
      const float2* mirrored = all + (rows - column.row_class - column.half);
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) {
        if (k % 16 == 0 && even) continue;
        const float2 partner = mirrored[-halves * k];
        use(k, Complex<float>{partner.x, partner.y});
      }
    }
  }

  // Twice the frequencies of columns 0 and W / 2, those of column W / 2 in the upper half and in frequencies 0 and H
  // / 2.
  static TDAS_OPS_DEVICE void separate(float* numbers, const Column& column, Complex<float> (&X)[32]) {
    if (column.kw == 0 && column.first() == 0) {
      X[0] = X[0] + X[0];
      X[16] = X[16] + X[16];
    }
    with_partners(numbers, column, X, [&](int k, Complex<float> partner) {
      const Complex<float> own = X[k];
      X[k] = k < 16 ? Complex<float>{own.re + partner.re, own.im - partner.im}
                    : Complex<float>{own.im + partner.im, own.re - partner.re};
    });
    if constexpr (halves == 2) __syncthreads();
  }

  static TDAS_OPS_DEVICE void join(float* numbers, const Column& column, Complex<float> (&X)[32]) {
    with_partners(numbers, column, X, [&](int k, Complex<float> partner) {
      const Complex<float> own = X[k];
      X[k] = k < 16 ? Complex<float>{own.re - partner.im, own.im + partner.re}
                    : Complex<float>{partner.re + own.im, own.re - partner.im};
    });
  }

  // Where a mask has the frequencies of a column: [k] below H / 2, [k - 16] above.
  struct MaskColumn {
    const float *lower, *upper;
    bool real_pair;  // frequencies 0 and H / 2 hold two real numbers, of columns 0 and W / 2

    TDAS_OPS_DEVICE MaskColumn(const float* mask, uint32_t channel, const Column& column) {
      const bool special = column.kw == 0;
      real_pair = special && column.first() == 0;
      lower = mask + (channel * H + column.first()) * (columns + 1) + column.kw;
      upper = lower + H / 2 * (columns + 1) + (special ? columns : 0);
    }
    TDAS_OPS_DEVICE float at(int k) const {
      const float* half = k < 16 ? lower : upper;
      if (k == 16 && real_pair) half -= columns;
      return __ldg(half + k % 16 * step * (columns + 1));
    }
    TDAS_OPS_DEVICE float imag_at(int k) const {  // the mask of the imaginary part
      if (k % 16 == 0 && real_pair) return __ldg(k == 0 ? lower + columns : upper);
      return at(k);
    }
  };

  // X = F^-1 input: (linear R + d R^2 + i d w) X + n R Z.
  static TDAS_OPS_DEVICE void filter(const PlaneWork& work, const Column& column, const Position& at, bool noisy,
                                     float d, float n, Complex<float> (&X)[32]) {
    const MaskColumn R(work.masks.freq, at.channel, column);
    const MaskColumn w(has_skew ? work.masks.skew : work.masks.freq, at.channel, column);
    const bool special = column.kw == 0;
    const float data = special ? 0.5f * d : d;
    const float square = has_skew && !work.square ? 0.0f : data;
    const float upper_skew = special ? -data : data;
    const uint32_t first_quad = (at.channel * (H / 2) + column.first()) * columns + column.kw;
    constexpr int group_size = 8;  // calls of Philox between which their round keys are kept
    TDAS_OPS_UNROLL
    for (int group = 0; group < 16; group += group_size) {
      float re[2 * group_size], im[2 * group_size];  // frequencies group + i, then those half a column on
      TDAS_OPS_UNROLL
      for (int i = 0; i < 2 * group_size; ++i) {
        const int k = group + i % group_size + i / group_size * 16;
        re[i] = R.at(k);
        im[i] = k % 16 == 0 ? R.imag_at(k) : re[i];
        const Complex<float> x = X[k];
        if constexpr (kind == Kind::pixels) {
          X[k] = {re[i] * data * x.re, im[i] * data * x.im};
        } else if constexpr (kind == Kind::noise) {
          X[k] = {0.0f, 0.0f};
        } else {
          X[k] = {re[i] * (re[i] * square) * x.re, im[i] * (im[i] * square) * x.im};
          if constexpr (has_skew) X[k] = with_skew(X[k], x, w.at(k) * (k < 16 ? data : upper_skew));
        }
      }
      if (kind == Kind::pixels || !noisy) continue;
      DrawnNoise drawn(work, at.sample);
      drawn.forget_round_keys();
      TDAS_OPS_UNROLL
      for (int i = 0; i < group_size; ++i) {
        const int k = group + i;
        const PhiloxWords words = drawn.words(first_quad + k * step * columns);
        const float scale = k == 0 && R.real_pair ? 1.41421356f * n : n;
        const PolarNormal below = polar_normal(words.w0, words.w1), above = polar_normal(words.w2, words.w3);
        add_noise(X[k], below, re[i], im[i], scale);
        add_noise(X[k + 16], above, re[i + group_size], im[i + group_size], scale);
      }
    }
  }

  static TDAS_OPS_DEVICE void add_noise(Complex<float>& X, PolarNormal g, float re, float im, float scale) {
    const float scaled = scale * g.rho;
    if constexpr (kind == Kind::noise) {
      X = {re * scaled * g.cos, im * scaled * g.sin};
    } else {
      X = {__fmaf_rn(re * scaled, g.cos, X.re), __fmaf_rn(im * scaled, g.sin, X.im)};
    }
  }

  // ---- pixels ----

  static TDAS_OPS_DEVICE void drawn_pixels(const PlaneWork& work, const Position& at, const Access& access,
                                           Item (&z)[4]) {
    DrawnNoise drawn(work, at.sample);
    const uint32_t first_quad = (at.channel * H + access.places.row) * (W / 4) + access.places.column / 2;
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) {
      drawn.forget_round_keys();
      TDAS_OPS_UNROLL
      for (int lower = 0; lower < 2; ++lower) TDAS_OPS_UNROLL
      for (int i = 0; i < 2; ++i) {
        const PhiloxWords words = drawn.words(first_quad + Access::row(item, lower) * (W / 4) + i);
        const ComplexNormal left = complex_normal(words.w0, words.w1), right = complex_normal(words.w2, words.w3);
        z[item][lower][0].at[2 * i] = left.real;
        z[item][lower][0].at[2 * i + 1] = left.imag;
        z[item][lower][1].at[2 * i] = right.real;
        z[item][lower][1].at[2 * i + 1] = right.imag;
      }
    }
  }

  // z of the caller, or drawn.
  static TDAS_OPS_DEVICE void noise_pixels(const PlaneWork& work, const Position& at, const Access& access,
                                           Item (&z)[4]) {
    if (work.z.data != nullptr) {
      access.load(work.z, at.plane(work.z),
                  [&](int item, int lower, int right, Run run) { z[item][lower][right] = run; });
    } else {
      drawn_pixels(work, at, access, z);
    }
  }

  static TDAS_OPS_DEVICE Run space(const PlaneWork& work, const Position& at, const Access& access, int item, int lower,
                                   int right) {
    const float* mask = work.masks.space + (at.channel * (H * W) + access.first());
    const float4 run = __ldg(reinterpret_cast<const float4*>(mask + Access::offset(item, lower, right)));
    return {run.x, run.y, run.z, run.w};
  }

  static TDAS_OPS_DEVICE void multiply(Run& run, Run mask) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) run.at[i] *= mask.at[i];
  }

  static TDAS_OPS_DEVICE void source(const PlaneWork& work, const Position& at, const Access& access, float* staging) {
    Item u[4];
    if (kind == Kind::pixels && work.noise_first) {
      noise_pixels(work, at, access, u);
    } else {
      access.load(work.v, at.plane(work.v),
                  [&](int item, int lower, int right, Run run) { u[item][lower][right] = run; });
    }
    if (kind == Kind::pixels && work.space_first) {
      each_run([&](int item, int lower, int right) {
        multiply(u[item][lower][right], space(work, at, access, item, lower, right));
      });
    }
    stage(staging, access, u);
  }

  // A (d A u + n z), in place in `staging`.
  static TDAS_OPS_DEVICE void middle(const PlaneWork& work, const Position& at, const Access& access, float* staging) {
    const float d = scale_of(work.d, at.sample);
    Item z[4];
    const bool noisy = work.z.data != nullptr || work.seeds != nullptr;
    const float n = noisy ? noise_scale(work, at.sample) : 0.0f;
    if (noisy) {
      noise_pixels(work, at, access, z);
    } else {
      each_run([&](int item, int lower, int right) { z[item][lower][right] = {}; });
    }
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) {
      Item u;
      unstage(staging, access, item, u);
      TDAS_OPS_UNROLL
      for (int lower = 0; lower < 2; ++lower) TDAS_OPS_UNROLL
      for (int right = 0; right < 2; ++right) {
        Run mask = {1.0f, 1.0f, 1.0f, 1.0f};
        if (work.masks.space != nullptr) mask = space(work, at, access, item, lower, right);
        TDAS_OPS_UNROLL
        for (int i = 0; i < 4; ++i)
          z[item][lower][right].at[i] =
              filtered_pixel(u[lower][right].at[i], z[item][lower][right].at[i], mask.at[i], d, n);
      }
    }
    stage(staging, access, z);
  }

  // block_thread: the index of this thread in its block.
  static TDAS_OPS_DEVICE void run(const PlaneWork& work, float* shared, int block_thread) {
    const int thread = block_thread % Shape::threads;
    float* own = shared + block_thread / Shape::threads * Shape::plane_pitch;
    const uint32_t first_plane = blockIdx.x * Shape::planes;
    const Position at(work, first_plane + block_thread / Shape::threads);
    const Access access{Places<H, W>(thread)};
    const Column column(block_thread);
    float* numbers = column.numbers(shared);
    const Position column_at(work, first_plane + column.plane);

    if constexpr (kind != Kind::noise) {
      source(work, at, access, own);
      plane_barrier();
    }
    TDAS_OPS_NO_UNROLL
    for (int pass = kind == Kind::pixels && work.twice ? 2 : 1; pass > 0; --pass) {
      Complex<float> X[32];
      if constexpr (kind != Kind::noise) {
        rows_forward(own, thread);
        __syncthreads();
        columns_forward(numbers, column, X);
        separate(numbers, column, X);
      }
      if constexpr (kind == Kind::pixels) {
        const float n = work.noise_first ? noise_scale(work, column_at.sample) : 1.0f;
        filter(work, column, column_at, false, n * Shape::per_pixel, 0.0f, X);
      } else {
        const bool noisy = work.seeds != nullptr;
        const float d = kind == Kind::noise ? 0.0f : scale_of(work.d, column_at.sample) * Shape::per_pixel;
        const float n = noisy ? noise_scale(work, column_at.sample) * Shape::white : 0.0f;
        filter(work, column, column_at, noisy, d, n, X);
      }
      join(numbers, column, X);
      columns_inverse(numbers, column, X);
      __syncthreads();
      rows_inverse(own, thread);
      if (kind == Kind::pixels && pass == 2) {
        plane_barrier();
        middle(work, at, access, own);
        plane_barrier();
      }
    }
    finish(work, at, access, own);
  }

  static TDAS_OPS_DEVICE void finish(const PlaneWork& work, const Position& at, const Access& access, float* staging) {
    // All of the base is read before the barrier, and before any of the result, which may lie there, is written.
    Item sum[4];
    if (work.base.data != nullptr) {
      access.load(work.base, at.plane(work.base),
                  [&](int item, int lower, int right, Run run) { sum[item][lower][right] = run; });
    } else {
      each_run([&](int item, int lower, int right) { sum[item][lower][right] = {}; });
    }
    plane_barrier();
    if (kind != Kind::drift && kind != Kind::skewed_drift && work.add_v) {
      const float d = scale_of(work.d, at.sample);
      access.load(work.v, at.plane(work.v), [&](int item, int lower, int right, Run run) {
        TDAS_OPS_UNROLL
        for (int i = 0; i < 4; ++i)
          sum[item][lower][right].at[i] = __fmaf_rn(d, run.at[i], sum[item][lower][right].at[i]);
      });
    }
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) {
      Item y;
      unstage(staging, access, item, y);
      TDAS_OPS_UNROLL
      for (int lower = 0; lower < 2; ++lower) TDAS_OPS_UNROLL
      for (int right = 0; right < 2; ++right) {
        if (kind == Kind::pixels && work.space_last)
          multiply(y[lower][right], space(work, at, access, item, lower, right));
        TDAS_OPS_UNROLL
        for (int i = 0; i < 4; ++i) sum[item][lower][right].at[i] += y[lower][right].at[i];
      }
    }
    if (at.there) {
      access.store(work.out, at.plane(work.out), sum);
    }
  }
};

template <int H, int W, Kind kind>
__global__ void __launch_bounds__(PlaneShape<H, W>::block, PlaneShape<H, W>::blocks) plane_kernel(PlaneWork work) {
  TDAS_OPS_SHARED(float, shared);
  PlaneKernel<H, W, kind>::run(work, shared, threadIdx.x);
}

// The kernels of one size.
struct PlaneKernels {
  int height, width;
  int planes, block;  // of a block: planes, threads
  int shared_bytes;
  void (*kernels[4])(PlaneWork);  // of a Kind
};

template <int H, int W>
constexpr PlaneKernels plane_kernels() {
  using Shape = PlaneShape<H, W>;
  return {H,
          W,
          Shape::planes,
          Shape::block,
          Shape::shared_bytes,
          {plane_kernel<H, W, Kind::drift>, plane_kernel<H, W, Kind::skewed_drift>, plane_kernel<H, W, Kind::noise>,
           plane_kernel<H, W, Kind::pixels>}};
}

// One file a height, which compile side by side.
extern const PlaneKernels planes_of_32[3], planes_of_64[3], planes_of_128[3];

}  // namespace tdas_ops::cuda
