// The threads of a block, each a fiber of the operating-system thread that runs the block: barriers and shuffles.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
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

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

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

}  // namespace simt
