#include "plane.h"

#include "launches.h"
#include "plane.cuh"
#include "plane_snr.cuh"

namespace tdas_ops::cuda {
namespace {

const PlaneKernels* find(int64_t height, int64_t width) {
  for (const PlaneKernels* of_height : {planes_of_32, planes_of_64, planes_of_128})
    for (int i = 0; i < 3; ++i)
      if (of_height[i].height == height && of_height[i].width == width) return of_height + i;
  return nullptr;
}

cudaError_t launch(const PlaneKernels& size, Kind kind, const PlaneWork& work, cudaStream_t stream) {
  const auto kernel = size.kernels[static_cast<int>(kind)];
  const cudaError_t error = grant_shared(kernel, size.shared_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((work.planes + size.planes - 1) / size.planes);
  config.blockDim = dim3(size.block);
  config.dynamicSmemBytes = size.shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, work);
}

const SnrKernels* find_snr(const UpdateArgs& args) {
  const bool step = args.filter == Filter::drift || args.filter == Filter::noise;
  if (!step || args.masks.freq == nullptr || args.masks.space != nullptr || args.masks.skew != nullptr ||
      args.seeds == nullptr)
    return nullptr;
  for (const SnrKernels& kernels : snr_sizes)
    if (kernels.height == args.height && kernels.width == args.width) return &kernels;
  return nullptr;
}

auto kernel_of(const SnrKernels& size, Filter filter) { return filter == Filter::drift ? size.drift : size.noise; }

int64_t blocks_of(const SnrKernels& size, const UpdateArgs& args) {
  return (args.batch * args.channels + size.planes - 1) / size.planes;
}

// Whether a block has planes of samples that other blocks have planes of as well.
bool shares_samples(const SnrKernels& size, const UpdateArgs& args, bool per_sample) {
  return blocks_of(size, args) > 1 && !(per_sample && size.planes % args.channels == 0);
}

}  // namespace

bool has_plane_kernel(int64_t height, int64_t width) { return find(height, width) != nullptr; }

cudaError_t update_planes(const UpdateArgs& args, cudaStream_t stream) {
  const PlaneKernels& size = *find(args.height, args.width);
  const PlaneWork work = plane_work(args);
  if (work.planes == 0) return cudaSuccess;
  return update_with(args, work,
                     [&](Kind kind, const PlaneWork& of_kind) { return launch(size, kind, of_kind, stream); });
}

cudaError_t measure_planes(const UpdateArgs& args, float* squares, cudaStream_t stream) {
  PlaneWork work = plane_work(args);
  if (work.planes == 0) return cudaSuccess;
  work.samples.d = {nullptr, Number::float32, false, 1.0f};
  work.filter_drift = args.filter == Filter::drift;
  work.squares = reinterpret_cast<float2*>(squares);
  return launch(*find(args.height, args.width), Kind::measure, work, stream);
}

bool has_snr_kernel(const UpdateArgs& args, bool per_sample, int multiprocessors) {
  const SnrKernels* const size = find_snr(args);
  if (size == nullptr || !shares_samples(*size, args, per_sample)) return size != nullptr;
  const auto kernel = kernel_of(*size, args.filter);
  int blocks = 0;  // of a multiprocessor
  const bool known =
      grant_shared(kernel, size->shared_bytes) == cudaSuccess &&
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, size->block, size->shared_bytes) == cudaSuccess;
  return known && blocks_of(*size, args) <= int64_t{blocks} * multiprocessors;
}

cudaError_t langevin_planes(const UpdateArgs& args, const SnrArgs& rule, float* squares, uint32_t* counters,
                            cudaStream_t stream) {
  const SnrKernels& size = *find_snr(args);
  if (args.batch * args.channels == 0) return cudaSuccess;
  SnrWork work = {plane_work(args), rule, counters};
  work.plane.squares = reinterpret_cast<float2*>(squares);
  work.plane.add_v = true;
  const auto kernel = kernel_of(size, args.filter);
  cudaError_t error = grant_shared(kernel, size.shared_bytes);
  cudaLaunchAttribute cooperative{};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks_of(size, args)));
  config.blockDim = dim3(size.block);
  config.dynamicSmemBytes = size.shared_bytes;
  config.stream = stream;
  if (shares_samples(size, args, rule.per_sample)) {
    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = 1;
    config.attrs = &cooperative;
    config.numAttrs = 1;
    const int64_t count = rule.per_sample ? args.batch : 1;
    if (error == cudaSuccess)
      error = cudaMemsetAsync(counters, 0, static_cast<size_t>(count) * sizeof(uint32_t), stream);
  }
  return error == cudaSuccess ? cudaLaunchKernelEx(&config, kernel, work) : error;
}

}  // namespace tdas_ops::cuda
