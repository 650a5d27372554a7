// A thread with 32 frequencies of a column of a large plane: the transform along it, from global memory and back.
#pragma once

#include "column_filter.cuh"
#include "large_shape.cuh"

namespace tdas_ops::cuda {

template <int H>
struct ColumnsInMemory {
  static constexpr int parts = ColumnShape<H>::parts, half = parts / 2;
  static constexpr int group = 4;

  int count;

  // From a thread's first frequency to its k-th.
  static TDAS_OPS_DEVICE constexpr int offset(int k) {
    return parts == 1 ? k : parts == 64 ? 64 * k : k / half * parts + k % half * 32;
  }
};

template <int H, Kind kind>
struct LargeColumns : ColumnFilter<H, kind, ColumnsInMemory<H>> {
  using Shape = ColumnShape<H>;
  using Filter = ColumnFilter<H, kind, ColumnsInMemory<H>>;
  using Filter::kw, Filter::first;
  static constexpr int parts = Shape::parts;
  static constexpr int points = parts < 32 ? parts : 32;  // of a short line, or of its half

  uint32_t column;        // of all planes of the launch
  float2* numbers_there;  // of the column and part, in global memory
  float* numbers;         // of the column, in shared memory
  int part;               // of the column's threads; also their first frequency
  bool has_pair;          // whether the block has a column 0

  TDAS_OPS_DEVICE LargeColumns(const LargeWork& work, float* shared, int thread)
      : LargeColumns(work, shared + column_of(thread) * Shape::column_pitch, thread / Shape::neighbours % parts,
                     blockIdx.x * Shape::columns + column_of(thread), blockIdx.x * Shape::columns) {}

  // X[k], k < 16, in the order of `offset`, X[k + 16] those H / 2 further.
  TDAS_OPS_DEVICE void forward(int64_t to_noise, Complex<float> (&X)[32]) const {
    Complex<float> in[32];
    const int stride = parts * this->columns.count;
    TDAS_OPS_UNROLL
    for (int i = 0; i < 32; ++i) {
      const float2 number = __ldcg(numbers_there + i * stride);
      in[i] = {number.x, number.y};
    }
    if constexpr (kind == Kind::pixels) {
      if (to_noise != 0) combine(numbers_there + to_noise, in);
    }
    if constexpr (parts == 1) {
      transform<32, false>(in, X);
    } else {
      Complex<float> long_line[32];
      transform<32, false>(in, long_line);
      TDAS_OPS_UNROLL
      for (int a = 0; a < 32; ++a) {
        const Complex<float> number = turned<false>(long_line[a], line_twiddles<H>.at[a][part]);
        reinterpret_cast<float2*>(line(a))[part] = make_float2(number.re, number.im);
      }
      __syncthreads();
      short_forward(X);
    }
    this->separate(X, [&](auto& all, auto use) { with_partners(all, use); });
  }

  TDAS_OPS_DEVICE void inverse(Complex<float> (&X)[32]) const {
    this->join(X, [&](auto& all, auto use) { with_partners(all, use); });
    Complex<float> out[32];
    if constexpr (parts == 1) {
      transform<32, true>(X, out);
    } else {
      if (has_pair || Shape::halves == 2) __syncthreads();
      short_inverse(X);
      __syncthreads();
      Complex<float> long_line[32];
      TDAS_OPS_UNROLL
      for (int a = 0; a < 32; ++a) long_line[a] = turned<true>(read_long(a), line_twiddles<H>.at[a][part]);
      transform<32, true>(long_line, out);
    }
    if (!this->at.there) return;
    const int stride = parts * this->columns.count;
    TDAS_OPS_UNROLL
    for (int i = 0; i < 32; ++i) numbers_there[i * stride] = make_float2(out[i].re, out[i].im);
  }

  // The sums over the threads of a column, in a fixed order, to work.squares.
  TDAS_OPS_DEVICE void sum(const LargeWork& work, float2 own) const {
    float2* const sums = reinterpret_cast<float2*>(numbers);
    __syncthreads();
    sums[part] = own;
    TDAS_OPS_UNROLL
    for (int half = parts / 2; half > 0; half /= 2) {
      __syncthreads();
      if (part < half) sums[part] = make_float2(sums[part].x + sums[part + half].x, sums[part].y + sums[part + half].y);
    }
    if (part != 0 || !this->at.there) return;
    if (work.plane.filter_drift) work.squares[column].x = sums[0].x;
    if (work.noisy) work.squares[column].y = sums[0].y;
  }

 private:
  // d times these numbers, plus n times those of the noise.
  TDAS_OPS_DEVICE void combine(const float2* noise, Complex<float> (&numbers)[32]) const {
    const SampleWork& samples = this->work.samples;
    const float d = drift_scale(samples, this->at.sample);
    TDAS_OPS_UNROLL
    for (int i = 0; i < 32; ++i) numbers[i] = {d * numbers[i].re, d * numbers[i].im};
    if (samples.seeds == nullptr && this->work.z.data == nullptr) return;
    const float n = noise_scale(samples, this->at.sample);
    const int stride = parts * this->columns.count;
    TDAS_OPS_UNROLL
    for (int i = 0; i < 32; ++i) {
      const float2 number = __ldcg(noise + i * stride);
      numbers[i] = {__fmaf_rn(n, number.x, numbers[i].re), __fmaf_rn(n, number.y, numbers[i].im)};
    }
  }

  static TDAS_OPS_DEVICE int column_of(int thread) {
    return thread % Shape::neighbours + thread / (Shape::neighbours * parts) * Shape::neighbours;
  }

  TDAS_OPS_DEVICE LargeColumns(const LargeWork& work, float* numbers, int part, uint32_t column, uint32_t first_column)
      : Filter{work.plane,
               LargePosition(work, column >> work.log_columns),
               {1 << work.log_columns},
               static_cast<int>(column & ((1u << work.log_columns) - 1)),
               part},
        column(column),
        numbers_there(LargePosition(work, column >> work.log_columns).spectrum(work) + (part << work.log_columns) + kw),
        numbers(numbers),
        part(part),
        has_pair((first_column & ((1u << work.log_columns) - 1)) == 0) {}

  TDAS_OPS_DEVICE float* line(int a) const { return numbers + a * Shape::line_pitch; }

  // Of long line a, transformed along `part`.
  TDAS_OPS_DEVICE Complex<float> read_long(int a) const {
    const float2* numbers = reinterpret_cast<const float2*>(line(a));
    const float2 first = numbers[part % 32];
    const Complex<float> number = {first.x, first.y};
    if constexpr (Shape::halves == 1) return number;
    const float2 second = numbers[32 + part % 32];
    return fused(part < 32 ? 1.0f : -1.0f, Complex<float>{second.x, second.y}, number);
  }

  // The i-th pair of the thread's numbers of short lines.
  TDAS_OPS_DEVICE float4* pair(int i) const {
    return reinterpret_cast<float4*>(line(part % 32 + 2 * i / points * parts)) + i % (points / 2);
  }
  // Where X has frequency k of a short line.
  static TDAS_OPS_DEVICE constexpr int index(int line, int k) {
    return line * (points / 2) + k % (points / 2) + (k < points / 2 ? 0 : 16);
  }

  TDAS_OPS_DEVICE void short_forward(Complex<float> (&X)[32]) const {
    Complex<float> in[32];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float4 two = *pair(i);
      in[2 * i] = {two.x, two.y};
      in[2 * i + 1] = {two.z, two.w};
    }
    if constexpr (Shape::halves == 2) {
      const float sign = part < 32 ? 1.0f : -1.0f;
      TDAS_OPS_UNROLL
      for (int i = 0; i < 16; ++i) {
        const float4 two = pair(i)[16];
        in[2 * i] = fused(sign, Complex<float>{two.x, two.y}, in[2 * i]);
        in[2 * i + 1] = fused(sign, Complex<float>{two.z, two.w}, in[2 * i + 1]);
      }
      if (part >= 32) unrolled<32>([&](auto h) { in[h] = turned<false>(in[h], twiddle(h, 64)); });
    }
    TDAS_OPS_UNROLL
    for (int line = 0; line < 32 / points; ++line) {
      Complex<float> out[points];
      transform<points, false>(in + line * points, out);
      TDAS_OPS_UNROLL
      for (int k = 0; k < points; ++k) X[index(line, k)] = out[k];
    }
  }

  TDAS_OPS_DEVICE void short_inverse(const Complex<float> (&X)[32]) const {
    Complex<float> out[32];
    TDAS_OPS_UNROLL
    for (int line = 0; line < 32 / points; ++line) {
      Complex<float> in[points];
      TDAS_OPS_UNROLL
      for (int k = 0; k < points; ++k) in[k] = X[index(line, k)];
      transform<points, true>(in, out + line * points);
    }
    if constexpr (Shape::halves == 2) {
      if (part >= 32) unrolled<32>([&](auto h) { out[h] = turned<true>(out[h], twiddle(h, 64)); });
    }
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i)
      pair(i)[part / 32 * 16] = make_float4(out[2 * i].re, out[2 * i].im, out[2 * i + 1].re, out[2 * i + 1].im);
  }

  // The frequencies of column 0 pass through shared memory.
  template <class Use>
  TDAS_OPS_DEVICE void with_partners(Complex<float> (&X)[32], Use use) const {
    if (!has_pair) return;
    float2* const all = reinterpret_cast<float2*>(numbers);
    __syncthreads();
    if (kw == 0) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) all[frequency(k)] = make_float2(X[k].re, X[k].im);
    }
    __syncthreads();
    if (kw == 0) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) {
        if (k % 16 == 0 && first == 0) continue;
        const float2 partner = all[H - frequency(k)];
        use(X[k], Complex<float>{partner.x, partner.y}, k < 16);
      }
    }
  }
  TDAS_OPS_DEVICE int frequency(int k) const { return first + ColumnsInMemory<H>::offset(k % 16) + k / 16 * (H / 2); }
};

}  // namespace tdas_ops::cuda
