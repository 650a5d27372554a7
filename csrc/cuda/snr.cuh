// The snr rule in a block: norms from the squares of planes, their averages over the batch, eta.
#pragma once

#include <cmath>

#include "sample.cuh"
#include "snr.h"

namespace tdas_ops::cuda {

struct Norms {  // or their squares, or sums of them
  double drift, noise;
};

TDAS_OPS_DEVICE Norms norms_of(const SnrArgs& args, uint32_t sample) {
  constexpr int together = 4;  // loads that are under way at once
  const uint32_t channels = static_cast<uint32_t>(args.channels);
  const float2* const squares = reinterpret_cast<const float2*>(args.squares) + sample * channels;
  Norms sum = {};
  TDAS_OPS_NO_UNROLL
  for (uint32_t c = 0; c < channels; c += together) {
    float2 parts[together];
    TDAS_OPS_UNROLL
    for (int i = 0; i < together; ++i) parts[i] = c + i < channels ? __ldcg(squares + c + i) : make_float2(0.0f, 0.0f);
    TDAS_OPS_UNROLL
    for (int i = 0; i < together; ++i) sum = {sum.drift + parts[i].x, sum.noise + parts[i].y};
  }
  return {sqrt(sum.drift), sqrt(sum.noise)};
}

TDAS_OPS_DEVICE bool is_finite(double x) { return x - x == 0.0; }

// The sums over the threads of a block, by a tree of fixed order. `shared` has two numbers a thread.
template <int threads>
TDAS_OPS_DEVICE Norms sum_of(Norms own, double* shared, int t) {
  double *drift = shared, *noise = shared + threads;
  __syncthreads();
  drift[t] = own.drift;
  noise[t] = own.noise;
  TDAS_OPS_NO_UNROLL
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) {
      drift[t] += drift[t + half];
      noise[t] += noise[t + half];
    }
  }
  __syncthreads();
  return {drift[0], noise[0]};
}

// Averages are sums of so many sums, whatever the block: a thread of a smaller one has those that the tree of the full
// one adds up first.
constexpr int norm_lanes = 256;

// Of the norms that are finite, each of its own; 0 / 0 is NaN.
template <int threads>
TDAS_OPS_DEVICE Norms mean_norms(const SnrArgs& args, double* shared, int t) {
  static_assert(2 * threads == norm_lanes || threads == norm_lanes, "a thread has one sum or two");
  Norms sum = {};
  uint32_t drifts = 0, noises = 0;
  TDAS_OPS_NO_UNROLL
  for (int lane = t; lane < norm_lanes; lane += threads) {
    Norms of_lane = {};
    TDAS_OPS_NO_UNROLL
    for (uint32_t b = lane; b < args.batch; b += norm_lanes) {
      const Norms norms = norms_of(args, b);
      if (is_finite(norms.drift)) of_lane.drift += norms.drift, ++drifts;
      if (is_finite(norms.noise)) of_lane.noise += norms.noise, ++noises;
    }
    sum = {sum.drift + of_lane.drift, sum.noise + of_lane.noise};
  }
  sum = sum_of<threads>(sum, shared, t);
  const Norms count = sum_of<threads>({static_cast<double>(drifts), static_cast<double>(noises)}, shared, t);
  return {sum.drift / count.drift, sum.noise / count.noise};
}

TDAS_OPS_DEVICE float eta_of(const SnrArgs& args, uint32_t sample, Norms norms) {
  const double ratio = norms.drift == 0.0 ? 0.0 : args.snr * norms.noise / norms.drift;  // no score, no step
  return static_cast<float>(2.0 * scale_of(args.alpha, sample) * ratio * ratio);
}

}  // namespace tdas_ops::cuda
