#include "plane.h"

#include "launches.h"
#include "plane.cuh"

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

}  // namespace tdas_ops::cuda
