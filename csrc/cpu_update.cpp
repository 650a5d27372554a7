#include "cpu_update.h"

#include "cpu/kernels.h"
#include "parallel.h"
#include "spectra.h"

namespace tdas_ops {
namespace {

enum class Path { pixels, fused, spectra };

template <class T>
Path path(const UpdateArgsOf<T>& args) {
  if (args.masks.matrices != nullptr) return Path::spectra;
  if (args.masks.freq == nullptr && args.masks.skew == nullptr) return Path::pixels;
  return args.masks.freq != nullptr && cpu::fused(args.height, args.width) ? Path::fused : Path::spectra;
}

}  // namespace

template <class T>
bool pixels_alone(const UpdateArgsOf<T>& args) {
  return path(args) == Path::pixels;
}

template <class T>
KeptFloats kept_floats(const UpdateArgsOf<T>& args) {
  const bool drift = args.filter != Filter::noise;
  if (path(args) == Path::fused) {
    const int64_t floats = cpu::kernels<T>().kept_floats(args.height, args.width);
    const bool pixel_noise = args.masks.space != nullptr || args.z.data != nullptr;
    return {drift ? floats : 0, pixel_noise ? floats : 0};
  }
  const bool packed = path(args) == Path::spectra && args.width % 2 == 0;
  return {drift && packed ? args.height * args.width : 0, 0};
}

template <class T>
void update(const UpdateArgsOf<T>& args, std::type_identity_t<KeptOf<const T>> kept) {
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
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

template <class T>
void measure(const UpdateArgsOf<T>& args, double (*squares)[2], KeptOf<T> keep) {
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
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

template void update(const UpdateArgsOf<float>& args, KeptOf<const float> kept);
template void update(const UpdateArgsOf<double>& args, KeptOf<const double> kept);
template void measure(const UpdateArgsOf<float>& args, double (*squares)[2], KeptOf<float> keep);
template void measure(const UpdateArgsOf<double>& args, double (*squares)[2], KeptOf<double> keep);
template KeptFloats kept_floats(const UpdateArgsOf<float>& args);
template KeptFloats kept_floats(const UpdateArgsOf<double>& args);
template bool pixels_alone(const UpdateArgsOf<float>& args);
template bool pixels_alone(const UpdateArgsOf<double>& args);

}  // namespace tdas_ops
