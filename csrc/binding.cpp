// The only file that sees torch: it checks tensors, turns them into plain arguments and picks threads or a stream. The
// schemas are defined in tdas_ops/_schema.py; here they get their implementations.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>
#include <torch/version.h>

#include <array>

#include "cpu/noise.h"
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

constexpr int64_t word_range = int64_t{1} << 32;  // Philox counts quads and pairs in 32 bits

void check_counters(const char* name, const at::Tensor& tensor, const at::Tensor& out) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, "normal_pairs: `", name, "` has dtype ", tensor.scalar_type(),
                   "; expected int64.");
  TORCH_CHECK_VALUE(tensor.device() == out.device(), "normal_pairs: `", name, "` is on ", tensor.device(),
                    "; expected the device of `out`, ", out.device(), ".");
  TORCH_CHECK_VALUE(tensor.is_contiguous(), "normal_pairs: `", name, "` has strides ", tensor.strides(),
                    "; expected a contiguous tensor.");
}

// Checks everything before anything is written. out: complex64 [P, C, H, W].
NormalPairsArgs normal_pairs_args(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw,
                                  int64_t first_pair) {
  TORCH_CHECK_TYPE(out.scalar_type() == at::kComplexFloat, "normal_pairs: `out` has dtype ", out.scalar_type(),
                   "; expected complex64.");
  TORCH_CHECK_VALUE(out.dim() == 4, "normal_pairs: `out` has shape ", out.sizes(), "; expected [pairs, C, H, W].");
  TORCH_CHECK_VALUE(out.is_contiguous(), "normal_pairs: `out` has strides ", out.strides(),
                    "; expected a contiguous tensor.");
  check_counters("seeds", seeds, out);
  check_counters("draw", draw, out);
  const int64_t pairs = out.size(0), rows = out.size(1) * out.size(2), width = out.size(3);
  const bool seed_per_pair = seeds.numel() == pairs && pairs > 1;
  TORCH_CHECK_VALUE(seeds.numel() == 1 || seeds.numel() == pairs, "normal_pairs: `seeds` has ", seeds.numel(),
                    " elements; expected 1 or one a pair, ", pairs, ".");
  TORCH_CHECK_VALUE(draw.numel() == 1, "normal_pairs: `draw` has ", draw.numel(), " elements; expected 1.");
  TORCH_CHECK_VALUE(rows * half_width(width) < word_range, "normal_pairs: `out` has planes of shape ",
                    out.sizes().slice(1), ", which need ", rows * half_width(width),
                    " counters a pair; expected fewer than 2^32.");
  TORCH_CHECK_VALUE(!seed_per_pair || first_pair == 0, "normal_pairs: `first_pair` is ", first_pair,
                    " with one seed a pair; expected 0.");
  TORCH_CHECK_VALUE(first_pair >= 0 && first_pair <= word_range - pairs, "normal_pairs: `first_pair` is ", first_pair,
                    " for ", pairs, " pairs; expected pair indices in [0, 2^32).");
  return {reinterpret_cast<float*>(out.mutable_data_ptr<c10::complex<float>>()),
          seeds.const_data_ptr<int64_t>(),
          draw.const_data_ptr<int64_t>(),
          pairs,
          rows,
          width,
          first_pair,
          seed_per_pair};
}

void normal_pairs_cpp(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_pair) {
  constexpr int64_t blocks_per_task = 512;  // some 30 microseconds, well above the cost of waking a thread
  const NormalPairsArgs args = normal_pairs_args(out, seeds, draw, first_pair);
  at::parallel_for(0, cpu::normal_pairs_blocks(args), blocks_per_task,
                   [&](int64_t begin, int64_t end) { cpu::normal_pairs(args, begin, end); });
}

#ifdef TDAS_OPS_WITH_CUDA
void normal_pairs_cuda(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_pair) {
  const NormalPairsArgs args = normal_pairs_args(out, seeds, draw, first_pair);
  const c10::DeviceGuard guard(out.device());
  const c10::Stream stream = at::accelerator::getCurrentStream(out.get_device());
  const cudaError_t error = cuda::normal_pairs(args, static_cast<cudaStream_t>(stream.native_handle()));
  TORCH_CHECK(error == cudaSuccess, "normal_pairs.cuda: the launch failed with ", cudaGetErrorName(error), ": ",
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
  info["cpu_instruction_set"] = cpu::instruction_set();
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

TORCH_LIBRARY_IMPL(tdas_ops, CPU, library) { library.impl("normal_pairs.cpp", &tdas_ops::normal_pairs_cpp); }

#ifdef TDAS_OPS_WITH_CUDA
TORCH_LIBRARY_IMPL(tdas_ops, CUDA, library) { library.impl("normal_pairs.cuda", &tdas_ops::normal_pairs_cuda); }
#endif

PYBIND11_MODULE(_C, module) {
  module.attr("torch_version") = TORCH_VERSION;
  module.def("build_info", &tdas_ops::build_info, "Facts of this build: torch, compiler, instruction set, CUDA.");
  module.def("philox4x32", &tdas_ops::philox_words, pybind11::arg("counter"), pybind11::arg("key"),
             "The four words of Philox4x32-10, as the kernels compute them.");
}
