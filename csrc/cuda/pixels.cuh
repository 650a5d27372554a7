// The pixels of a plane in the registers of its threads: 64 each, as four items of 2 x 2 runs of 4 neighbours. The runs
// of an item lie half a plane apart, in rows h and h + H / 2 and from columns n and n + W / 2 on, so that a thread
// holds both ends of the butterflies that split a plane in halves, and both elements that one Philox call makes.
#pragma once

#include "sample.cuh"

namespace tdas_ops::cuda {

struct Run {
  float at[4];
};

using Item = Run[2][2];  // [rows h, h + H / 2][columns n, n + W / 2]

// use(lower, right, run) with the runs of an item.
template <class Use>
TDAS_OPS_DEVICE void each_run(Item& item, Use use) {
  TDAS_OPS_UNROLL
  for (int lower = 0; lower < 2; ++lower) {
    TDAS_OPS_UNROLL
    for (int right = 0; right < 2; ++right) use(lower, right, item[lower][right]);
  }
}

// Where a thread's runs are, and how they come from memory and go there.
template <int H, int W>
struct PixelAccess {
  int top, left;  // row and column of the first run

  TDAS_OPS_DEVICE explicit PixelAccess(int thread) : top(turned(thread / (W / 8))), left(thread % (W / 8) * 4) {}

  // Rows of neighbouring lanes lie four apart where a row is half a pass through the banks of shared memory.
  static constexpr TDAS_OPS_DEVICE int turned(int row) {
    return W == 32 ? (row & ~5) | (row & 1) << 2 | (row >> 2 & 1) : row;
  }

  // From the first run on, known to the compiler.
  static constexpr TDAS_OPS_DEVICE int row(int item, int lower) { return turned(item * (H / 8)) + lower * (H / 2); }
  static constexpr TDAS_OPS_DEVICE int column(int right) { return right * (W / 2); }
  static constexpr TDAS_OPS_DEVICE int offset(int item, int lower, int right, int pitch = W) {
    return row(item, lower) * pitch + column(right);
  }
  TDAS_OPS_DEVICE int first(int pitch = W) const { return top * pitch + left; }

  // An item of a dense field.
  template <class T>
  TDAS_OPS_DEVICE void load(const PixelsOf<T>& field, int64_t plane, int item, Item& runs) const {
    if (field.element == Element::float32) {
      load_float32(field, plane, item, runs);
      return;
    }
    const bool brain = field.element == Element::bfloat16;
    const uint16_t* data = static_cast<const uint16_t*>(field.data) + (plane + first());
    each_run(runs, [&](int lower, int right, Run& run) {
      const uint2 words = *reinterpret_cast<const uint2*>(data + offset(item, lower, right));
      run = {widened(words.x, brain), widened(words.x >> 16, brain), widened(words.y, brain),
             widened(words.y >> 16, brain)};
    });
  }

  template <class T>
  TDAS_OPS_DEVICE void load_float32(const PixelsOf<T>& field, int64_t plane, int item, Item& runs) const {
    const float* data = static_cast<const float*>(field.data) + (plane + first());
    each_run(runs, [&](int lower, int right, Run& run) {
      const float4 four = *reinterpret_cast<const float4*>(data + offset(item, lower, right));
      run = {four.x, four.y, four.z, four.w};
    });
  }

  TDAS_OPS_DEVICE void store_float32(const PixelsOf<void>& field, int64_t plane, int item, Item& runs) const {
    float* data = static_cast<float*>(field.data) + (plane + first());
    each_run(runs, [&](int lower, int right, Run& run) {
      *reinterpret_cast<float4*>(data + offset(item, lower, right)) =
          make_float4(run.at[0], run.at[1], run.at[2], run.at[3]);
    });
  }

  // A run of any field, pixel by pixel.
  template <class T>
  TDAS_OPS_DEVICE Run load_strided(const PixelsOf<T>& field, int64_t plane, int item, int lower, int right) const {
    const int64_t at = plane + place(field, item, lower, right);
    Run run;
    TDAS_OPS_UNROLL
    for (int i = 0; i < 4; ++i) run.at[i] = pixel(field, at + i * field.strides[3]);
    return run;
  }

  TDAS_OPS_DEVICE void store_strided(const PixelsOf<void>& field, int64_t plane, int item, int lower, int right,
                                     Run run) const {
    store_run(field, plane + place(field, item, lower, right), run.at);
  }

 private:
  template <class T>
  TDAS_OPS_DEVICE int64_t place(const PixelsOf<T>& field, int item, int lower, int right) const {
    return (top + row(item, lower)) * field.strides[2] + (left + column(right)) * field.strides[3];
  }
};

}  // namespace tdas_ops::cuda
