#include "arguments.h"

#include <algorithm>
#include <array>

namespace tdas_ops {
namespace {

constexpr int64_t word_range = int64_t{1} << 32;  // Philox counts quads and samples in 32 bits

void check_counters(const char* name, const Tensor& tensor, const Tensor& out) {
  TDAS_OPS_CHECK(tensor.dtype() == dtype::int64, "normals: `", name, "` has dtype ", name_of_dtype(tensor.dtype()),
                 "; expected int64.");
  TDAS_OPS_CHECK(tensor.device() == out.device(), "normals: `", name, "` is on ", shown(tensor.device()),
                 "; expected the device of `out`, ", shown(out.device()), ".");
  TDAS_OPS_CHECK(tensor.is_contiguous(), "normals: `", name, "` has strides ", shown(tensor.strides()),
                 "; expected a contiguous tensor.");
}

}  // namespace

NormalsArgs normals_args(const Tensor& out, const Tensor& seeds, const Tensor& draw, int64_t first_sample,
                         bool spectral) {
  TDAS_OPS_CHECK(out.dtype() == dtype::complex64, "normals: `out` has dtype ", name_of_dtype(out.dtype()),
                 "; expected complex64.");
  TDAS_OPS_CHECK(out.dim() == 4, "normals: `out` has shape ", shown(out.sizes()), "; expected [B, C, H, ceil(W / 2)].");
  TDAS_OPS_CHECK(out.is_contiguous(), "normals: `out` has strides ", shown(out.strides()),
                 "; expected a contiguous tensor.");
  check_counters("seeds", seeds, out);
  check_counters("draw", draw, out);
  const int64_t samples = out.sizes()[0], channels = out.sizes()[1], height = out.sizes()[2], columns = out.sizes()[3];
  const int64_t rows = spectral ? channels : channels * height, width = spectral ? height * columns : columns;
  const int64_t half = spectral ? (height + 1) / 2 * columns : (columns + 1) / 2;
  const bool seed_per_sample = seeds.numel() > 1;
  TDAS_OPS_CHECK(seeds.numel() == 1 || seeds.numel() == samples, "normals: `seeds` has ", seeds.numel(),
                 " elements; expected 1 or one a sample, ", samples, ".");
  TDAS_OPS_CHECK(draw.numel() == 1, "normals: `draw` has ", draw.numel(), " elements; expected 1.");
  TDAS_OPS_CHECK(rows * half < word_range, "normals: `out` has planes of shape ", shown(out.sizes().subspan(1)),
                 ", which need ", rows * half, " counters a sample; expected fewer than 2^32.");
  TDAS_OPS_CHECK(!seed_per_sample || first_sample == 0, "normals: `first_sample` is ", first_sample,
                 " with one seed a sample; expected 0.");
  TDAS_OPS_CHECK(first_sample >= 0 && first_sample <= word_range - samples, "normals: `first_sample` is ", first_sample,
                 " for ", samples, " samples; expected sample indices in [0, 2^32).");
  return {out.mutable_data<float>(),
          seeds.const_data<int64_t>(),
          draw.const_data<int64_t>(),
          samples,
          rows,
          width,
          half,
          first_sample,
          seed_per_sample};
}

Filter filter_of(const char* backend, std::string_view which) {
  TDAS_OPS_CHECK(which == "M" || which == "Mt" || which == "MMt", backend, " kernels: `which` is '", which,
                 "'; expected M, Mt or MMt.");
  return which == "M" ? Filter::M : which == "Mt" ? Filter::Mt : Filter::MMt;
}

Arguments::Arguments(const char* backend, const Tensor& out, bool has_float64)
    : backend_(backend),
      device_(out.device()),
      shape_(out.sizes()),
      float64_(has_float64 && out.dtype() == dtype::float64) {
  TDAS_OPS_CHECK(out.dim() == 4, backend_, " kernels: `out` has shape ", shown(out.sizes()),
                 "; expected [B, C, H, W].");
  TDAS_OPS_CHECK(std::ranges::count(shape_.subspan(1), 0) == 0, backend_, " kernels: `out` has shape ", shown(shape_),
                 "; expected planes that are not empty.");
}

void Arguments::check_shape(const char* name, const Tensor& tensor, Sizes shape) const {
  TDAS_OPS_CHECK(std::ranges::equal(tensor.sizes(), shape), backend_, " kernels: `", name, "` has shape ",
                 shown(tensor.sizes()), "; expected ", shown(shape), ".");
  TDAS_OPS_CHECK(tensor.device() == device_, backend_, " kernels: `", name, "` is on ", shown(tensor.device()),
                 "; expected the device of `out`, ", shown(device_), ".");
}

template <class T>
FieldOf<T> Arguments::field(const char* name, T* data, const Tensor& tensor, bool written) const {
  check_shape(name, tensor, shape_);
  const int32_t type = tensor.dtype();
  const Element element = type == dtype::bfloat16  ? Element::bfloat16
                          : type == dtype::float16 ? Element::float16
                          : type == dtype::float64 ? Element::float64
                                                   : Element::float32;
  const bool known = element != Element::float32 || type == dtype::float32;
  const bool here = float64_ ? !written || element == Element::float64 : element != Element::float64;
  const char* expected = !float64_ ? "float32, bfloat16 or float16"
                         : written ? "float64"
                                   : "float64, float32, bfloat16 or float16";
  TDAS_OPS_CHECK(known && here, backend_, " kernels: `", name, "` has dtype ", name_of_dtype(type), "; expected ",
                 expected, float64_ ? " beside `out` in float64." : ".");
  const Sizes strides = tensor.strides();
  return {data, element, {strides[0], strides[1], strides[2], strides[3]}};
}

Field Arguments::input(const char* name, const Tensor& tensor) const {
  return field(name, tensor.const_data(), tensor, false);
}

OutField Arguments::output(const char* name, const Tensor& tensor) const {
  return field(name, tensor.mutable_data(), tensor, true);
}

void Arguments::check_mask(const char* name, const Tensor& mask, Sizes shape, bool may_be_complex) const {
  check_shape(name, mask, shape);
  const int32_t real = float64_ ? dtype::float64 : dtype::float32;
  const int32_t complex = float64_ ? dtype::complex128 : dtype::complex64;
  TDAS_OPS_CHECK(mask.dtype() == real || (may_be_complex && mask.dtype() == complex), backend_, " kernels: `", name,
                 "` has dtype ", name_of_dtype(mask.dtype()), "; expected ", float64_ ? "float64" : "float32",
                 !may_be_complex ? ""
                 : float64_      ? " or complex128"
                                 : " or complex64",
                 ".");
  TDAS_OPS_CHECK(mask.is_contiguous(), backend_, " kernels: `", name, "` has strides ", shown(mask.strides()),
                 "; expected a contiguous tensor.");
}

template <class T>
const T* Arguments::mask(const char* name, const OptionalTensor& mask, Sizes shape) const {
  if (!mask) return nullptr;
  check_mask(name, *mask, shape, false);
  return mask->const_data<T>();
}

template <class T>
const T* Arguments::matrices(const Tensor& freq) const {
  const int64_t half[] = {shape_[1], shape_[1], shape_[2], shape_[3] / 2 + 1};
  check_mask("freq", freq, half, true);
  return freq.const_data<T>();
}
template const float* Arguments::matrices(const Tensor& freq) const;
template const double* Arguments::matrices(const Tensor& freq) const;

template <class T>
MasksOf<T> Arguments::masks(const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew) const {
  const Sizes planes = shape_.subspan(1);
  const int64_t half[] = {planes[0], planes[1], planes[2] / 2 + 1};
  return {mask<T>("freq", freq, half), mask<T>("space", space, planes), mask<T>("skew", skew, half)};
}
template MasksOf<float> Arguments::masks(const OptionalTensor& freq, const OptionalTensor& space,
                                         const OptionalTensor& skew) const;
template MasksOf<double> Arguments::masks(const OptionalTensor& freq, const OptionalTensor& space,
                                          const OptionalTensor& skew) const;

void Arguments::check_computed(const char* name, const Tensor& tensor) const {
  TDAS_OPS_CHECK(tensor.dtype() == (float64_ ? dtype::float64 : dtype::float32), backend_, " kernels: `", name,
                 "` has dtype ", name_of_dtype(tensor.dtype()), "; expected ",
                 float64_ ? "float64 beside `out` in float64." : "float32.");
}

void Arguments::check_scale(const char* name, const Tensor& tensor) const {
  TDAS_OPS_CHECK((tensor.numel() == 1 || tensor.numel() == shape_[0]) && tensor.device() == device_, backend_,
                 " kernels: `", name, "` has ", tensor.numel(), " elements on ", shown(tensor.device()),
                 "; expected 1 or one a sample, ", shape_[0], ", on ", shown(device_), ".");
  const int32_t type = tensor.dtype();
  TDAS_OPS_CHECK(type == dtype::float32 || type == dtype::float64 || type == dtype::bfloat16 || type == dtype::float16,
                 backend_, " kernels: `", name, "` has dtype ", name_of_dtype(type),
                 "; expected float32, float64, bfloat16 or float16.");
}

void Arguments::check_stream(const Tensor& seeds, const Tensor& draw, int64_t first_sample) const {
  const int64_t count = seeds.numel(), batch = shape_[0];
  TDAS_OPS_CHECK(
      seeds.device() == device_ && draw.device() == device_ && seeds.dtype() == dtype::int64 &&
          draw.dtype() == dtype::int64 && seeds.is_contiguous() && draw.numel() == 1 && (count == 1 || count == batch),
      backend_, " kernels: `seeds` and `draw` have ", count, " and ", draw.numel(), " elements of dtypes ",
      name_of_dtype(seeds.dtype()), " and ", name_of_dtype(draw.dtype()), " on ", shown(seeds.device()), " and ",
      shown(draw.device()), "; expected int64 on ", shown(device_), ", 1 or one a sample, ", batch, ", and 1.");
  TDAS_OPS_CHECK(shape_[1] * shape_[2] * ((shape_[3] + 3) / 2) < word_range && first_sample >= 0 &&
                     first_sample <= word_range - batch,
                 backend_, " kernels: `out` has shape ", shown(shape_), " and first_sample is ", first_sample,
                 "; expected fewer than 2^32 counters a sample and samples in [0, 2^32).");
}

}  // namespace tdas_ops
