// Complex unit normals on the CPU, no torch.
#pragma once

#include "../params.h"

namespace tdas_ops::cpu {

// The work comes in blocks; any partition of the range [0, blocks) gives the same bits.
int64_t normals_blocks(const NormalsArgs& args);

// Writes the elements of blocks [begin, end).
void normals(const NormalsArgs& args, int64_t begin, int64_t end);

// The instruction set in use: "avx512", "avx2" or "baseline". The best of the machine, or the one that the environment
// variable TDAS_OPS_CPU_ISA names; throws std::invalid_argument where that one cannot be had.
const char* instruction_set();

}  // namespace tdas_ops::cpu
