#include "cpu_update.h"

#include "cpu/kernels.h"
#include "parallel.h"
#include "spectra.h"

namespace tdas_ops {
namespace {

enum class Path { pixels, fused, spectra };

Path path(const UpdateArgs& args) {
  if (args.masks.matrices != nullptr) return Path::spectra;
  if (args.masks.freq == nullptr && args.masks.skew == nullptr) return Path::pixels;
  return args.masks.freq != nullptr && cpu::fused(args.height, args.width) ? Path::fused : Path::spectra;
}

}  // namespace

bool pixels_alone(const UpdateArgs& args) { return path(args) == Path::pixels; }

KeptFloats kept_floats(const UpdateArgs& args) {
  const bool drift = args.filter != Filter::noise;
  if (path(args) == Path::fused) {
    const int64_t floats = cpu::kernels().kept_floats(args.height, args.width);
    const bool pixel_noise = args.masks.space != nullptr || args.z.data != nullptr;
    return {drift ? floats : 0, pixel_noise ? floats : 0};
  }
  const bool packed = path(args) == Path::spectra && args.width % 2 == 0;
  return {drift && packed ? args.height * args.width : 0, 0};
}

void update(const UpdateArgs& args, Kept kept) {
  const cpu::Kernels& kernels = cpu::kernels();
  const int64_t planes = args.batch * args.channels;
  switch (path(args)) {
    case Path::pixels:
      return in_parallel(planes * args.height, args.width,
                         [&](int64_t begin, int64_t end) { kernels.update_rows(args, begin, end); });
    case Path::fused:
      return in_parallel(planes, args.height * args.width,
                         [&](int64_t begin, int64_t end) { kernels.update_planes(args, kept, begin, end); });
    case Path::spectra:
      return update_spectra(args, kept.drift);
  }
}

void measure(const UpdateArgs& args, double (*squares)[2], Keep keep) {
  const cpu::Kernels& kernels = cpu::kernels();
  const int64_t planes = args.batch * args.channels, size = args.height * args.width;
  switch (path(args)) {
    case Path::pixels:
      return in_parallel(planes, size,
                         [&](int64_t begin, int64_t end) { kernels.measure_rows(args, squares, begin, end); });
    case Path::fused:
      return in_parallel(planes, size,
                         [&](int64_t begin, int64_t end) { kernels.measure_planes(args, squares, keep, begin, end); });
    case Path::spectra:
      return measure_spectra(args, squares, keep.drift);
  }
}

}  // namespace tdas_ops
