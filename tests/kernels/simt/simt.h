// Runs CUDA kernels as C++ on a CPU, for functional tests: x86-64 or ucontext, GCC or Clang.
//
// Every thread of a block is a fiber of ONE operating-system thread, and blocks run one after another: no real
// concurrency, yet every ordering mistake that a permutation can show. Compiled with SIMT_THREADS, the blocks of a
// cooperative launch run at once, each on an operating-system thread of its own.
//   - Barriers and shuffles are checked: one that a live thread misses, or reaches at another line, throws.
//   - Shared memory is filled with 0xFF (NaN as a float) before each block.
//   - SIMT_ORDER = fwd | rev | <number> permutes blocks, warps and lanes; a result that depends on it is a data race.
//   - Under the address sanitizer, accesses outside global buffers and dynamic shared memory are reported; under the
//     thread sanitizer, what one block writes and another touches with nothing between that orders the two.
//   - SIMT_HOLD = <n> holds a block after each n-th of its atomic additions, until all others wait for counters, are
//     held too, or are done: what must wait for the block, and does not, goes wrong every time. Blocks that all wait
//     throw.
//   - SIMT_LATE = <i> holds the i-th block of the order before it begins, until all others wait.
//   - SIMT_MOST_BLOCKS is what a grid has room for in x, in the place of 2^31 - 1.
//   - A cooperative launch needs SIMT_THREADS. The device says that it holds SIMT_MULTIPROCESSORS (132) times
//     SIMT_OCCUPANCY (2) blocks; more than that, or than SIMT_HELD, its driver refuses.
// Kernels start through cudaLaunchKernelEx, as they do under nvcc. Missing: matrix units, asynchronous copies.
// Dynamic shared memory: SIMT_DYNAMIC_SHARED(type, name).
#pragma once

#include <atomic>
#include <cmath>
#include <type_traits>

#include "blocks.h"
#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __constant__ static
#define __shared__ static __attribute__((section("simt_shared")))

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace simt {

// Which of the mistakes that are planted in a copy of the kernels it makes (simt_library.py), by number; 0: none.
inline int mistake = setting("SIMT_MISTAKE", 0);
__attribute__((always_inline)) constexpr bool planted(int number) {
  return !std::is_constant_evaluated() && number == mistake;
}

}  // namespace simt

extern "C" __attribute__((used)) inline void simt_plant(int number) { simt::mistake = number; }

#define SIMT_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(simt::machine().dynamic_shared)
#define __syncthreads() simt::barrier(simt::State::at_block_barrier, 0, __LINE__)
#define __syncwarp() simt::barrier(simt::State::at_warp_barrier, 0xffffffffu, __LINE__)
#define __shfl_sync(mask, value, source) simt::shuffle(mask, value, source, __LINE__)
#define __shfl_xor_sync(mask, value, bits) simt::shuffle(mask, value, simt::lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, n) \
  simt::shuffle(mask, value, simt::lane() + (n) > 31 ? simt::lane() : simt::lane() + (n), __LINE__)

template <class T>
T atomicAdd(T* target, T value) {
  const T before = std::atomic_ref<T>(*target).fetch_add(value, std::memory_order_relaxed);
  simt::added();
  return before;
}
template <class T>
T __ldg(const T* source) {
  return *source;
}
template <class T>
T __ldcg(const T* source) {
  return *source;
}
template <class T>
T __ldcs(const T* source) {
  return *source;
}
template <class T>
void __stcs(T* target, T value) {
  *target = value;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
