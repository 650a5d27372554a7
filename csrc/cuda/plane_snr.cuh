// langevin_step of planes on chip in one launch, which works out its step size on the way. A block measures its planes
// and keeps what that takes most of the time to make: the spectrum of the score in registers, the noise in shared
// memory, where its columns lie, a radius and an angle each. It leaves the squares in memory, waits for the blocks that
// have planes of the same samples, or for all of them where norms are averaged over the batch, adds up what they have
// left, each block for itself, and finishes the update. All sums are those of measure_plane and snr_kernel, and the
// update is that of update_plane, to the bit: nothing depends on which way a batch goes.
//
// Blocks that wait for each other have to be on the device all at once: their launch is cooperative.
#pragma once

#include "plane.cuh"
#include "snr.cuh"

namespace tdas_ops::cuda {

struct SnrWork {
  PlaneWork plane;     // leaves plane.squares, which the rule reads
  SnrArgs rule;        // without eta
  uint32_t* counters;  // blocks that are done with their squares, for each sample or for all: zeros at first
};

template <int H, int W>
struct SnrShape : PlaneShape<H, W> {
  using Plane = PlaneShape<H, W>;
  static constexpr int etas = Plane::sums + 4 * Plane::block;  // behind four numbers a thread, or two doubles
  static constexpr int shared_bytes = (etas + Plane::planes) * 4;
};

// Lets other blocks have the squares of this one, and waits for those that it needs.
template <int planes>
TDAS_OPS_DEVICE void meet(const SnrWork& work, uint32_t first_plane, int t) {
  const bool per_sample = work.rule.per_sample, waits = t < (per_sample ? planes : 1);
  const Position at(work.plane, first_plane + t);
  const uint32_t first = at.sample * work.plane.channels, last = first + work.plane.channels - 1;
  const uint32_t blocks = per_sample ? last / planes - first / planes + 1 : gridDim.x;
  uint32_t* const counter = work.counters + (per_sample ? at.sample : 0);
  __syncthreads();
  if (waits && blocks > 1 && (t == 0 || at.channel == 0)) add_release(counter);
  __syncthreads();
  if (waits && blocks > 1) wait_until(counter, blocks);
  __syncthreads();
}

// kind: drift or noise, as in plane_kernel.
template <int H, int W, Kind kind, class Thread>
TDAS_OPS_DEVICE void langevin_plane(const SnrWork& all, float* shared, Thread thread) {
  using Shape = SnrShape<H, W>;
  constexpr bool is_noise = kind == Kind::noise;
  const PlaneWork& work = all.plane;
  const uint32_t first_plane = blockIdx.x * Shape::planes;
  const auto pixels = [&] { return PlanePixels<H, W>(work, shared, first_plane, thread()); };
  const auto rows = [&] { return PlaneRows<H, W>(shared, thread()); };
  const auto columns = [&] { return PlaneColumns<H, W, kind>(work, shared, first_plane, thread()); };
  float2* const sums = reinterpret_cast<float2*>(shared + Shape::sums);  // of D v and M z, [plane][thread]
  const auto own_sum = [&] {                                             // as a thread of the columns
    const int t = thread();
    return sums + t % Shape::planes * Shape::threads + t / Shape::planes;
  };

  Complex<float> X[32];
  if constexpr (is_noise) {
    sums[thread()].x = pixels().square();
  } else {
    pixels().source(false, false);
    Shape::plane_barrier();
    rows().forward();
    __syncthreads();
    columns().forward(X);
  }
  const float of_noise = columns().hold_noise();
  if constexpr (is_noise) {
    own_sum()->y = of_noise;
  } else {
    *own_sum() = make_float2(Shape::per_pixel * columns().square(true, false, X), of_noise);
  }
  sum_planes<H, W>(work, sums, first_plane, thread());
  meet<Shape::planes>(all, first_plane, thread());

  float* const etas = shared + Shape::etas;
  Norms norms = {};
  if (!all.rule.per_sample)
    norms = mean_norms<Shape::block>(all.rule, reinterpret_cast<double*>(shared + Shape::sums), thread());
  if (const int t = thread(); t < Shape::planes) {
    const Position at(work, first_plane + t);
    etas[t] = eta_of(all.rule, at.sample, all.rule.per_sample ? norms_of(all.rule, at.sample) : norms);
  }
  __syncthreads();

  const float eta = etas[thread() % Shape::planes];
  columns().filter_with_held(is_noise ? 0.0f : eta * Shape::per_pixel, sqrtf(2.0f * eta) * Shape::white, X);
  columns().inverse(X);
  __syncthreads();
  rows().inverse();
  pixels().finish(is_noise && work.add_v, false, etas[thread() / Shape::threads]);
}

template <int H, int W, Kind kind>
__global__ void __launch_bounds__(PlaneShape<H, W>::block, PlaneShape<H, W>::blocks) snr_plane_kernel(SnrWork work) {
  TDAS_OPS_SHARED(float, shared);
  langevin_plane<H, W, kind>(work, shared, [] { return thread_index(); });
}

// The kernels of one size. Those of square planes are compiled.
struct SnrKernels {
  int height, width;
  int planes, block;  // of a block: planes, threads
  int shared_bytes;
  void (*drift)(SnrWork);
  void (*noise)(SnrWork);
};

template <int H, int W>
constexpr SnrKernels snr_kernels() {
  using Shape = SnrShape<H, W>;
  return {H,
          W,
          Shape::planes,
          Shape::block,
          Shape::shared_bytes,
          snr_plane_kernel<H, W, Kind::drift>,
          snr_plane_kernel<H, W, Kind::noise>};
}

extern const SnrKernels snr_sizes[3];

}  // namespace tdas_ops::cuda
