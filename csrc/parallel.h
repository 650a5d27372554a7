// Work of the CPU kernels, cut for torch's threads. A task is some 30 microseconds long, well above the cost of waking
// a thread.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/kernels.h"

namespace tdas_ops {

// work(begin, end) on parts of [0, count), in which each one is so many `elements` of a tensor.
template <class Work>
void in_parallel(int64_t count, int64_t elements, const Work& work) {
  at::parallel_for(0, count, std::max<int64_t>(1, 30000 / elements), work);
}

// All blocks of the op `normals`.
inline void draw_normals(const NormalsArgs& args) {
  constexpr int64_t blocks_per_task = 512;
  at::parallel_for(0, cpu::normals_blocks(args), blocks_per_task,
                   [&](int64_t begin, int64_t end) { cpu::kernels().normals(args, begin, end); });
}

}  // namespace tdas_ops
