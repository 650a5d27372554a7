// What the GPU code was compiled for.
#pragma once

#include <string>
#include <vector>

namespace tdas_ops::cuda {

std::string toolkit_version();             // such as "13.0"
std::vector<std::string> architectures();  // such as "8.0": the ones compiled for

}  // namespace tdas_ops::cuda
