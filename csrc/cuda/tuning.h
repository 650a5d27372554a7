// Choices that only a GPU can decide, until one has: benchmarks/gpu_variants.txt has those that are compared. What is
// predicted is the share of 12 bytes an element at the bandwidth of a copy, by a model, of an H100 (3.0 TB/s) and an
// H200 (4.3 TB/s), for batches of 300 MB.
#pragma once

// Whether base, and v where it comes last, are asked for in the L2 cache before the transforms instead of waited for
// after them. At 128 x 128 predicted to bring PDS from 68 to 79 and 57 to 70 % to 79 to 94 and 65 to 82 %, TDAS from 78
// to 90 and 68 to 79 % to 98 and 95 %; elsewhere less, nowhere a loss.
#ifndef TDAS_OPS_PREFETCH
#define TDAS_OPS_PREFETCH 1
#endif

// Threads of a block of planes of 64 x 64, 128 or 256: one or two warps a scheduler that keep step, and share what the
// instruction cache fetches. The model knows no instruction cache and predicts a loss of PDS, from 96 to 99 and 87 to
// 96 % to 85 to 97 and 70 to 88 %: to be tried where warps stall for want of instructions.
#ifndef TDAS_OPS_BLOCK_OF_64
#define TDAS_OPS_BLOCK_OF_64 128
#endif

// Threads of a block of the passes over large planes, 128 or 256, of which a multiprocessor has 512: of more and
// smaller blocks some compute while others load and store. At 1024 x 1024 predicted to bring PDS from 37 to 43 and 30
// to 35 % to 45 to 52 and 37 to 44 %, both masks from 22 to 27 and 17 to 21 % to 27 to 32 and 21 to 25 %. Of columns of
// 2048 numbers a block of 128 has two, half a sector of memory each time.
#ifndef TDAS_OPS_LARGE_BLOCK
#define TDAS_OPS_LARGE_BLOCK 256
#endif

// Threads of a multiprocessor at once, on chip and in passes: 512 have 128 registers each, 640 have 96, 768 have 80. More
// of them hide more of what each waits for, and spill.
#ifndef TDAS_OPS_PLANE_THREADS
#define TDAS_OPS_PLANE_THREADS 512
#endif
#ifndef TDAS_OPS_LARGE_THREADS
#define TDAS_OPS_LARGE_THREADS 512
#endif

namespace tdas_ops::cuda {

constexpr bool prefetches = TDAS_OPS_PREFETCH;
constexpr int block_of_64 = TDAS_OPS_BLOCK_OF_64;
constexpr int large_block = TDAS_OPS_LARGE_BLOCK;
constexpr int plane_threads = TDAS_OPS_PLANE_THREADS;
constexpr int large_threads = TDAS_OPS_LARGE_THREADS;

static_assert(block_of_64 == 128 || block_of_64 == 256, "TDAS_OPS_BLOCK_OF_64 is 128 or 256");
static_assert(large_block == 128 || large_block == 256, "TDAS_OPS_LARGE_BLOCK is 128 or 256");

}  // namespace tdas_ops::cuda
