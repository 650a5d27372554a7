// Work of the CPU kernels, cut for torch's threads. A task is some 30 microseconds long, well above the cost of waking
// a thread.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"
#include "tensor.h"

namespace tdas_ops {

// How many threads torch has for an op.
inline int64_t threads() {
  uint32_t got = 0;
  TDAS_OPS_TORCH(torch_get_num_threads(&got));
  return got;
}

// work(begin, end) on parts of [0, count), of at least `grain` each, so that torch is not asked about one.
template <class Work>
void parallel_for(int64_t count, int64_t grain, const Work& work) {
  if (count <= grain) {
    if (count > 0) work(0, count);
    return;
  }
  const auto call = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Work*>(context))(begin, end); };
  TDAS_OPS_TORCH(torch_parallel_for(0, count, grain, call, const_cast<Work*>(&work)));
}

// The same where each one is so many `elements` of a tensor.
template <class Work>
void in_parallel(int64_t count, int64_t elements, const Work& work) {
  parallel_for(count, std::max<int64_t>(1, 30000 / elements), work);
}

// All blocks of the op `normals`.
template <class T>
void draw_normals(const NormalsArgsOf<T>& args) {
  constexpr int64_t blocks_per_task = 512;
  const cpu::KernelsOf<T>& kernels = cpu::kernels<T>();
  parallel_for(cpu::normals_blocks(args), blocks_per_task,
               [&](int64_t begin, int64_t end) { kernels.normals(args, begin, end); });
}

}  // namespace tdas_ops
