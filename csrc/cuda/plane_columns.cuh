// A thread with 32 frequencies of a column of the half spectrum, on chip: the transform along it.
#pragma once

#include "column_filter.cuh"

namespace tdas_ops::cuda {

template <int H, int W>
struct ColumnsOnChip {
  static constexpr int count = W / 2;
  static constexpr int group = 8;
  // From a thread's first frequency to its k-th.
  static TDAS_OPS_DEVICE constexpr int offset(int k) {
    return k * PlaneShape<H, W>::classes * PlaneShape<H, W>::halves;
  }
};

template <int H, int W, Kind kind>
struct PlaneColumns : ColumnFilter<H, kind, ColumnsOnChip<H, W>> {
  using Shape = PlaneShape<H, W>;
  using Filter = ColumnFilter<H, kind, ColumnsOnChip<H, W>>;
  using Filter::kw, Filter::first;
  static constexpr int classes = Shape::classes, rows = Shape::rows, halves = Shape::halves;

  float* numbers;  // shared memory of the column
  int row_class, half;

  TDAS_OPS_DEVICE PlaneColumns(const PlaneWork& work, float* shared, uint32_t first_plane, int thread)
      : Filter{work,
               Position(work, first_plane + thread % Shape::planes),
               {},
               thread / (Shape::planes * classes) % Shape::columns,
               first_of(thread)},
        row_class(class_of(thread)),
        half(half_of(thread)) {
    numbers = shared + thread % Shape::planes * Shape::plane_pitch + row_class * Shape::class_pitch +
              kw * Shape::column_pitch;
  }

  TDAS_OPS_DEVICE void forward(Complex<float> (&X)[32]) const {
    const float4* pairs = reinterpret_cast<const float4*>(numbers);
    Complex<float> in[32];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float4 pair = pairs[i];
      in[2 * i] = {pair.x, pair.y};
      in[2 * i + 1] = {pair.z, pair.w};
    }
    if constexpr (halves == 2) {
      const float sign = half == 0 ? 1.0f : -1.0f;
      TDAS_OPS_UNROLL
      for (int i = 0; i < 16; ++i) {
        const float4 pair = pairs[16 + i];
        in[2 * i] = fused(sign, Complex<float>{pair.x, pair.y}, in[2 * i]);
        in[2 * i + 1] = fused(sign, Complex<float>{pair.z, pair.w}, in[2 * i + 1]);
      }
      if (half == 1) unrolled<32>([&](auto h) { in[h] = turned<false>(in[h], twiddle(h, 64)); });
      __syncthreads();
    }
    transform<32, false>(in, X);
    this->separate(X, [&](auto& all, auto use) { with_partners(all, use); });
    if constexpr (halves == 2) __syncthreads();
  }

  TDAS_OPS_DEVICE void inverse(Complex<float> (&X)[32]) const {
    this->join(X, [&](auto& all, auto use) { with_partners(all, use); });
    Complex<float> out[32];
    transform<32, true>(X, out);
    if constexpr (halves == 2) {
      if (half == 1) unrolled<32>([&](auto h) { out[h] = turned<true>(out[h], twiddle(h, 64)); });
      __syncthreads();
    }
    float4* pairs = own_numbers();
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i)
      pairs[i] = make_float4(out[2 * i].re, out[2 * i].im, out[2 * i + 1].re, out[2 * i + 1].im);
  }

  // |F^-1 R Z|^2, the thread's part of it; its noise stays in shared memory, in place of what `forward` has read.
  TDAS_OPS_DEVICE float hold_noise() const {
    return this->noise_square([&](int k, Polar lower, Polar upper) {
      own_numbers()[k] = make_float4(lower.rho, lower.theta, upper.rho, upper.theta);
    });
  }

  struct HeldPair {
    float4 pair;

    TDAS_OPS_DEVICE PolarNormal lower() const { return Polar{pair.x, pair.y}.normal(); }
    TDAS_OPS_DEVICE PolarNormal upper() const { return Polar{pair.z, pair.w}.normal(); }
  };

  // As `filter`, with this noise.
  TDAS_OPS_DEVICE void filter_with_held(float d, float n, Complex<float> (&X)[32]) const {
    this->filter(d, n, true, X, [&] { return [&](int k) { return HeldPair{own_numbers()[k]}; }; });
    if constexpr (halves == 2) __syncthreads();  // `inverse` begins with partners, over both halves of column 0
  }

 private:
  // The thread's part of them, 16 times four.
  TDAS_OPS_DEVICE float4* own_numbers() const { return reinterpret_cast<float4*>(numbers) + half * 16; }

  static TDAS_OPS_DEVICE int class_of(int thread) { return thread / Shape::planes % classes; }
  static TDAS_OPS_DEVICE int half_of(int thread) {
    return halves == 2 ? thread / (Shape::planes * classes * Shape::columns) : 0;
  }
  static TDAS_OPS_DEVICE int first_of(int thread) { return classes * half_of(thread) + class_of(thread); }

  // A thread leaves its frequencies of column 0 in shared memory, where it, or at H = 128 the thread with the other
  // half, finds them.
  template <class Use>
  TDAS_OPS_DEVICE void with_partners(Complex<float> (&X)[32], Use use) const {
    float2* all = reinterpret_cast<float2*>(numbers);
    if (kw == 0) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) all[halves * k + half] = make_float2(X[k].re, X[k].im);
    }
    if constexpr (halves == 2) __syncthreads();
    if (kw == 0) {
      const float2* mirrored = all + (rows - row_class - half);
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) {
        if (k % 16 == 0 && first == 0) continue;
        const float2 partner = mirrored[-halves * k];
        use(X[k], Complex<float>{partner.x, partner.y}, k < 16);
      }
    }
  }
};

}  // namespace tdas_ops::cuda
