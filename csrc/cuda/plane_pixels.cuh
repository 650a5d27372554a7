// A thread with its 64 pixels: memory to `staging`, noise and space mask between the transforms, `staging` to memory.
#pragma once

#include "../update.h"
#include "normals.cuh"
#include "plane_shape.cuh"

namespace tdas_ops::cuda {

template <int H, int W>
struct PlanePixels {
  using Shape = PlaneShape<H, W>;
  using Access = PixelAccess<H, W>;

  const PlaneWork& work;
  Position at;
  Access access;
  float* staging;  // of the thread's first run

  TDAS_OPS_DEVICE PlanePixels(const PlaneWork& work, float* shared, uint32_t first_plane, int thread)
      : work(work),
        at(work, first_plane + thread / Shape::threads),
        access(thread % Shape::threads),
        staging(shared + thread / Shape::threads * Shape::plane_pitch + access.first(Shape::row_pitch)) {}

  // What is transformed first.
  TDAS_OPS_DEVICE void source(bool is_noise, bool has_space) const {
    const PixelsOf<const void>& field = is_noise ? work.z : work.v;
    const auto put = [&](int item, Item& u) {
      if (has_space) multiply(item, u);
      butterflies(u);
      write(item, u);
    };
    if (is_noise && field.data == nullptr) {
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) {
        Item z;
        draw(item, z);
        put(item, z);
      }
    } else if (field.dense) {
      Item u[4];
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) access.load(field, at.plane(field), item, u[item]);
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) put(item, u[item]);
    } else {
      each_place([&](int item, int lower, int right) {
        write(item, lower, right, access.load_strided(field, at.plane(field), item, lower, right));
      });
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) {
        Item u;
        read(item, u);
        put(item, u);
      }
    }
  }

  // A (d A u + n z), in place.
  TDAS_OPS_DEVICE void between(bool noisy) const {
    const bool has_z = noisy && work.z.data != nullptr;
    const float d = drift_scale(work.samples, at.sample), n = noisy ? noise_scale(work.samples, at.sample) : 0.0f;
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) {
      Item u, z = {};
      if (has_z) {
        each_run(z, [&](int lower, int right, Run& run) {
          run = access.load_strided(work.z, at.plane(work.z), item, lower, right);
        });
      } else if (noisy) {
        draw(item, z);
      }
      read(item, u);
      butterflies(u);
      each_run(u, [&](int lower, int right, Run& run) {
        const Run A = work.masks.space == nullptr ? Run{1.0f, 1.0f, 1.0f, 1.0f} : space(item, lower, right);
        TDAS_OPS_UNROLL
        for (int i = 0; i < 4; ++i) run.at[i] = filtered_pixel(run.at[i], z[lower][right].at[i], A.at[i], d, n);
      });
      butterflies(u);
      write(item, u);
    }
  }

  // |v|^2 of the thread's pixels.
  TDAS_OPS_DEVICE float square() const {
    float sum = 0.0f;
    const auto add_square = [&](int, int, const Run& run) {
      TDAS_OPS_UNROLL
      for (int i = 0; i < 4; ++i) sum = __fmaf_rn(run.at[i], run.at[i], sum);
    };
    if (work.v.dense) {
      Item v[4];
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) access.load(work.v, at.plane(work.v), item, v[item]);
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) each_run(v[item], add_square);
    } else {
      each_place([&](int item, int lower, int right) {
        add_square(lower, right, access.load_strided(work.v, at.plane(work.v), item, lower, right));
      });
    }
    return sum;
  }

  // (base + d v) + the result, in this order whatever the storage. A pixel of the base may lie where that of the output
  // does.
  TDAS_OPS_DEVICE void finish(bool has_v, bool has_space) const {
    finish(has_v, has_space, has_v ? drift_scale(work.samples, at.sample) : 0.0f);
  }

  TDAS_OPS_DEVICE void finish(bool has_v, bool has_space, float d) const {
    const bool has_base = work.base.data != nullptr;
    const bool dense = !has_space && work.out.dense && work.out.element == Element::float32 &&
                       (!has_base || work.base.dense) && (!has_v || work.v.dense);
    if (!dense) {
      Shape::plane_barrier();
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) {
        Item y;
        read(item, y);
        butterflies(y);
        if (has_space) multiply(item, y);
        write(item, y);
      }
      if (!at.there) return;
      each_place([&](int item, int lower, int right) {
        Run sum = {};
        if (has_base) sum = access.load_strided(work.base, at.plane(work.base), item, lower, right);
        if (has_v) add(sum, d, access.load_strided(work.v, at.plane(work.v), item, lower, right));
        add(sum, 1.0f, read(item, lower, right));
        access.store_strided(work.out, at.plane(work.out), item, lower, right, sum);
        if (work.cast.data != nullptr) access.store_strided(work.cast, at.plane(work.cast), item, lower, right, sum);
      });
      return;
    }
    Item sum[4] = {};
    if (has_base) {  // before the barrier, for it takes long, and all of it before anything is written
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) access.load_float32(work.base, at.plane(work.base), item, sum[item]);
    }
    Shape::plane_barrier();
    if (has_v) {
      TDAS_OPS_UNROLL
      for (int item = 0; item < 4; ++item) {
        Item v;
        access.load(work.v, at.plane(work.v), item, v);
        add(sum[item], d, v);
      }
    }
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) {
      Item y;
      read(item, y);
      butterflies(y);
      add(sum[item], 1.0f, y);
    }
    if (!at.there) return;
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) access.store_float32(work.out, at.plane(work.out), item, sum[item]);
    if (work.cast.data == nullptr) return;
    TDAS_OPS_UNROLL
    for (int item = 0; item < 4; ++item) write(item, sum[item]);
    each_place([&](int item, int lower, int right) {
      access.store_strided(work.cast, at.plane(work.cast), item, lower, right, read(item, lower, right));
    });
  }

 private:
  TDAS_OPS_DEVICE float4* staged(int item, int lower, int right) const {
    return reinterpret_cast<float4*>(staging + Access::offset(item, lower, right, Shape::row_pitch));
  }

  TDAS_OPS_DEVICE void write(int item, int lower, int right, Run run) const {
    *staged(item, lower, right) = make_float4(run.at[0], run.at[1], run.at[2], run.at[3]);
  }
  TDAS_OPS_DEVICE void write(int item, Item& runs) const {
    each_run(runs, [&](int lower, int right, Run& run) { write(item, lower, right, run); });
  }

  TDAS_OPS_DEVICE Run read(int item, int lower, int right) const {
    const float4 four = *staged(item, lower, right);
    return {four.x, four.y, four.z, four.w};
  }
  TDAS_OPS_DEVICE void read(int item, Item& runs) const {
    each_run(runs, [&](int lower, int right, Run& run) { run = read(item, lower, right); });
  }

  static TDAS_OPS_DEVICE void add(Run& sum, float scale, Run run) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) sum.at[i] = __fmaf_rn(scale, run.at[i], sum.at[i]);
  }
  static TDAS_OPS_DEVICE void add(Item& sum, float scale, Item& runs) {
    each_run(runs, [&](int lower, int right, Run& run) { add(sum[lower][right], scale, run); });
  }

  // One run after the other, in a loop: what is rare shall be short.
  template <class Use>
  static TDAS_OPS_DEVICE void each_place(Use use) {
    TDAS_OPS_NO_UNROLL
    for (int i = 0; i < 16; ++i) use(i / 4, i / 2 % 2, i % 2);
  }

  // Between pixels and what the rows transform. Its own inverse, but for a factor of 2 each.
  static TDAS_OPS_DEVICE void butterflies(Item& runs) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) {
      TDAS_OPS_UNROLL
      for (int side = 0; side < 2; ++side) {
        if constexpr (H >= 64) butterfly(runs[0][side].at[i], runs[1][side].at[i]);
      }
      TDAS_OPS_UNROLL
      for (int side = 0; side < 2; ++side) {
        if constexpr (W == 128) butterfly(runs[side][0].at[i], runs[side][1].at[i]);
      }
    }
  }

  static TDAS_OPS_DEVICE void butterfly(float& a, float& b) {
    const float difference = a - b;
    a = a + b;
    b = difference;
  }

  // Unit normals by the contract of pixel noise.
  TDAS_OPS_DEVICE void draw(int item, Item& z) const {
    DrawnNoise noise(work.samples, at.sample);
    noise.forget_round_keys();
    const uint32_t first_quad = (at.channel * H + access.top) * (W / 4) + access.left / 2;
    TDAS_OPS_UNROLL
    for (int lower = 0; lower < 2; ++lower) {
      TDAS_OPS_UNROLL
      for (int i = 0; i < 2; ++i) {
        const PhiloxWords words = noise.words(first_quad + Access::row(item, lower) * (W / 4) + i);
        const ComplexNormal left = complex_normal(words.w0, words.w1), right = complex_normal(words.w2, words.w3);
        z[lower][0].at[2 * i] = left.real;
        z[lower][0].at[2 * i + 1] = left.imag;
        z[lower][1].at[2 * i] = right.real;
        z[lower][1].at[2 * i + 1] = right.imag;
      }
    }
  }

  TDAS_OPS_DEVICE Run space(int item, int lower, int right) const {
    const float* mask = work.masks.space + (at.channel * (H * W) + access.first());
    const float4 run = __ldg(reinterpret_cast<const float4*>(mask + Access::offset(item, lower, right)));
    return {run.x, run.y, run.z, run.w};
  }

  TDAS_OPS_DEVICE void multiply(int item, Item& runs) const {
    each_run(runs, [&](int lower, int right, Run& run) {
      const Run A = space(item, lower, right);
      TDAS_OPS_UNROLL
      for (int i = 0; i < 4; ++i) run.at[i] *= A.at[i];
    });
  }
};

}  // namespace tdas_ops::cuda
