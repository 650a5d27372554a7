// Compiled by check_cuda.py, which reads the machine code; nothing here ever runs.
#include "../../csrc/cuda/large.cuh"
#include "../../csrc/cuda/plane_snr.cuh"

namespace tdas_ops::cuda {

// Its choices are constants in a usual call, so that the compiler leaves the path of one warp and nothing else: dense
// float32 fields, scales that are numbers, one seed, noise of the kernel's own; kind noise with d v, kind pixels with
// both masks.
TDAS_OPS_DEVICE PlaneWork usual(PlaneWork work, Kind kind) {
  __builtin_assume(work.base.data != nullptr);
  __builtin_assume(work.samples.seeds != nullptr);
  __builtin_assume(work.masks.space != nullptr);
  work.base.dense = work.v.dense = work.out.dense = true;
  work.base.element = work.v.element = work.out.element = Element::float32;
  work.z.data = work.cast.data = nullptr;
  work.samples.d.values = work.samples.n.values = nullptr;
  work.samples.langevin_noise = work.samples.seed_per_sample = false;
  work.square = true;
  work.add_v = kind == Kind::noise;
  work.noise_first = work.space_first = work.space_last = false;
  work.twice = true;
  return work;
}

template <int warp>
TDAS_OPS_DEVICE int index_in_warp() {
  return static_cast<int>(threadIdx.x % 32 + warp * 32);
}

#if defined TDAS_OPS_COUNTED_PASS || defined TDAS_OPS_COUNTED_COLUMNS

// Of an update, or of what langevin_step measures with both masks before it adds it up: the drift, the noise, both.
enum class Part { update, drift, noise, both };

#ifndef TDAS_OPS_COUNTED_PART
#define TDAS_OPS_COUNTED_PART update
#endif

TDAS_OPS_DEVICE LargeWork usual(LargeWork work, Kind kind) {
  constexpr Part part = Part::TDAS_OPS_COUNTED_PART;
  work.plane = usual(work.plane, kind);
  if (part == Part::drift) {
    work.plane.samples.seeds = nullptr;
    work.plane.filter_drift = work.transformed = true;
    work.plane.square = work.noisy = false;
    work.plane.masks.skew = nullptr;
  }
  if (part == Part::noise) work.plane.noise_first = work.plane.space_first = true;
  if (part == Part::both) {
    __builtin_assume(work.to_noise != 0);
  } else {
    work.to_noise = 0;
  }
  return work;
}

#ifdef TDAS_OPS_COUNTED_PASS
template <int W, int warp>
__global__ void __launch_bounds__(large_block, large_blocks) counted_kernel(LargeWork call) {
  TDAS_OPS_SHARED(float, shared);
  const LargeWork work = usual(call, Kind::drift);
  pass_rows<W, Pass::TDAS_OPS_COUNTED_PASS>(work, shared, [] { return index_in_warp<warp>(); });
}
#else
// Not of the blocks that have a column 0.
template <int H, int warp>
__global__ void __launch_bounds__(large_block, large_blocks) counted_kernel(LargeWork call) {
  TDAS_OPS_SHARED(float, shared);
  __builtin_assume((blockIdx.x * ColumnShape<H>::columns & ((1u << call.log_columns) - 1)) != 0);
  const LargeWork work = usual(call, Kind::TDAS_OPS_COUNTED_COLUMNS);
  pass_columns<H, Kind::TDAS_OPS_COUNTED_COLUMNS>(work, shared, [] { return index_in_warp<warp>(); });
}
#endif

template __global__ void counted_kernel<TDAS_OPS_COUNTED_LENGTH, 0>(LargeWork);
template __global__ void counted_kernel<TDAS_OPS_COUNTED_LENGTH, large_block / 32 - 1>(LargeWork);

#elif defined TDAS_OPS_COUNTED_KIND

// What one warp of plane_kernel does, or of snr_plane_kernel with norms of the batch.
#ifdef TDAS_OPS_COUNTED_SNR
template <int H, int W, Kind kind, int warp>
__global__ void __launch_bounds__(PlaneShape<H, W>::block, PlaneShape<H, W>::blocks) counted_kernel(SnrWork call) {
  TDAS_OPS_SHARED(float, shared);
  SnrWork work = call;
  work.plane = usual(call.plane, kind);
  work.rule.per_sample = false;
  langevin_plane<H, W, kind>(work, shared, [] { return index_in_warp<warp>(); });
}
#else
template <int H, int W, Kind kind, int warp>
__global__ void __launch_bounds__(PlaneShape<H, W>::block, PlaneShape<H, W>::blocks) counted_kernel(PlaneWork call) {
  TDAS_OPS_SHARED(float, shared);
  const PlaneWork work = usual(call, kind);
  update_plane<H, W, kind>(work, shared, [] { return index_in_warp<warp>(); });
}
#endif

template <int H, int W, Kind kind, int warp = PlaneShape<H, W>::block / 32 - 1>
void instantiate() {
  (void)&counted_kernel<H, W, kind, warp>;
  if constexpr (warp > 0) instantiate<H, W, kind, warp - 1>();
}
template void instantiate<TDAS_OPS_COUNTED_HEIGHT, TDAS_OPS_COUNTED_WIDTH, Kind::TDAS_OPS_COUNTED_KIND>();

#else

// The compiler reports the names of kernels, and these names have the sizes of their shared memory.
template <int H, int W, int shared_bytes = PlaneShape<H, W>::shared_bytes>
__global__ void shape() {}
template <int W, int shared_bytes = RowShape<W>::shared_bytes>
__global__ void row_shape() {}
template <int H, int shared_bytes = ColumnShape<H>::shared_bytes>
__global__ void column_shape() {}
template <int H, int W, int shared_bytes = SnrShape<H, W>::shared_bytes>
__global__ void snr_shape() {}
template __global__ void snr_shape<32, 32>();
template __global__ void snr_shape<64, 64>();
template __global__ void snr_shape<128, 128>();

template <int... sizes>
void instantiate() {
  ((void)&shape<sizes, 32>, ...);
  ((void)&shape<sizes, 64>, ...);
  ((void)&shape<sizes, 128>, ...);
}
template void instantiate<32, 64, 128>();

template <int... lengths>
void instantiate_large() {
  ((void)&row_shape<lengths>, ...);
  ((void)&column_shape<lengths>, ...);
}
template void instantiate_large<32, 64, 128, 256, 512, 1024, 2048>();

#endif

}  // namespace tdas_ops::cuda
