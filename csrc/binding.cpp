// Where the schemas of tdas_ops/_schema.py get their implementations, and the op `normals`: it checks tensors, turns
// them into plain arguments and picks threads or a stream.
#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>
#include <torch/version.h>

#include <array>

#include "cpu/kernels.h"
#include "cpu_ops.h"
#include "parallel.h"
#include "params.h"
#include "philox.h"

#ifdef TDAS_OPS_WITH_CUDA
#include <ATen/DeviceAccelerator.h>
#include <c10/core/DeviceGuard.h>

#include "cuda/build.h"
#include "cuda/noise.h"
#endif

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

// Checks everything before anything is written. out: complex64 [B, C, H, ceil(W / 2)].
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

void normals_cpp(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_sample,
                 bool spectral) {
  draw_normals(normals_args(out, seeds, draw, first_sample, spectral));
}

#ifdef TDAS_OPS_WITH_CUDA
void normals_cuda(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_sample,
                  bool spectral) {
  const NormalsArgs args = normals_args(out, seeds, draw, first_sample, spectral);
  const c10::DeviceGuard guard(out.device());
  const c10::Stream stream = at::accelerator::getCurrentStream(out.get_device());
  const cudaError_t error = cuda::normals(args, static_cast<cudaStream_t>(stream.native_handle()));
  TORCH_CHECK(error == cudaSuccess, "normals.cuda: the launch failed with ", cudaGetErrorName(error), ": ",
              cudaGetErrorString(error), ".");
}
#endif

std::array<uint32_t, 4> philox_words(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const PhiloxWords words = philox4x32({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
  return {words.w0, words.w1, words.w2, words.w3};
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["torch"] = TORCH_VERSION;
  info["compiler"] = __VERSION__;
  info["cpu_instruction_set"] = cpu::kernels().name;
#ifdef TDAS_OPS_WITH_CUDA
  info["cuda"] = cuda::toolkit_version();
  info["cuda_architectures"] = cuda::architectures();
#else
  info["cuda"] = pybind11::none();
  info["cuda_architectures"] = pybind11::list();
#endif
  return info;
}

}  // namespace
}  // namespace tdas_ops

TORCH_LIBRARY_IMPL(tdas_ops, CPU, library) {
  library.impl("normals.cpp", &tdas_ops::normals_cpp);
  library.impl("noise.cpp", &tdas_ops::noise_cpp);
  library.impl("precondition.cpp", &tdas_ops::precondition_cpp);
  library.impl("step.cpp", &tdas_ops::step_cpp);
  library.impl("langevin_step.cpp", &tdas_ops::langevin_step_cpp);
}

#ifdef TDAS_OPS_WITH_CUDA
TORCH_LIBRARY_IMPL(tdas_ops, CUDA, library) { library.impl("normals.cuda", &tdas_ops::normals_cuda); }
#endif

PYBIND11_MODULE(_C, module) {
  module.attr("torch_version") = TORCH_VERSION;
  module.def("build_info", &tdas_ops::build_info, "Facts of this build: torch, compiler, instruction set, CUDA.");
  module.def("philox4x32", &tdas_ops::philox_words, pybind11::arg("counter"), pybind11::arg("key"),
             "The four words of Philox4x32-10, as the kernels compute them.");
}
