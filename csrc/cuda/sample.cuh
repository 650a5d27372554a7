// Fields, scales and noise of one sample, on the device.
#pragma once

#include "../philox.h"
#include "platform.cuh"
#include "update.h"

namespace tdas_ops::cuda {

// A field as the kernels read it. Dense: its pixels can be read several at a time; how many is the kernel's affair.
template <class T>
struct PixelsOf {
  T* data;
  Element element;
  bool dense;
  int64_t strides[4];
};

// What is one value a sample: the scales d and n, and the noise to draw.
struct SampleWork {
  Scale d, n;
  bool langevin_noise;  // n is sqrt(2 d)
  bool seed_per_sample;
  uint32_t first_sample;
  const int64_t* seeds;  // null: no noise is drawn
  const int64_t* draw;
};

inline SampleWork sample_work(const UpdateArgs& args) {
  return {args.d,     args.n,   args.langevin_noise, args.seed_per_sample, static_cast<uint32_t>(args.first_sample),
          args.seeds, args.draw};
}

TDAS_OPS_DEVICE float widened(uint32_t bits, bool brain) {
  return brain ? from_bfloat16(bits) : from_float16(static_cast<uint16_t>(bits));
}

template <class T>
TDAS_OPS_DEVICE float pixel(const PixelsOf<T>& field, int64_t at) {
  if (field.element == Element::float32) return static_cast<const float*>(field.data)[at];
  return widened(static_cast<const uint16_t*>(field.data)[at], field.element == Element::bfloat16);
}

TDAS_OPS_DEVICE void set_pixel(const PixelsOf<void>& field, int64_t at, float value) {
  if (field.element == Element::float32) {
    static_cast<float*>(field.data)[at] = value;
  } else {
    static_cast<uint16_t*>(field.data)[at] =
        field.element == Element::bfloat16 ? to_bfloat16(value) : to_float16(value);
  }
}

// Four neighbours of a dense field of 16 bits.
TDAS_OPS_DEVICE uint2 narrowed(const float (&pixels)[4], bool brain) {
  const auto pair = [&](float low, float high) {
    const uint32_t first = brain ? to_bfloat16(low) : to_float16(low);
    return first | static_cast<uint32_t>(brain ? to_bfloat16(high) : to_float16(high)) << 16;
  };
  uint2 words;
  words.x = pair(pixels[0], pixels[1]);
  words.y = pair(pixels[2], pixels[3]);
  return words;
}

// Stores a run of neighbours, in one piece where the field is dense.
template <int run>
TDAS_OPS_DEVICE void store_run(const PixelsOf<void>& field, int64_t at, const float (&pixels)[run]) {
  if (run == 4 && field.dense) {
    if (field.element == Element::float32) {
      *reinterpret_cast<float4*>(static_cast<float*>(field.data) + at) =
          make_float4(pixels[0], pixels[1 % run], pixels[2 % run], pixels[3 % run]);
    } else if constexpr (run == 4) {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(field.data) + at) =
          narrowed(pixels, field.element == Element::bfloat16);
    }
    return;
  }
  TDAS_OPS_UNROLL
  for (int i = 0; i < run; ++i) set_pixel(field, at + i * field.strides[3], pixels[i]);
}

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

TDAS_OPS_DEVICE float drift_scale(const SampleWork& work, uint32_t sample) { return scale_of(work.d, sample); }

TDAS_OPS_DEVICE float noise_scale(const SampleWork& work, uint32_t sample) {
  return work.langevin_noise ? sqrtf(2.0f * drift_scale(work, sample)) : scale_of(work.n, sample);
}

// The noise of one sample: all of the Philox key and counter but the quad.
struct DrawnNoise {
  PhiloxKey key;
  uint32_t sample;
  int64_t draw;

  TDAS_OPS_DEVICE DrawnNoise(const SampleWork& work, uint32_t b)
      : key(philox_key(work.seeds[work.seed_per_sample ? b : 0])),
        sample(work.seed_per_sample ? 0 : work.first_sample + b),
        draw(*work.draw) {}

  // Round keys are made anew after this: a few instructions for many quads, instead of twenty registers for good.
  TDAS_OPS_DEVICE void forget_round_keys() { key = {opaque(key.low), opaque(key.high)}; }

  TDAS_OPS_DEVICE PhiloxWords words(uint32_t quad) const { return philox4x32(philox_counter(quad, sample, draw), key); }
};

}  // namespace tdas_ops::cuda
