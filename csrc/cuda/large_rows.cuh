// A thread with 64 pixels of a row of a large plane, and with a long line of the transform along it, from global memory
// and back.
#pragma once

#include "../update.h"
#include "large_shape.cuh"
#include "normals.cuh"

namespace tdas_ops::cuda {

enum class Pass {
  forward,  // spectra of rows of v, z or drawn pixels
  between,  // from spectra of rows to those of A (d A u + n z)
  inverse,  // out = base + d v + the result
};

// The thread's pixels: `runs` times `points` runs of `run` neighbours. Run (m, j) begins m `stride` + 32 j columns
// after the first, where a row of 32 has m `stride` columns and j rows.
template <int W>
struct LargePixels {
  using Shape = RowShape<W>;
  static constexpr int run = Shape::run, runs = Shape::runs, points = Shape::points;
  static constexpr int stride = Shape::lines * run;
  using Run = float[run];
  using Numbers = float[runs][run][points];

  const LargeWork& work;
  LargePosition at;
  int row, left;
  float* staging;  // of the thread's first column, in shared memory

  TDAS_OPS_DEVICE LargePixels(const LargeWork& work, float* shared, int thread)
      : LargePixels(work, shared + thread / Shape::lines * Shape::row_pitch,
                    (blockIdx.x * Shape::rows + thread / Shape::lines) * Shape::rows_of_line,
                    thread % Shape::lines * run) {}

  // What is transformed first.
  TDAS_OPS_DEVICE void source(Numbers& numbers) const {
    const bool is_noise = work.plane.noise_first;
    const auto put = [&](int m, int j, const Run& pixels) { each([&](int e) { numbers[m][e][j] = pixels[e]; }); };
    const PixelsOf<const void>& field = is_noise ? work.plane.z : work.plane.v;
    if (is_noise && field.data == nullptr) {
      draw(put);
    } else {
      load(field, put);
    }
    if (work.plane.space_first) multiply(numbers);
  }

  // A (d A u + n z), in place.
  TDAS_OPS_DEVICE void between(Numbers& u) const {
    const PlaneWork& plane = work.plane;
    const bool noisy = plane.z.data != nullptr || plane.samples.seeds != nullptr;
    const float d = drift_scale(plane.samples, at.sample);
    if (plane.masks.space != nullptr) multiply(u);
    each_run([&](int m, int j) { each([&](int e) { u[m][e][j] *= d; }); });
    if (noisy) {
      const float n = noise_scale(plane.samples, at.sample);
      const auto add = [&](int m, int j, const Run& z) {
        each([&](int e) { u[m][e][j] = __fmaf_rn(n, z[e], u[m][e][j]); });
      };
      if (plane.z.data == nullptr) {
        draw(add);
      } else {
        each_staged([&](int m, int e, int j, float* staged) { *staged = pixel(plane.z, place(plane.z, m, e, j)); });
        each_run([&](int m, int j) {
          Run z;
          each([&](int e) { z[e] = *staged_pixel(m, e, j); });
          add(m, j, z);
        });
      }
    }
    if (plane.masks.space != nullptr) multiply(u);
  }

  // (base + d v) + the result, in this order whatever the storage. A pixel of the base may lie where that of the output
  // does.
  TDAS_OPS_DEVICE void finish(Numbers& y) const {
    const PlaneWork& plane = work.plane;
    const bool has_base = plane.base.data != nullptr, has_v = plane.add_v;
    if (plane.space_last) multiply(y);
    if (!at.there) return;
    const float d = has_v ? drift_scale(plane.samples, at.sample) : 0.0f;
    const bool dense = plane.out.dense && plane.out.element == Element::float32 && (!has_base || plane.base.dense) &&
                       (!has_v || plane.v.dense);
    if (!dense) {
      each_run([&](int m, int j) { each([&](int e) { *staged_pixel(m, e, j) = y[m][e][j]; }); });
      each_staged([&](int m, int e, int j, float* staged) {
        float sum = has_base ? pixel(plane.base, place(plane.base, m, e, j)) : 0.0f;
        if (has_v) sum = __fmaf_rn(d, pixel(plane.v, place(plane.v, m, e, j)), sum);
        set_pixel(plane.out, place(plane.out, m, e, j), sum + *staged);
        if (plane.cast.data != nullptr) set_pixel(plane.cast, place(plane.cast, m, e, j), sum + *staged);
      });
      return;
    }
    constexpr int together = run == 1 ? 8 : 16 / run;  // runs, of which all is read before anything is written
    TDAS_OPS_UNROLL
    for (int first = 0; first < runs * points; first += together) {
      Run sum[together] = {};
      const auto of_group = [&](auto use) {
        TDAS_OPS_UNROLL
        for (int i = 0; i < together; ++i) use((first + i) / points, (first + i) % points, sum[i]);
      };
      const auto add_v = [&](auto element) {
        of_group([&](int m, int j, Run& of_run) {
          Run v;
          load_run<decltype(element)>(plane.v, m, j, v);
          each([&](int e) { of_run[e] = __fmaf_rn(d, v[e], of_run[e]); });
        });
      };
      if (has_base) of_group([&](int m, int j, Run& of_run) { load_run<float>(plane.base, m, j, of_run); });
      if (has_v) plane.v.element == Element::float32 ? add_v(float{}) : add_v(uint16_t{});
      of_group([&](int m, int j, Run& of_run) {
        each([&](int e) { of_run[e] = y[m][e][j] += of_run[e]; });
        store_streaming(m, j, of_run);
      });
    }
    if (plane.cast.data == nullptr) return;
    each_run([&](int m, int j) { each([&](int e) { *staged_pixel(m, e, j) = y[m][e][j]; }); });
    TDAS_OPS_NO_UNROLL
    for (int i = 0; i < runs * points; ++i) {
      Run pixels;
      each([&](int e) { pixels[e] = *staged_pixel(i / points, e, i % points); });
      store_run(plane.cast, place(plane.cast, i / points, 0, i % points), pixels);
    }
  }

  TDAS_OPS_DEVICE void to_lines(const Numbers& numbers) const {
    TDAS_OPS_UNROLL
    for (int m = 0; m < runs; ++m) {
      Complex<float> lines[run][points / 2];
      TDAS_OPS_UNROLL
      for (int e = 0; e < run; ++e) {
        if constexpr (Shape::short_rows) {
          lines[e][0] = {numbers[m][e][0], numbers[m][e][1]};
        } else {
          transform_real<points>(numbers[m][e], lines[e]);
        }
      }
      TDAS_OPS_UNROLL
      for (int line = 0; line < points / 2; ++line) {
        if constexpr (run == 1) {
          *staged(m, line, 0) = make_float2(lines[0][line].re, lines[0][line].im);
        } else {
          TDAS_OPS_UNROLL
          for (int e = 0; e < run; e += 2)
            *reinterpret_cast<float4*>(staged(m, line, e)) =
                make_float4(lines[e][line].re, lines[e][line].im, lines[e + 1][line].re, lines[e + 1][line].im);
        }
      }
    }
  }

  TDAS_OPS_DEVICE void from_lines(Numbers& numbers) const {
    TDAS_OPS_UNROLL
    for (int m = 0; m < runs; ++m) {
      Complex<float> lines[run][points / 2];
      TDAS_OPS_UNROLL
      for (int line = 0; line < points / 2; ++line) {
        if constexpr (run == 1) {
          const float2 one = *staged(m, line, 0);
          lines[0][line] = {one.x, one.y};
        } else {
          TDAS_OPS_UNROLL
          for (int e = 0; e < run; e += 2) {
            const float4 two = *reinterpret_cast<const float4*>(staged(m, line, e));
            lines[e][line] = {two.x, two.y};
            lines[e + 1][line] = {two.z, two.w};
          }
        }
      }
      TDAS_OPS_UNROLL
      for (int e = 0; e < run; ++e) {
        if constexpr (Shape::short_rows) {
          numbers[m][e][0] = lines[e][0].re;
          numbers[m][e][1] = lines[e][0].im;
        } else {
          inverse_real<points>(lines[e], numbers[m][e]);
        }
      }
    }
  }

 private:
  TDAS_OPS_DEVICE LargePixels(const LargeWork& work, float* staging, uint32_t row, int left)
      : work(work),
        at(work, row >> work.log_height),
        row(row & ((1u << work.log_height) - 1)),
        left(left),
        staging(staging + 2 * left) {}

  TDAS_OPS_DEVICE float2* staged(int m, int line, int e) const {
    return reinterpret_cast<float2*>(staging + line * Shape::line_pitch) + m * stride + e;
  }

  // use(e) for the pixels of a run.
  template <class Use>
  static TDAS_OPS_DEVICE void each(Use use) {
    TDAS_OPS_UNROLL
    for (int e = 0; e < run; ++e) use(e);
  }

  // use(m, j) for all runs.
  template <class Use>
  static TDAS_OPS_DEVICE void each_run(Use use) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < runs * points; ++i) use(i / points, i % points);
  }

  // The j-th pixel of a short line, from the thread's first on: 32 columns further each, or a row.
  static TDAS_OPS_DEVICE constexpr int row_of(int j) { return Shape::rows_of_line == 2 ? j : 0; }
  static TDAS_OPS_DEVICE constexpr int column_of(int m, int j) {
    return m * stride + (Shape::rows_of_line == 2 ? 0 : 32 * j);
  }

  template <class T>
  TDAS_OPS_DEVICE int64_t place(const PixelsOf<T>& field, int m, int e, int j) const {
    return at.plane(field) + (row + row_of(j)) * field.strides[2] + (left + column_of(m, j) + e) * field.strides[3];
  }

  // A thread's own place for a pixel in shared memory.
  TDAS_OPS_DEVICE float* staged_pixel(int m, int e, int j) const {
    return reinterpret_cast<float*>(staged(m, j / 2, e)) + j % 2;
  }

  // use(m, e, j, staged) in a loop: what is rare shall be short.
  template <class Use>
  TDAS_OPS_DEVICE void each_staged(Use use) const {
    TDAS_OPS_NO_UNROLL
    for (int i = 0; i < 64; ++i) {
      const int m = i / (run * points), e = i % run, j = i / run % points;
      use(m, e, j, staged_pixel(m, e, j));
    }
  }

  // use(m, j, pixels) for all runs of a field.
  template <class Use>
  TDAS_OPS_DEVICE void load(const PixelsOf<const void>& field, Use use) const {
    const auto load_all = [&](auto element) {
      each_run([&](int m, int j) {
        Run pixels;
        load_run<decltype(element)>(field, m, j, pixels);
        use(m, j, pixels);
      });
    };
    if (!field.dense) {
      each_staged([&](int m, int e, int j, float* staged) { *staged = pixel(field, place(field, m, e, j)); });
      each_run([&](int m, int j) {
        Run pixels;
        each([&](int e) { pixels[e] = *staged_pixel(m, e, j); });
        use(m, j, pixels);
      });
    } else if (field.element == Element::float32) {
      load_all(float{});
    } else {
      load_all(uint16_t{});
    }
  }

  // A run of a dense field. T is float, or uint16_t for both formats of 16 bits.
  template <class T>
  TDAS_OPS_DEVICE void load_run(const PixelsOf<const void>& field, int m, int j, Run& pixels) const {
    const T* data = static_cast<const T*>(field.data) + place(field, m, 0, j);
    if constexpr (sizeof(T) == 4) {
      if constexpr (run == 4) {
        const float4 four = __ldcs(reinterpret_cast<const float4*>(data));
        pixels[0] = four.x, pixels[1] = four.y, pixels[2] = four.z, pixels[3] = four.w;
      } else if constexpr (run == 2) {
        const float2 two = __ldcs(reinterpret_cast<const float2*>(data));
        pixels[0] = two.x, pixels[1] = two.y;
      } else {
        pixels[0] = __ldcs(data);
      }
    } else {
      const bool brain = field.element == Element::bfloat16;
      if constexpr (run == 4) {
        const uint2 words = __ldcs(reinterpret_cast<const uint2*>(data));
        pixels[0] = widened(words.x, brain), pixels[1] = widened(words.x >> 16, brain);
        pixels[2] = widened(words.y, brain), pixels[3] = widened(words.y >> 16, brain);
      } else if constexpr (run == 2) {
        const uint32_t word = __ldcs(reinterpret_cast<const uint32_t*>(data));
        pixels[0] = widened(word, brain), pixels[1] = widened(word >> 16, brain);
      } else {
        pixels[0] = widened(__ldcs(data), brain);
      }
    }
  }

  TDAS_OPS_DEVICE void store_streaming(int m, int j, const Run& pixels) const {
    float* data = static_cast<float*>(work.plane.out.data) + place(work.plane.out, m, 0, j);
    if constexpr (run == 4) {
      __stcs(reinterpret_cast<float4*>(data), make_float4(pixels[0], pixels[1], pixels[2], pixels[3]));
    } else if constexpr (run == 2) {
      __stcs(reinterpret_cast<float2*>(data), make_float2(pixels[0], pixels[1]));
    } else {
      __stcs(data, pixels[0]);
    }
  }

  // use(m, j, z) with unit normals by the contract of pixel noise: one call makes two neighbours and the two half a row
  // further.
  template <class Use>
  TDAS_OPS_DEVICE void draw(Use use) const {
    DrawnNoise noise(work.plane.samples, at.sample);
    const uint32_t first_quad = ((at.channel << work.log_height) + row) * (W / 4) + left / 2;
    constexpr bool of_pair = Shape::rows_of_line == 2;
    constexpr int m_half = of_pair ? runs / 2 : 0, j_half = of_pair ? 0 : points / 2;  // half a row further
    TDAS_OPS_UNROLL
    for (int m = 0; m < (of_pair ? runs / 2 : runs); ++m) {
      TDAS_OPS_UNROLL
      for (int j = 0; j < (of_pair ? points : points / 2); ++j) {
        noise.forget_round_keys();
        Run near, far;
        TDAS_OPS_UNROLL
        for (int e = 0; e < run; e += 2) {
          const PhiloxWords words = noise.words(first_quad + row_of(j) * (W / 4) + (column_of(m, j) + e) / 2);
          const ComplexNormal g = complex_normal(words.w0, words.w1), h = complex_normal(words.w2, words.w3);
          if constexpr (run == 1) {  // the other one is the neighbouring thread's
            near[0] = left % 2 == 0 ? g.real : g.imag;
            far[0] = left % 2 == 0 ? h.real : h.imag;
          } else {
            near[e] = g.real, near[e + 1] = g.imag;
            far[e] = h.real, far[e + 1] = h.imag;
          }
        }
        use(m, j, near);
        use(m + m_half, j + j_half, far);
      }
    }
  }

  // Times A.
  TDAS_OPS_DEVICE void multiply(Numbers& numbers) const {
    const int64_t first = (static_cast<int64_t>(at.channel) * W << work.log_height) + row * W + left;
    each_run([&](int m, int j) {
      const float* mask = work.plane.masks.space + (first + row_of(j) * W + column_of(m, j));
      if constexpr (run == 4) {
        const float4 A = __ldg(reinterpret_cast<const float4*>(mask));
        numbers[m][0][j] *= A.x, numbers[m][1][j] *= A.y, numbers[m][2][j] *= A.z, numbers[m][3][j] *= A.w;
      } else if constexpr (run == 2) {
        const float2 A = __ldg(reinterpret_cast<const float2*>(mask));
        numbers[m][0][j] *= A.x, numbers[m][1][j] *= A.y;
      } else {
        numbers[m][0][j] *= __ldg(mask);
      }
    });
  }
};

// A long line of the transform, of 32 complex numbers: frequencies k + 32 n of its short lines, k = 0 .. lines - 1.
// Line 0 is real: with that of frequency `lines` beside it, it is a transform of 64 real numbers.
template <int W>
struct LargeLine {
  using Shape = RowShape<W>;
  static constexpr int lines = Shape::lines, points = Shape::points;

  bool there;
  int row, line;     // of the block, of the row
  float4* numbers;   // shared memory of the line
  float2* spectrum;  // of the row

  TDAS_OPS_DEVICE LargeLine(const LargeWork& work, float* shared, int thread) : row(thread), line(0) {
    if (lines > 1 && thread >= Shape::rows) {
      row = (thread - Shape::rows) / (lines > 1 ? lines - 1 : 1);
      line = (thread - Shape::rows) % (lines > 1 ? lines - 1 : 1) + 1;
    }
    numbers = reinterpret_cast<float4*>(shared + row * Shape::row_pitch + line * Shape::line_pitch);
    const uint32_t first = (blockIdx.x * Shape::rows + row) * Shape::rows_of_line;
    const LargePosition at(work, first >> work.log_height);
    there = at.there;
    spectrum = at.spectrum(work) + (first & ((1u << work.log_height) - 1)) * (W / 2);
  }

  TDAS_OPS_DEVICE void forward() const {
    Complex<float> in[32], X[32];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float4 two = numbers[i];
      in[2 * i] = {two.x, two.y};
      in[2 * i + 1] = {two.z, two.w};
    }
    if (line == 0) {
      float pixels[64];
      TDAS_OPS_UNROLL
      for (int i = 0; i < 32; ++i) {
        const Complex<float> c = in[i];
        pixels[i] = Shape::short_rows ? c.re : 0.5f * (c.re + c.im);
        pixels[i + 32] = Shape::short_rows ? c.im : 0.5f * (c.re - c.im);
      }
      if constexpr (Shape::rows_of_line == 2) {
        transform_real<32>(pixels, X);
        transform_real<32>(pixels + 32, X + 16);
      } else {
        transform_real<64>(pixels, X);
      }
      if (!there) return;
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) spectrum[k * lines] = make_float2(X[k].re, X[k].im);
    } else {
      TDAS_OPS_UNROLL
      for (int i = 0; i < 32; ++i) in[i] = turned<false>(in[i], line_twiddles<W>.at[i][line]);
      transform<32, false>(in, X);
      if (!there) return;
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) *frequency(k) = make_float2(X[k].re, k < 16 ? X[k].im : -X[k].im);
    }
  }

  TDAS_OPS_DEVICE void inverse() const {
    Complex<float> X[32], out[32];
    if (line == 0) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) {
        const float2 number = __ldcg(spectrum + k * lines);
        X[k] = {number.x, number.y};
      }
      float pixels[64];
      if constexpr (Shape::rows_of_line == 2) {
        inverse_real<32>(X, pixels);
        inverse_real<32>(X + 16, pixels + 32);
      } else {
        inverse_real<64>(X, pixels);
      }
      TDAS_OPS_UNROLL
      for (int i = 0; i < 32; ++i) {
        const float a = pixels[i], b = pixels[i + 32];
        out[i] = Shape::short_rows ? Complex<float>{a, b} : Complex<float>{0.5f * (a + b), 0.5f * (a - b)};
      }
    } else {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) {
        const float2 number = __ldcg(frequency(k));
        X[k] = {number.x, k < 16 ? number.y : -number.y};
      }
      transform<32, true>(X, out);
      TDAS_OPS_UNROLL
      for (int i = 0; i < 32; ++i) out[i] = turned<true>(out[i], line_twiddles<W>.at[i][line]);
    }
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i)
      numbers[i] = make_float4(out[2 * i].re, out[2 * i].im, out[2 * i + 1].re, out[2 * i + 1].im);
  }

 private:
  // Where frequency line + points k is, or from W / 2 on its conjugate.
  TDAS_OPS_DEVICE float2* frequency(int k) const {
    return k < 16 ? spectrum + line + points * k : spectrum - line + (W - points * k);
  }
};

}  // namespace tdas_ops::cuda
