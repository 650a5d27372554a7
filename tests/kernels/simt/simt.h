// Runs CUDA kernels as C++ on a CPU, for functional tests: x86-64 or ucontext, GCC or Clang.
//
// Every thread of a block is a fiber of ONE operating-system thread, and blocks run one after another: no real
// concurrency, yet every ordering mistake that a permutation can show. Compiled with SIMT_THREADS, up to SIMT_RESIDENT
// blocks run at once, each on an operating-system thread of its own: of n threads the i-th runs blocks i, i + n, ...
//   - Barriers and shuffles are checked: one that a live thread misses, or reaches at another line, throws.
//   - Shared memory is filled with 0xFF (NaN as a float) before each block.
//   - SIMT_ORDER = fwd | rev | <number> permutes blocks, warps and lanes; a result that depends on it is a data race.
//   - Under the address sanitizer, accesses outside global buffers and dynamic shared memory are reported; under the
//     thread sanitizer, what one block writes and another touches with nothing between that orders the two.
//   - SIMT_HOLD = <n> holds a block after each n-th of its atomic additions, until all others wait for counters, are
//     held too, or are done: what must wait for the block, and does not, goes wrong every time. -<n> leaves out
//     additions that release: a block is held where it has taken something on. Blocks that all wait throw.
//   - SIMT_LATE = <i> holds the i-th block of the order before it begins, until all others wait.
//   - SIMT_MOST_BLOCKS is what a grid has room for in x, in the place of 2^31 - 1.
//   - A cooperative launch needs SIMT_THREADS and has all its blocks at once, at most SIMT_MULTIPROCESSORS (132) times
//     SIMT_OCCUPANCY (2).
// Kernels start through cudaLaunchKernelEx, as they do under nvcc. Missing: matrix units, asynchronous copies.
// Dynamic shared memory: SIMT_DYNAMIC_SHARED(type, name).
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_ASSEMBLY 1
#else
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define SIMT_SANITIZER(...) __VA_ARGS__
#else
#define SIMT_SANITIZER(...)
#endif

#ifdef SIMT_THREADS
#define SIMT_LOCAL thread_local
#else
#define SIMT_LOCAL
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __constant__ static
#define __shared__ static __attribute__((section("simt_shared")))
extern "C" {
extern char __start_simt_shared[] __attribute__((weak));
extern char __stop_simt_shared[] __attribute__((weak));
}

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
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

inline SIMT_LOCAL dim3 threadIdx, blockIdx, blockDim, gridDim;  // set before a fiber goes on

namespace simt {

enum class State { ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  State state = State::ready;
  int line = 0;           // of the barrier it waits at
  unsigned mask = 0;      // of the warp barrier it waits at
  unsigned index = 0;     // linear thread index
  unsigned shuffles = 0;  // parity selects one of two slots, so that one barrier a shuffle is enough
  dim3 thread;
};

constexpr size_t stack_bytes = 64 << 10;
constexpr size_t most_shared_bytes = 232448;

struct Machine {
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  void* scheduler_stack_pointer = nullptr;
  char* dynamic_shared = nullptr;
  std::function<void()> kernel;
  std::vector<uint64_t> shuffle_slots;  // [warp][parity][lane]
  std::string error;
  const void* sanitizer_stack = nullptr;
  size_t sanitizer_bytes = 0;
#ifndef SIMT_ASSEMBLY
  std::vector<ucontext_t> contexts;
  ucontext_t scheduler;
#endif
};

inline Machine& machine() {
  static SIMT_LOCAL Machine m;
  return m;
}

#ifdef SIMT_ASSEMBLY
// Swaps stacks: the callee-saved registers are all that a C++ call keeps. No system call, so some 10 ns.
__attribute__((naked, noinline, noipa)) static void swap_stacks(void**, void*) {
  asm volatile(
      "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\nmovq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
      "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
}
#define SIMT_TO_SCHEDULER(m) simt::swap_stacks(&m.current->stack_pointer, m.scheduler_stack_pointer)
#define SIMT_TO_FIBER(m) simt::swap_stacks(&m.scheduler_stack_pointer, m.current->stack_pointer)
#else
#define SIMT_TO_SCHEDULER(m) swapcontext(&m.contexts[m.current->index], &m.scheduler)
#define SIMT_TO_FIBER(m) swapcontext(&m.scheduler, &m.contexts[m.current->index])
#endif

inline void yield() {
  Machine& m = machine();
  SIMT_SANITIZER(void* fake_stack; __sanitizer_start_switch_fiber(
                     m.current->state == State::done ? nullptr : &fake_stack, m.sanitizer_stack, m.sanitizer_bytes);)
  SIMT_TO_SCHEDULER(m);
  SIMT_SANITIZER(__sanitizer_finish_switch_fiber(fake_stack, &m.sanitizer_stack, &m.sanitizer_bytes);)
}

inline void fiber_main() {
  Machine& m = machine();
  SIMT_SANITIZER(__sanitizer_finish_switch_fiber(nullptr, &m.sanitizer_stack, &m.sanitizer_bytes);)
  try {
    m.kernel();
  } catch (std::exception& e) {
    if (m.error.empty()) m.error = e.what();
  }
  m.current->state = State::done;
  yield();
  std::abort();
}

inline void resume(Fiber& fiber) {
  Machine& m = machine();
  m.current = &fiber;
  threadIdx = fiber.thread;
  SIMT_SANITIZER(void* fake_stack; __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, stack_bytes);)
  SIMT_TO_FIBER(m);
  SIMT_SANITIZER(__sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);)
}

inline void barrier(State kind, unsigned mask, int line) {
  Fiber& fiber = *machine().current;
  fiber.state = kind;
  fiber.mask = mask;
  fiber.line = line;
  yield();
}

inline int lane() { return static_cast<int>(machine().current->index & 31); }

template <class T>
T shuffle(unsigned mask, T value, int source, int line) {
  static_assert(sizeof(T) <= 8);
  Machine& m = machine();
  Fiber& fiber = *m.current;
  uint64_t* slots = &m.shuffle_slots[((fiber.index / 32) * 2 + (fiber.shuffles++ & 1)) * 32];
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  slots[lane()] = bits;
  barrier(State::at_warp_barrier, mask, line);
  if (!((mask >> (source & 31)) & 1)) {
    throw std::runtime_error("a shuffle reads a lane outside its mask, line " + std::to_string(line));
  }
  std::memcpy(&value, &slots[source & 31], sizeof(T));
  return value;
}

// Releases the lanes of each warp barrier that all of its mask have reached; true where there was one.
inline bool release_warp(unsigned warp) {
  Machine& m = machine();
  const unsigned first = warp * 32, last = std::min<unsigned>(first + 32, m.fibers.size());
  bool released = false;
  for (unsigned i = first; i < last; ++i) {
    const Fiber& waiting = m.fibers[i];
    if (waiting.state != State::at_warp_barrier) continue;
    bool all = true;
    for (unsigned j = first; j < last; ++j) {
      const Fiber& other = m.fibers[j];
      if (((waiting.mask >> (j & 31)) & 1) &&
          !(other.state == State::at_warp_barrier && other.line == waiting.line && other.mask == waiting.mask)) {
        all = false;
      }
    }
    if (!all) continue;
    released = true;
    const unsigned mask = waiting.mask;
    for (unsigned j = first; j < last; ++j) {
      if ((mask >> (j & 31)) & 1) m.fibers[j].state = State::ready;
    }
  }
  return released;
}

inline void run_block(const std::vector<unsigned>& warps, const std::vector<unsigned>& lanes) {
  Machine& m = machine();
  const unsigned threads = m.fibers.size();
  for (;;) {
    for (unsigned warp : warps) {
      do {
        for (unsigned l : lanes) {
          if (warp * 32 + l < threads && m.fibers[warp * 32 + l].state == State::ready) resume(m.fibers[warp * 32 + l]);
        }
        if (!m.error.empty()) throw std::runtime_error(m.error);
      } while (release_warp(warp));
    }
    unsigned done = 0, waiting = 0;
    int line = -1;
    bool same_line = true;
    for (const Fiber& fiber : m.fibers) {
      done += fiber.state == State::done;
      if (fiber.state != State::at_block_barrier) continue;
      ++waiting;
      same_line = same_line && (line < 0 || line == fiber.line);
      line = fiber.line;
    }
    if (done == threads) return;
    if (waiting + done < threads) {
      throw std::runtime_error("deadlock: not all lanes of its mask reach a warp barrier or shuffle");
    }
    if (!same_line || done > 0) throw std::runtime_error("divergent __syncthreads, line " + std::to_string(line));
    for (Fiber& fiber : m.fibers) fiber.state = State::ready;
  }
}

inline void place_fiber(Fiber& fiber, unsigned index, char* stack) {
  fiber = Fiber();
  fiber.index = index;
  fiber.thread = dim3(index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y);
  fiber.stack = stack;
#ifdef SIMT_ASSEMBLY
  // Six zeroed registers below the address that the first `ret` jumps to.
  char* top = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(stack) + stack_bytes - 64) & ~uintptr_t{15});
  void* entry = reinterpret_cast<void*>(&fiber_main);
  std::memset(top - 48, 0, 48);
  std::memcpy(top, &entry, 8);
  fiber.stack_pointer = top - 48;
#else
  Machine& m = machine();
  m.contexts.resize(m.fibers.size());
  ucontext_t& context = m.contexts[index];
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = stack_bytes;
  makecontext(&context, fiber_main, 0);
#endif
}

// 0, 1, ..., count - 1 in the order that SIMT_ORDER asks for.
inline std::vector<unsigned> ordered(unsigned count, std::mt19937& random) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  const char* asked = std::getenv("SIMT_ORDER");
  const std::string name = asked == nullptr ? "fwd" : asked;
  if (name == "rev") {
    std::reverse(order.begin(), order.end());
  } else if (name != "fwd") {
    std::shuffle(order.begin(), order.end(), random);
  }
  return order;
}

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> kernel;
  bool cooperative;                            // all blocks are there at once
  std::vector<unsigned> blocks, warps, lanes;  // in the order in which they run
};

#ifdef SIMT_THREADS
inline void wait_if_late(size_t place);
#else
inline void wait_if_late(size_t) {}
#endif

// Runs every `step`-th block, one after the other: which thread has which block is not left to chance.
inline void run_blocks(const Launch& launch, size_t first = 0, size_t step = 1) {
  Machine& m = machine();
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  static SIMT_LOCAL std::vector<char> stacks;
  if (stacks.size() < threads * stack_bytes) stacks.resize(threads * stack_bytes);
  gridDim = launch.grid;
  blockDim = launch.block;
  m.kernel = launch.kernel;
  m.fibers.assign(threads, Fiber());
  m.shuffle_slots.assign(launch.warps.size() * 64, 0);
  m.error.clear();
  for (size_t i = first; i < launch.blocks.size(); i += step) {
    const unsigned b = launch.blocks[i];
    blockIdx = dim3(b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / launch.grid.x / launch.grid.y);
    std::vector<char> shared(launch.shared_bytes + 16, static_cast<char>(0xFF));
    m.dynamic_shared = shared.data() + (16 - reinterpret_cast<uintptr_t>(shared.data()) % 16) % 16;
    if (__start_simt_shared) std::memset(__start_simt_shared, 0xFF, __stop_simt_shared - __start_simt_shared);
    for (unsigned t = 0; t < threads; ++t) place_fiber(m.fibers[t], t, stacks.data() + t * stack_bytes);
    wait_if_late(i);
    run_block(launch.warps, launch.lanes);
  }
}

inline int setting(const char* name, int otherwise) {
  const char* asked = std::getenv(name);
  return asked == nullptr ? otherwise : std::atoi(asked);
}

// Which mistake a copy of the kernels makes, of those planted in it (tests/kernels/simt_library.py), by its number; 0: none.
inline int mistake = setting("SIMT_MISTAKE", 0);
__attribute__((always_inline)) constexpr bool planted(int number) {
  return !std::is_constant_evaluated() && number == mistake;
}

#ifdef SIMT_THREADS

// The threads that run blocks. Nothing here orders what they do to other memory: all is relaxed.
struct Residents {
  static constexpr uint64_t running = 0, done = ~uint64_t{0}, held = uint64_t{1} << 62;
  std::unique_ptr<std::atomic<uint64_t>[]> states;  // of each: one of these, or the progress that it waits for more of
  int count = 0, hold_each = 0, late = -1;
  std::atomic<uint64_t> progress{1};  // counters that were added to
  std::atomic<unsigned> additions{0};
  std::atomic<bool> failed{false};

  // Whether at one moment all wait for counters or are done; those from `held_from` on may be held instead.
  bool all_wait(int held_from) const {
    const uint64_t now = progress.load(std::memory_order_relaxed);
    for (int i = 0; i < count; ++i) {
      const uint64_t state = states[i].load(std::memory_order_relaxed);
      if (state != now && state != done && !(state == held && i >= held_from)) return false;
    }
    return progress.load(std::memory_order_relaxed) == now;
  }
};

inline Residents& residents() {
  static Residents r;
  return r;
}
inline thread_local int own_index;
inline thread_local uint64_t seen_progress;

inline void set_state(uint64_t state) { residents().states[own_index].store(state, std::memory_order_relaxed); }

// Until all others wait.
inline void hold() {
  Residents& r = residents();
  set_state(Residents::held);
  do {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  } while (!r.all_wait(own_index) && !r.failed.load(std::memory_order_relaxed));
  set_state(Residents::running);
}

inline void wait_if_late(size_t place) {
  if (static_cast<int>(place) == residents().late) hold();
}

inline void added(bool releases = false) {
  Residents& r = residents();
  r.progress.fetch_add(1, std::memory_order_relaxed);
  const int each = std::abs(r.hold_each);
  if (each == 0 || (releases && r.hold_each < 0)) return;
  if (r.additions.fetch_add(1, std::memory_order_relaxed) % each == 0) hold();
}

inline void add_release(uint32_t* counter) {
  std::atomic_ref<uint32_t>(*counter).fetch_add(1, std::memory_order_release);
  added(true);
}

inline uint32_t load_acquire(const uint32_t* counter) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(counter)).load(std::memory_order_acquire);
}

inline uint32_t load_relaxed(const uint32_t* counter) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(counter)).load(std::memory_order_relaxed);
}

inline void pause() {
  Residents& r = residents();
  set_state(seen_progress);  // of before the counter was read in vain
  seen_progress = r.progress.load(std::memory_order_relaxed);
  if (r.all_wait(r.count) || r.failed.load(std::memory_order_relaxed))
    throw std::runtime_error("deadlock: all blocks wait");
  std::this_thread::sleep_for(std::chrono::microseconds(20));
}

inline void run_all(const Launch& launch) {
  Residents& r = residents();
  const int blocks = static_cast<int>(launch.blocks.size());
  r.count = launch.cooperative ? blocks : std::min(setting("SIMT_RESIDENT", 1), blocks);
  r.hold_each = setting("SIMT_HOLD", 0);
  r.late = setting("SIMT_LATE", -1);
  r.states = std::make_unique<std::atomic<uint64_t>[]>(r.count);
  r.failed = false;
  r.additions = 0;
  if (r.count == 1) {
    own_index = 0;
    run_blocks(launch);
    return;
  }
  std::mutex mutex;
  std::string error;
  std::vector<std::thread> threads;
  for (int i = 0; i < r.count; ++i)
    threads.emplace_back([&, i] {
      own_index = i;
      try {
        run_blocks(launch, i, r.count);
      } catch (std::exception& e) {
        const std::lock_guard lock(mutex);
        if (error.empty()) error = e.what();
        r.failed = true;
      }
      set_state(Residents::done);
    });
  for (std::thread& thread : threads) thread.join();
  if (!error.empty()) throw std::runtime_error(error);
}

#else

inline void added() {}
inline void add_release(uint32_t* counter) { ++*counter; }
inline uint32_t load_acquire(const uint32_t* counter) { return *counter; }
inline uint32_t load_relaxed(const uint32_t* counter) { return *counter; }
inline void pause() { throw std::runtime_error("deadlock: the only block that runs waits"); }
inline void run_all(const Launch& launch) { run_blocks(launch); }

#endif

// Blocks that a device holds, whatever their kernel.
inline int multiprocessors() { return setting("SIMT_MULTIPROCESSORS", 132); }
inline int blocks_of_multiprocessor() { return setting("SIMT_OCCUPANCY", 2); }

inline void run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel, bool cooperative) {
  const unsigned threads = block.x * block.y * block.z, blocks = grid.x * grid.y * grid.z;
  if (threads == 0 || threads > 1024) throw std::runtime_error("bad block size " + std::to_string(threads));
  const unsigned most_blocks = setting("SIMT_MOST_BLOCKS", std::numeric_limits<int>::max());
  if (blocks == 0 || grid.x > most_blocks || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("bad grid size");
  if (shared_bytes > most_shared_bytes) throw std::runtime_error("too much shared memory");
  if (cooperative && blocks > static_cast<unsigned>(multiprocessors() * blocks_of_multiprocessor()))
    throw std::runtime_error("more blocks than there are at once");
  std::mt19937 random(setting("SIMT_ORDER", 0));
  Launch launch{grid, block, shared_bytes, std::move(kernel), cooperative, {}, {}, {}};
  launch.blocks = ordered(blocks, random);
  launch.warps = ordered((threads + 31) / 32, random);
  launch.lanes = ordered(32, random);
  run_all(launch);
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

// The part of the runtime that kernels are launched with.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
enum cudaLaunchAttributeID { cudaLaunchAttributeIgnore, cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= static_cast<int>(simt::most_shared_bytes) ? cudaSuccess : cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = simt::blocks_of_multiprocessor();
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* target, int byte, size_t count, cudaStream_t) {
  std::memset(target, byte, count);
  return cudaSuccess;
}

namespace simt {
inline std::string& last_error() {
  static std::string text;
  return text;
}
inline int& launches() {
  static int count = 0;
  return count;
}
}  // namespace simt

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  ++simt::launches();
  try {
    bool cooperative = false;
    for (unsigned i = 0; i < launch->numAttrs; ++i)
      cooperative =
          cooperative || (launch->attrs[i].id == cudaLaunchAttributeCooperative && launch->attrs[i].val.cooperative);
    const auto run = [&] { kernel(arguments...); };
    simt::run(launch->gridDim, launch->blockDim, launch->dynamicSmemBytes, run, cooperative);
    return cudaSuccess;
  } catch (std::exception& e) {
    simt::last_error() = e.what();
    return cudaErrorLaunchFailure;
  }
}
