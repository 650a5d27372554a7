#include "arguments.h"

namespace tdas_ops {
namespace {

constexpr int64_t word_range = int64_t{1} << 32;  // Philox counts quads and samples in 32 bits

void check_counters(const char* name, const at::Tensor& tensor, const at::Tensor& out) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, "normals: `", name, "` has dtype ", tensor.scalar_type(),
                   "; expected int64.");
  TORCH_CHECK_VALUE(tensor.device() == out.device(), "normals: `", name, "` is on ", tensor.device(),
                    "; expected the device of `out`, ", out.device(), ".");
  TORCH_CHECK_VALUE(tensor.is_contiguous(), "normals: `", name, "` has strides ", tensor.strides(),
                    "; expected a contiguous tensor.");
}

}  // namespace

NormalsArgs normals_args(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_sample,
                         bool spectral) {
  TORCH_CHECK_TYPE(out.scalar_type() == at::kComplexFloat, "normals: `out` has dtype ", out.scalar_type(),
                   "; expected complex64.");
  TORCH_CHECK_VALUE(!out.is_conj(), "normals: `out` is a conjugate view; expected a tensor of its own.");
  TORCH_CHECK_VALUE(out.dim() == 4, "normals: `out` has shape ", out.sizes(), "; expected [B, C, H, ceil(W / 2)].");
  TORCH_CHECK_VALUE(out.is_contiguous(), "normals: `out` has strides ", out.strides(),
                    "; expected a contiguous tensor.");
  check_counters("seeds", seeds, out);
  check_counters("draw", draw, out);
  const int64_t samples = out.size(0), channels = out.size(1), height = out.size(2), columns = out.size(3);
  const int64_t rows = spectral ? channels : channels * height, width = spectral ? height * columns : columns;
  const int64_t half = spectral ? (height + 1) / 2 * columns : (columns + 1) / 2;
  const bool seed_per_sample = seeds.numel() > 1;
  TORCH_CHECK_VALUE(seeds.numel() == 1 || seeds.numel() == samples, "normals: `seeds` has ", seeds.numel(),
                    " elements; expected 1 or one a sample, ", samples, ".");
  TORCH_CHECK_VALUE(draw.numel() == 1, "normals: `draw` has ", draw.numel(), " elements; expected 1.");
  TORCH_CHECK_VALUE(rows * half < word_range, "normals: `out` has planes of shape ", out.sizes().slice(1),
                    ", which need ", rows * half, " counters a sample; expected fewer than 2^32.");
  TORCH_CHECK_VALUE(!seed_per_sample || first_sample == 0, "normals: `first_sample` is ", first_sample,
                    " with one seed a sample; expected 0.");
  TORCH_CHECK_VALUE(first_sample >= 0 && first_sample <= word_range - samples, "normals: `first_sample` is ",
                    first_sample, " for ", samples, " samples; expected sample indices in [0, 2^32).");
  return {reinterpret_cast<float*>(out.mutable_data_ptr<c10::complex<float>>()),
          seeds.const_data_ptr<int64_t>(),
          draw.const_data_ptr<int64_t>(),
          samples,
          rows,
          width,
          half,
          first_sample,
          seed_per_sample};
}

Filter filter_of(const char* backend, std::string_view which) {
  TORCH_CHECK_VALUE(which == "M" || which == "Mt" || which == "MMt", backend, " kernels: `which` is '",
                    std::string(which), "'; expected M, Mt or MMt.");
  return which == "M" ? Filter::M : which == "Mt" ? Filter::Mt : Filter::MMt;
}

Arguments::Arguments(const char* backend, const at::Tensor& out)
    : backend_(backend), device_(out.device()), shape_(out.sizes().vec()) {
  TORCH_CHECK_VALUE(out.dim() == 4, backend_, " kernels: `out` has shape ", out.sizes(), "; expected [B, C, H, W].");
}

void Arguments::check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef shape) const {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, backend_, " kernels: `", name, "` has shape ", tensor.sizes(),
                    "; expected ", shape, ".");
  TORCH_CHECK_VALUE(tensor.device() == device_, backend_, " kernels: `", name, "` is on ", tensor.device(),
                    "; expected the device of `out`, ", device_, ".");
}

template <class T>
FieldOf<T> Arguments::field(const char* name, T* data, const at::Tensor& tensor) const {
  check_shape(name, tensor, shape_);
  Element element = Element::float32;
  switch (tensor.scalar_type()) {
    case at::kFloat:
      break;
    case at::kBFloat16:
      element = Element::bfloat16;
      break;
    case at::kHalf:
      element = Element::float16;
      break;
    default:
      TORCH_CHECK_TYPE(false, backend_, " kernels: `", name, "` has dtype ", tensor.scalar_type(),
                       "; expected float32, bfloat16 or float16 (float64 is the reference's work).");
  }
  return {data, element, {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)}};
}

Field Arguments::input(const char* name, const at::Tensor& tensor) const {
  return field(name, tensor.const_data_ptr(), tensor);
}

OutField Arguments::output(const char* name, const at::Tensor& tensor) const {
  return field(name, tensor.mutable_data_ptr(), tensor);
}

void Arguments::check_mask(const char* name, const at::Tensor& mask, at::IntArrayRef shape, at::ScalarType type) const {
  check_shape(name, mask, shape);
  TORCH_CHECK_TYPE(mask.scalar_type() == type, backend_, " kernels: `", name, "` has dtype ", mask.scalar_type(),
                   "; expected ", type == at::kFloat ? "float32" : "float32 or complex64", ".");
  TORCH_CHECK_VALUE(mask.is_contiguous(), backend_, " kernels: `", name, "` has strides ", mask.strides(),
                    "; expected a contiguous tensor.");
}

const float* Arguments::mask(const char* name, const OptionalTensor& mask, at::IntArrayRef shape) const {
  if (!mask) return nullptr;
  check_mask(name, *mask, shape, at::kFloat);
  return mask->const_data_ptr<float>();
}

const float* Arguments::matrices(const at::Tensor& freq) const {
  const int64_t half[] = {shape_[1], shape_[1], shape_[2], shape_[3] / 2 + 1};
  if (freq.scalar_type() == at::kFloat) {
    check_mask("freq", freq, half, at::kFloat);
    return freq.const_data_ptr<float>();
  }
  check_mask("freq", freq, half, at::kComplexFloat);
  return reinterpret_cast<const float*>(freq.const_data_ptr<c10::complex<float>>());
}

Masks Arguments::masks(const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew) const {
  const at::IntArrayRef planes = at::IntArrayRef(shape_).slice(1);
  const int64_t half[] = {planes[0], planes[1], planes[2] / 2 + 1};
  return {mask("freq", freq, half), mask("space", space, planes), mask("skew", skew, half)};
}

void Arguments::check_scale(const char* name, const at::Tensor& tensor) const {
  TORCH_CHECK_VALUE((tensor.numel() == 1 || tensor.numel() == shape_[0]) && tensor.device() == device_, backend_,
                    " kernels: `", name, "` has ", tensor.numel(), " elements on ", tensor.device(),
                    "; expected 1 or one a sample, ", shape_[0], ", on ", device_, ".");
}

void Arguments::check_stream(const at::Tensor& seeds, const at::Tensor& draw, int64_t first_sample) const {
  const int64_t count = seeds.numel(), batch = shape_[0];
  TORCH_CHECK_VALUE(seeds.device() == device_ && draw.device() == device_ && seeds.scalar_type() == at::kLong &&
                        draw.scalar_type() == at::kLong && seeds.is_contiguous() && draw.numel() == 1 &&
                        (count == 1 || count == batch),
                    backend_, " kernels: `seeds` and `draw` have ", count, " and ", draw.numel(),
                    " elements of dtypes ", seeds.scalar_type(), " and ", draw.scalar_type(), " on ", seeds.device(),
                    " and ", draw.device(), "; expected int64 on ", device_, ", 1 or one a sample, ", batch,
                    ", and 1.");
  TORCH_CHECK_VALUE(shape_[1] * shape_[2] * ((shape_[3] + 3) / 2) < word_range && first_sample >= 0 &&
                        first_sample <= word_range - batch,
                    backend_, " kernels: `out` has shape ", at::IntArrayRef(shape_), " and first_sample is ",
                    first_sample, "; expected fewer than 2^32 counters a sample and samples in [0, 2^32).");
}

}  // namespace tdas_ops
