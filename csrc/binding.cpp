// The Python module _C: the facts and switches of the library that it is linked to. It knows nothing of torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "library.h"
#include "philox.h"

namespace tdas_ops {
namespace {

std::array<uint32_t, 4> philox_words(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const PhiloxWords words = philox4x32({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
  return {words.w0, words.w1, words.w2, words.w3};
}

pybind11::dict info() {
  const BuildInfo build = build_info();
  pybind11::dict facts;
  facts["compiler"] = build.compiler;
  facts["cpu_instruction_set"] = build.cpu_instruction_set;
  facts["cuda"] = build.cuda.empty() ? pybind11::object(pybind11::none()) : pybind11::str(build.cuda);
  facts["cuda_architectures"] = build.cuda_architectures;
  return facts;
}

}  // namespace
}  // namespace tdas_ops

PYBIND11_MODULE(_C, module) {
  module.def("build_info", &tdas_ops::info, "Facts of this build: compiler, instruction set, CUDA.");
#ifdef TDAS_OPS_WITH_CUDA
  module.def("limit_scratch", &tdas_ops::limit_scratch, pybind11::arg("bytes"),
             "Limits the scratch of the CUDA kernels for planes that do not fit on chip; 0 is what keeps a GPU busy.");
#endif
  module.def("philox4x32", &tdas_ops::philox_words, pybind11::arg("counter"), pybind11::arg("key"),
             "The four words of Philox4x32-10, as the kernels compute them.");
}
