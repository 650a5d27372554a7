// The plane kernels of csrc/cuda as a C library for ctypes, of the kinds SIMT_KINDS(height, width), bits 1 << Kind. Its
// program takes those of SIMT_HEIGHT x SIMT_WIDTH.
#include <cstdio>

#include "plane_sizes.h"

extern "C" {

const char* simt_error() { return simt::last_error().c_str(); }

uint64_t simt_args_bytes() { return sizeof(tdas_ops::cuda::UpdateArgs); }

int simt_has_kernel(int64_t height, int64_t width) { return tdas_ops::cuda::has_plane_kernel(height, width); }

int simt_update(const tdas_ops::cuda::UpdateArgs* args) { return tdas_ops::cuda::update_planes(*args, nullptr); }
}

#ifdef SIMT_MAIN
namespace {

using namespace tdas_ops;
using namespace tdas_ops::cuda;

template <class T>
std::vector<T> ones(int64_t count) {
  return std::vector<T>(count, T{1});
}

// A field [B, C, H, W] in a buffer that ends with its last element, dense or with its columns `pitch` apart.
struct Buffer {
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
  OutField field;

  Buffer(const cuda::UpdateArgs& args, Element element, int64_t pitch) : field{nullptr, element, {}} {
    int64_t stride = pitch;
    const int64_t sizes[] = {args.batch, args.channels, args.height, args.width};
    for (int i = 3; i >= 0; --i) {
      field.strides[i] = stride;
      stride *= sizes[i];
    }
    const int64_t count = stride - pitch + 1;
    if (element == Element::float32) {
      field.data = (wide = ones<float>(count)).data();
    } else {
      field.data = (narrow = ones<uint16_t>(count)).data();
    }
  }
};

}  // namespace

// batch, channels: every update that the kinds of kernel make possible, on buffers of exactly the size needed, for the
// address sanitizer.
int main(int, char** arguments) {
  cuda::UpdateArgs all = {};
  all.batch = std::atoll(arguments[1]);
  all.channels = std::atoll(arguments[2]);
  all.height = SIMT_HEIGHT;
  all.width = SIMT_WIDTH;
  const auto launches = [](Kind kind) { return SIMT_KINDS(SIMT_HEIGHT, SIMT_WIDTH) >> static_cast<int>(kind) & 1; };
  const int64_t frequencies = all.channels * all.height * (all.width / 2 + 1);
  const std::vector<float> freq = ones<float>(frequencies), skew = ones<float>(frequencies),
                           space = ones<float>(all.channels * all.height * all.width);
  const std::vector<int64_t> seeds = ones<int64_t>(all.batch), draw = ones<int64_t>(1);
  const std::vector<double> d = ones<double>(all.batch);
  const std::vector<uint16_t> n = ones<uint16_t>(1);
  all.d = {d.data(), Number::float64, true, 0.0f};
  all.n = {n.data(), Number::bfloat16, false, 0.0f};
  all.seed_per_sample = true;
  all.draw = draw.data();
  for (const Element element : {Element::float32, Element::float16})
    for (const int64_t pitch : {1, 3}) {
      const Buffer base(all, Element::float32, pitch), v(all, element, pitch), z(all, Element::float32, pitch);
      for (const Filter filter : {Filter::drift, Filter::noise, Filter::M, Filter::Mt, Filter::MMt})
        for (const bool has_space : {false, true})
          for (const bool has_skew : {false, true})
            for (const bool has_z : {false, true}) {
              const bool drift = filter == Filter::drift, updates = drift || filter == Filter::noise;
              if ((has_skew && !drift) || (has_z && !updates)) continue;
              const bool pixels = has_space || has_z || filter == Filter::M || filter == Filter::Mt;
              if (has_skew && !launches(Kind::skewed_drift)) continue;
              if (pixels && !launches(Kind::pixels)) continue;
              if (!pixels && !has_skew && !launches(filter == Filter::noise ? Kind::noise : Kind::drift)) continue;
              cuda::UpdateArgs args = all;
              args.filter = filter;
              args.masks = {freq.data(), has_space ? space.data() : nullptr, has_skew ? skew.data() : nullptr};
              args.v = constant(v.field);
              if (updates) args.base = constant(base.field);
              if (has_z) args.z = constant(z.field);
              if (updates && !has_z) args.seeds = seeds.data();
              const Buffer out(all, updates ? Element::float32 : element, pitch);
              args.out = out.field;
              if (simt_update(&args) != cudaSuccess) {
                std::fprintf(stderr, "%s\n", simt_error());
                return 1;
              }
            }
    }
  return 0;
}
#endif
