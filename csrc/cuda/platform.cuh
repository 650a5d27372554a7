// What the kernels need from the compiler and has no name in CUDA C++ alone; outside nvcc (tests run the kernels as
// C++) the same in plain C++.
#pragma once

#include <cstdint>
#include <cstring>

#define TDAS_OPS_DEVICE __device__ __forceinline__

#ifdef __CUDACC__
#define TDAS_OPS_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define TDAS_OPS_NO_UNROLL _Pragma("unroll 1")
#else
#define TDAS_OPS_SHARED(type, name) SIMT_DYNAMIC_SHARED(type, name)
#define TDAS_OPS_NO_UNROLL
#endif

namespace tdas_ops::cuda {

TDAS_OPS_DEVICE float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

TDAS_OPS_DEVICE float from_bfloat16(uint32_t low_bits) { return from_bits(low_bits << 16); }

#ifdef __CUDACC__

TDAS_OPS_DEVICE float from_float16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

TDAS_OPS_DEVICE uint16_t to_float16(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

TDAS_OPS_DEVICE uint16_t to_bfloat16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// The same value, of which the compiler knows nothing: it keeps what is made from it out of registers until needed.
TDAS_OPS_DEVICE uint32_t opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

// threadIdx.x, read anew each time.
TDAS_OPS_DEVICE int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// One more, after all that this thread, or others before a barrier with it, wrote to global memory.
TDAS_OPS_DEVICE void add_release(uint32_t* counter) {
  asm volatile("red.release.gpu.add.u32 [%0], 1;" : : "l"(counter) : "memory");
}

// What was written before the additions that it finds is there for this thread, and others after a barrier with it.
TDAS_OPS_DEVICE uint32_t load_acquire(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// While waiting for another block.
TDAS_OPS_DEVICE void pause() { __nanosleep(100); }

// What a counter has come to, and nothing about what was written before.
TDAS_OPS_DEVICE uint32_t load_relaxed(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

#else

inline float from_float16(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<float>(value);
}

inline uint16_t to_float16(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 64);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline uint32_t opaque(uint32_t value) { return value; }
inline int thread_index() { return static_cast<int>(threadIdx.x); }
inline void add_release(uint32_t* counter) { simt::add_release(counter); }
inline uint32_t load_acquire(const uint32_t* counter) { return simt::load_acquire(counter); }
inline void pause() { simt::pause(); }
inline uint32_t load_relaxed(const uint32_t* counter) { return simt::load_relaxed(counter); }

#endif

// Waits until a counter that grows has come to `count`, as load_acquire finds it. That empties the L1 cache of the
// multiprocessor, which a wait must not do over and over.
TDAS_OPS_DEVICE void wait_until(const uint32_t* counter, uint32_t count) {
  const auto lacks = [&](uint32_t value) { return static_cast<int32_t>(value - count) < 0; };
  while (lacks(load_acquire(counter)))
    while (lacks(load_relaxed(counter))) pause();
}

}  // namespace tdas_ops::cuda
