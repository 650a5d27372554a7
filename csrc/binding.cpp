// Where the schemas of tdas_ops/_schema.py get their implementations, and the compiled module its functions.
#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>
#include <torch/version.h>

#include <array>

#include "cpu/kernels.h"
#include "cpu_ops.h"
#include "philox.h"

#ifdef TDAS_OPS_WITH_CUDA
#include "cuda/build.h"
#include "cuda_ops.h"
#endif

namespace tdas_ops {
namespace {

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
TORCH_LIBRARY_IMPL(tdas_ops, CUDA, library) {
  library.impl("normals.cuda", &tdas_ops::normals_cuda);
  library.impl("noise.cuda", &tdas_ops::noise_cuda);
  library.impl("precondition.cuda", &tdas_ops::precondition_cuda);
  library.impl("step.cuda", &tdas_ops::step_cuda);
  library.impl("langevin_step.cuda", &tdas_ops::langevin_step_cuda);
}
#endif

PYBIND11_MODULE(_C, module) {
  module.attr("torch_version") = TORCH_VERSION;
  module.def("build_info", &tdas_ops::build_info, "Facts of this build: torch, compiler, instruction set, CUDA.");
#ifdef TDAS_OPS_WITH_CUDA
  module.def("limit_scratch", &tdas_ops::limit_scratch, pybind11::arg("bytes"),
             "Limits the scratch of the CUDA kernels for planes that do not fit on chip; 0 is what keeps a GPU busy.");
  module.def("use_tickets", &tdas_ops::use_tickets, pybind11::arg("chosen"),
             "Whether planes that do not fit on chip take one launch; what it cannot update is then refused.");
  module.def("use_cooperative", &tdas_ops::use_cooperative, pybind11::arg("chosen"),
             "Whether langevin_step of planes on chip is one launch where the device holds all of them at once.");
#endif
  module.def("philox4x32", &tdas_ops::philox_words, pybind11::arg("counter"), pybind11::arg("key"),
             "The four words of Philox4x32-10, as the kernels compute them.");
}
