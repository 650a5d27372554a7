#include "plane.h"

#include <algorithm>

#include "plane.cuh"

namespace tdas_ops::cuda {
namespace {

constexpr int granted_shared_bytes = 48 << 10;  // without asking

const PlaneKernels* find(int64_t height, int64_t width) {
  for (const PlaneKernels* of_height : {planes_of_32, planes_of_64, planes_of_128})
    for (int i = 0; i < 3; ++i)
      if (of_height[i].height == height && of_height[i].width == width) return of_height + i;
  return nullptr;
}

// Runs of four can be read at once where the pixels of every plane follow one another from an aligned address on.
template <class T>
PixelsOf<T> pixels(const FieldOf<T>& field, int64_t width) {
  const int64_t (&s)[4] = field.strides;
  const uintptr_t run_bytes = field.element == Element::float32 ? 16 : 8;
  const bool dense = s[3] == 1 && s[2] == width && s[1] % 4 == 0 && s[0] % 4 == 0 &&
                     reinterpret_cast<uintptr_t>(field.data) % run_bytes == 0;
  return {field.data, field.element, dense, {s[0], s[1], s[2], s[3]}};
}

cudaError_t launch(const PlaneKernels& size, Kind kind, const PlaneWork& work, cudaStream_t stream) {
  const auto kernel = size.kernels[static_cast<int>(kind)];
  if (size.shared_bytes > granted_shared_bytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, size.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((work.planes + size.planes - 1) / size.planes);
  config.blockDim = dim3(size.block);
  config.dynamicSmemBytes = size.shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, work);
}

PlaneWork work_of(const UpdateArgs& args) {
  PlaneWork work = {};
  work.base = pixels(args.base, args.width);
  work.v = pixels(args.v, args.width);
  work.z = pixels(args.z, args.width);
  work.out = pixels(args.out, args.width);
  work.masks = args.masks;
  work.samples = sample_work(args);
  work.planes = static_cast<uint32_t>(args.batch * args.channels);
  work.channels = static_cast<uint32_t>(args.channels);
  work.by_channels = Divider(work.channels);
  work.square = true;
  return work;
}

}  // namespace

bool has_plane_kernel(int64_t height, int64_t width) { return find(height, width) != nullptr; }

int64_t plane_shared_bytes(int64_t height, int64_t width) { return find(height, width)->shared_bytes; }

cudaError_t update_planes(const UpdateArgs& args, cudaStream_t stream) {
  const PlaneKernels& size = *find(args.height, args.width);
  PlaneWork work = work_of(args);
  if (work.planes == 0) return cudaSuccess;
  const bool space = args.masks.space != nullptr, skew = args.masks.skew != nullptr, z = args.z.data != nullptr;
  switch (args.filter) {
    case Filter::drift:
      if (!space && !z) return launch(size, skew ? Kind::skewed_drift : Kind::drift, work, stream);
      if (skew) {  // x + d S v, to which the rest is added
        PlaneWork turned = work;
        turned.samples.seeds = nullptr;
        turned.square = false;
        const cudaError_t error = launch(size, Kind::skewed_drift, turned, stream);
        if (error != cudaSuccess) return error;
        work.base = {work.out.data, work.out.element, work.out.dense, {}};
        std::copy(work.out.strides, work.out.strides + 4, work.base.strides);
      }
      work.twice = true;
      return launch(size, Kind::pixels, work, stream);
    case Filter::noise:
      work.add_v = args.v.data != nullptr;
      if (!space && !z) return launch(size, Kind::noise, work, stream);
      work.noise_first = true;
      work.space_first = space;
      return launch(size, Kind::pixels, work, stream);
    case Filter::M:
      work.space_first = space;
      return launch(size, Kind::pixels, work, stream);
    case Filter::Mt:
      work.space_last = space;
      return launch(size, Kind::pixels, work, stream);
    default:
      work.twice = space;
      return launch(size, space ? Kind::pixels : Kind::drift, work, stream);
  }
}

cudaError_t measure_planes(const UpdateArgs& args, float* squares, cudaStream_t stream) {
  PlaneWork work = work_of(args);
  if (work.planes == 0) return cudaSuccess;
  work.samples.d = {nullptr, Number::float32, false, 1.0f};
  work.filter_drift = args.filter == Filter::drift;
  work.squares = reinterpret_cast<float2*>(squares);
  return launch(*find(args.height, args.width), Kind::measure, work, stream);
}

}  // namespace tdas_ops::cuda
