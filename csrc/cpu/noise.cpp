// One block of Philox calls at a time goes through a local buffer: fixed loop counts that become vectors, and the same
// instructions for every element whatever its place in the batch.
#include "noise.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "block.h"

namespace tdas_ops::cpu {
namespace {

struct InstructionSet {
  const char* name;
  void (*fill_block)(Block&, PhiloxWords first, PhiloxKey key);
};

InstructionSet choose_instruction_set() {
  const char* asked = std::getenv("TDAS_OPS_CPU_ISA");
  const std::string name = asked == nullptr ? "" : asked;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && (name.empty() || name == "avx512")) return {"avx512", fill_block_avx512};
  if (avx2 && (name.empty() || name == "avx2")) return {"avx2", fill_block_avx2};
#endif
  if (name.empty() || name == "baseline") return {"baseline", fill_block_baseline};
  throw std::invalid_argument("TDAS_OPS_CPU_ISA is '" + name +
                              "'; expected avx512, avx2 or baseline, and one that this machine has.");
}

const InstructionSet& chosen() {
  static const InstructionSet set = choose_instruction_set();
  return set;
}

// Copies the elements of `count` calls, from call `quad` of a sample on, to the rows they belong to.
void scatter_block(const Block& block, float* sample, int64_t quad, int64_t count, int64_t width, int64_t half) {
  const int64_t right_half = width - half;
  int64_t row = quad / half, column = quad % half;
  for (int64_t done = 0; done < count; ++row, column = 0) {
    const int64_t run = std::min(half - column, count - done);
    const int64_t right_run = std::min(run, right_half - column);
    float* target = sample + 2 * (row * width + column);
    std::memcpy(target, block.left + 2 * done, 2 * sizeof(float) * run);
    if (right_run > 0) std::memcpy(target + 2 * half, block.right + 2 * done, 2 * sizeof(float) * right_run);
    done += run;
  }
}

int64_t blocks_per_sample(const NormalsArgs& args) {
  return (args.rows * args.half + quads_per_block - 1) / quads_per_block;
}

}  // namespace

int64_t normals_blocks(const NormalsArgs& args) { return args.samples * blocks_per_sample(args); }

void normals(const NormalsArgs& args, int64_t begin, int64_t end) {
  const auto fill_block = chosen().fill_block;
  const int64_t quads = args.rows * args.half, blocks = blocks_per_sample(args);
  Block block;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t sample = index / blocks, quad = index % blocks * quads_per_block;
    const PhiloxKey key = philox_key(args.seeds[args.seed_per_sample ? sample : 0]);
    const int64_t sample_index = args.seed_per_sample ? 0 : args.first_sample + sample;
    fill_block(block, philox_counter(static_cast<uint32_t>(quad), static_cast<uint32_t>(sample_index), args.draw[0]),
               key);
    const int64_t count = std::min<int64_t>(quads_per_block, quads - quad);
    scatter_block(block, args.out + 2 * sample * args.rows * args.width, quad, count, args.width, args.half);
  }
}

const char* instruction_set() { return chosen().name; }

}  // namespace tdas_ops::cpu
