// A thread with a row, two rows or half a row of its plane, as real numbers and as their half spectrum.
#pragma once

#include "plane_shape.cuh"

namespace tdas_ops::cuda {

// exp(i pi k / 64), for an angle that the compiler does not know.
struct Turns {
  Twiddle at[64];
};
constexpr Turns all_turns() {
  Turns turns = {};
  for (int k = 0; k < 64; ++k) turns.at[k] = twiddle(k, 128);
  return turns;
}
static __device__ const Turns turns = all_turns();

template <int H, int W>
struct PlaneRows {
  using Shape = PlaneShape<H, W>;

  float* plane;  // shared memory
  int index;     // of the row in `staging`; of two, the first
  int side;      // W = 128: 0 has the sums of the two halves of a row, 1 the differences

  TDAS_OPS_DEVICE PlaneRows(float* shared, int thread) : plane(shared + thread / Shape::threads * Shape::plane_pitch) {
    thread %= Shape::threads;
    index = W == 32 ? thread : thread % H;
    side = W == 128 ? thread / H : 0;
  }

  TDAS_OPS_DEVICE void forward() const {
    float numbers[64];
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const float4 run = *runs(i);
      numbers[4 * i] = run.x;
      numbers[4 * i + 1] = run.y;
      numbers[4 * i + 2] = run.z;
      numbers[4 * i + 3] = run.w;
    }
    Shape::plane_barrier();
    Complex<float> X[32];
    if constexpr (W == 32) {
      transform_real<32>(numbers, X);
      transform_real<32>(numbers + 32, X + 16);
    } else if (W == 64 || side == 0) {
      transform_real<64>(numbers, X);
    } else {
      Complex<float> c[32];
      unrolled<32>(
          [&](auto n) { c[n] = turned<false>(Complex<float>{numbers[n], -numbers[n + 32]}, twiddle(n, 128)); });
      transform<32, false>(c, X);
    }
    const Twiddle t = class_twiddle();
    each_frequency([&](int k, int kw, bool conjugate) {
      Complex<float> value = conjugate ? conj(X[k]) : X[k];
      if (row_class(k) == 1) value = turned<false>(value, t);
      column(k, kw)[row(k)] = make_float2(value.re, value.im);
    });
  }

  TDAS_OPS_DEVICE void inverse() const {
    Complex<float> X[32];
    const Twiddle t = class_twiddle();
    each_frequency([&](int k, int kw, bool conjugate) {
      const float2 first = column(k, kw)[row(k) % 32];
      Complex<float> value = {first.x, first.y};
      if constexpr (Shape::halves == 2) {
        const float2 second = column(k, kw)[row(k) % 32 + 32];
        value = fused(row(k) < 32 ? 1.0f : -1.0f, Complex<float>{second.x, second.y}, value);
      }
      if (row_class(k) == 1) value = turned<true>(value, t);
      X[k] = conjugate ? conj(value) : value;
    });
    Shape::plane_barrier();
    float numbers[64];
    if constexpr (W == 32) {
      inverse_real<32>(X, numbers);
      inverse_real<32>(X + 16, numbers + 32);
    } else if (W == 64 || side == 0) {
      inverse_real<64>(X, numbers);
    } else {
      Complex<float> c[32];
      transform<32, true>(X, c);
      unrolled<32>([&](auto n) {
        constexpr Twiddle twice = {2 * twiddle(n, 128).cos, 2 * twiddle(n, 128).sin};
        const Complex<float> v = turned<true>(c[n], twice);
        numbers[n] = v.re;
        numbers[n + 32] = -v.im;
      });
    }
    TDAS_OPS_UNROLL
    for (int i = 0; i < 16; ++i)
      *runs(i) = make_float4(numbers[4 * i], numbers[4 * i + 1], numbers[4 * i + 2], numbers[4 * i + 3]);
  }

 private:
  TDAS_OPS_DEVICE float4* runs(int i) const {
    constexpr int of_line = 16 / Shape::lines;
    return reinterpret_cast<float4*>(plane + (index + i / of_line * (H / 2)) * Shape::row_pitch + side * 64) +
           i % of_line;
  }

  // Of the row that has the thread's k-th frequency: its class, and its place there.
  TDAS_OPS_DEVICE int row_class(int k) const {
    return Shape::classes == 1 ? 0 : Shape::lines == 2 ? k / 16 : index / Shape::rows;
  }
  TDAS_OPS_DEVICE int row(int k) const {
    return Shape::lines == 1 ? index % Shape::rows : Shape::classes == 2 ? index : index + k / 16 * (H / 2);
  }
  TDAS_OPS_DEVICE Twiddle class_twiddle() const {
    if constexpr (Shape::classes == 1) return {1.0f, 0.0f};
    return turns.at[row(0) * (128 / H)];
  }

  TDAS_OPS_DEVICE float2* column(int k, int kw) const {
    return reinterpret_cast<float2*>(plane + row_class(k) * Shape::class_pitch + kw * Shape::column_pitch);
  }

  // use(k, kw, conjugate): the thread's k-th frequency is that of column kw, or its conjugate.
  template <class Use>
  TDAS_OPS_DEVICE void each_frequency(Use use) const {
    if (W == 128 && side == 1) {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 16; ++k) use(k, 4 * k + 1, false);
      TDAS_OPS_UNROLL
      for (int k = 16; k < 32; ++k) use(k, 127 - 4 * k, true);
    } else {
      TDAS_OPS_UNROLL
      for (int k = 0; k < 32; ++k) use(k, W == 128 ? 2 * k : k % Shape::columns, false);
    }
  }
};

}  // namespace tdas_ops::cuda
