// The pixels of a plane in the registers of its threads: 64 each, as four items of 2 x 2 runs of 4 neighbours. The runs
// of an item lie half a plane apart, in rows h and h + H / 2 and from columns n and n + W / 2 on, so that a thread
// holds both ends of the butterflies that split a plane in halves, and both elements that one Philox call makes.
#pragma once

#include "../params.h"
#include "platform.cuh"

namespace tdas_ops::cuda {

// A field as the kernels read it. Dense: planes lie in rows of W, one after another, at addresses for whole runs.
template <class T>
struct PixelsOf {
  T* data;
  Element element;
  bool dense;
  int64_t strides[4];
};

struct Run {
  float at[4];
};

// Places of a thread's runs.
template <int H, int W>
struct Places {
  int row, column;  // of the first run

  TDAS_OPS_DEVICE explicit Places(int thread) : row(thread / (W / 8)), column(thread % (W / 8) * 4) {
    if constexpr (W == 32) row = turned(row);
  }

  // Rows of neighbouring lanes: four apart where a row is half a pass through the banks of shared memory, else one.
  static constexpr TDAS_OPS_DEVICE int turned(int row) { return (row & ~5) | (row & 1) << 2 | (row >> 2 & 1); }

  static constexpr TDAS_OPS_DEVICE int row_step(int item) { return W == 32 ? turned(item * (H / 8)) : item * (H / 8); }
};

using Item = Run[2][2];  // [rows h, h + H / 2][columns n, n + W / 2]

template <class Use>
TDAS_OPS_DEVICE void each_run(Use use) {
  TDAS_OPS_UNROLL
  for (int item = 0; item < 4; ++item) TDAS_OPS_UNROLL
  for (int lower = 0; lower < 2; ++lower) TDAS_OPS_UNROLL
  for (int right = 0; right < 2; ++right) use(item, lower, right);
}

template <int H, int W>
struct PixelAccess {
  Places<H, W> places;

  // A run's distance from the thread's first one, known to the compiler.
  static constexpr TDAS_OPS_DEVICE int row(int item, int lower) {
    return Places<H, W>::row_step(item) + lower * (H / 2);
  }
  static constexpr TDAS_OPS_DEVICE int column(int right) { return right * (W / 2); }
  static constexpr TDAS_OPS_DEVICE int offset(int item, int lower, int right, int pitch = W) {
    return row(item, lower) * pitch + column(right);
  }
  TDAS_OPS_DEVICE int first(int pitch = W) const { return places.row * pitch + places.column; }

  // use(item, lower, right, run) with the runs of a field's plane.
  template <class T, class Use>
  TDAS_OPS_DEVICE void load(const PixelsOf<T>& field, int64_t plane, Use use) const {
    if (field.dense && field.element == Element::float32) {
      const float* data = static_cast<const float*>(field.data) + (plane + first());
      each_run([&](int item, int lower, int right) {
        const float4 run = *reinterpret_cast<const float4*>(data + offset(item, lower, right));
        use(item, lower, right, Run{run.x, run.y, run.z, run.w});
      });
    } else if (field.dense) {
      const uint16_t* data = static_cast<const uint16_t*>(field.data) + (plane + first());
      const bool brain = field.element == Element::bfloat16;
      each_run([&](int item, int lower, int right) {
        const uint2 words = *reinterpret_cast<const uint2*>(data + offset(item, lower, right));
        use(item, lower, right,
            Run{narrow(words.x, brain), narrow(words.x >> 16, brain), narrow(words.y, brain),
                narrow(words.y >> 16, brain)});
      });
    } else {
      const bool brain = field.element == Element::bfloat16, wide = field.element == Element::float32;
      each_run([&](int item, int lower, int right) {
        Run run;
        TDAS_OPS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int64_t at = strided(field, plane, item, lower, right, i);
          run.at[i] = wide ? static_cast<const float*>(field.data)[at]
                           : narrow(static_cast<const uint16_t*>(field.data)[at], brain);
        }
        use(item, lower, right, run);
      });
    }
  }

  TDAS_OPS_DEVICE void store(const PixelsOf<void>& field, int64_t plane, const Run (&runs)[4][2][2]) const {
    if (field.dense) {
      float* data = static_cast<float*>(field.data) + (plane + first());
      each_run([&](int item, int lower, int right) {
        const Run& run = runs[item][lower][right];
        *reinterpret_cast<float4*>(data + offset(item, lower, right)) =
            make_float4(run.at[0], run.at[1], run.at[2], run.at[3]);
      });
    } else {
      const bool brain = field.element == Element::bfloat16, wide = field.element == Element::float32;
      each_run([&](int item, int lower, int right) {
        TDAS_OPS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int64_t at = strided(field, plane, item, lower, right, i);
          const float value = runs[item][lower][right].at[i];
          if (wide) {
            static_cast<float*>(field.data)[at] = value;
          } else {
            static_cast<uint16_t*>(field.data)[at] = brain ? to_bfloat16(value) : to_float16(value);
          }
        }
      });
    }
  }

  template <class T>
  TDAS_OPS_DEVICE int64_t strided(const PixelsOf<T>& field, int64_t plane, int item, int lower, int right,
                                  int i) const {
    return plane + (places.row + row(item, lower)) * field.strides[2] +
           (places.column + column(right) + i) * field.strides[3];
  }

  static TDAS_OPS_DEVICE float narrow(uint32_t bits, bool brain) {
    return brain ? from_bfloat16(bits) : from_float16(static_cast<uint16_t>(bits));
  }
};

}  // namespace tdas_ops::cuda
