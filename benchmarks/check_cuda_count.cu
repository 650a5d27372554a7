// Compiled by check_cuda.py, which reads the machine code; nothing here ever runs.
#include "../csrc/cuda/plane.cuh"

namespace tdas_ops::cuda {

#ifdef TDAS_OPS_COUNTED_KIND

// What one warp of plane_kernel does in a usual call. Its choices are constants here, so that the compiler leaves the
// path of that warp and nothing else: dense float32 fields, scales that are numbers, one seed, noise of the kernel's
// own; kind noise with d v, kind pixels with both masks.
template <int H, int W, Kind kind, int warp>
__global__ void __launch_bounds__(PlaneShape<H, W>::block, PlaneShape<H, W>::blocks) counted_kernel(PlaneWork call) {
  TDAS_OPS_SHARED(float, shared);
  __builtin_assume(call.base.data != nullptr);
  __builtin_assume(call.samples.seeds != nullptr);
  __builtin_assume(call.masks.space != nullptr);
  PlaneWork work = call;
  work.base.dense = work.v.dense = work.out.dense = true;
  work.base.element = work.v.element = work.out.element = Element::float32;
  work.z.data = nullptr;
  work.samples.d.values = work.samples.n.values = nullptr;
  work.samples.langevin_noise = work.samples.seed_per_sample = false;
  work.square = true;
  work.add_v = kind == Kind::noise;
  work.noise_first = work.space_first = work.space_last = false;
  work.twice = true;
  update_plane<H, W, kind>(work, shared, [] { return static_cast<int>(threadIdx.x % 32 + warp * 32); });
}

template <int H, int W, Kind kind, int warp = PlaneShape<H, W>::block / 32 - 1>
void instantiate() {
  (void)&counted_kernel<H, W, kind, warp>;
  if constexpr (warp > 0) instantiate<H, W, kind, warp - 1>();
}
template void instantiate<TDAS_OPS_COUNTED_HEIGHT, TDAS_OPS_COUNTED_WIDTH, Kind::TDAS_OPS_COUNTED_KIND>();

#else

// The compiler reports the names of kernels, and this name has the size of their shared memory.
template <int H, int W, int shared_bytes = PlaneShape<H, W>::shared_bytes>
__global__ void shape() {}

template <int... sizes>
void instantiate() {
  ((void)&shape<sizes, 32>, ...);
  ((void)&shape<sizes, 64>, ...);
  ((void)&shape<sizes, 128>, ...);
}
template void instantiate<32, 64, 128>();

#endif

}  // namespace tdas_ops::cuda
