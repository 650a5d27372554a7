// What the GPU code was compiled for, and what a GPU has for it.
#pragma once

#include <string>
#include <vector>

namespace tdas_ops::cuda {

std::string toolkit_version();             // such as "13.0"
std::vector<std::string> architectures();  // such as "8.0": the ones compiled for
int shared_memory_per_block(int device);   // that a kernel can have, in bytes; 0 where there is no such device

}  // namespace tdas_ops::cuda
