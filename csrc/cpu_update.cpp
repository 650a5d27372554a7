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

bool can_keep(const UpdateArgs& args) {
  if (args.filter == Filter::noise) return false;
  return path(args) == Path::fused || (path(args) == Path::spectra && args.width % 2 == 0);
}

void update(const UpdateArgs& args, const float* kept) {
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
      return update_spectra(args, kept);
  }
}

void measure(const UpdateArgs& args, double (*squares)[2], float* keep) {
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
      return measure_spectra(args, squares, keep);
  }
}

}  // namespace tdas_ops
