// The blocks of a launch: one after the other or, if it is cooperative and with SIMT_THREADS, at once.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "fibers.h"

extern "C" {
extern char __start_simt_shared[] __attribute__((weak));
extern char __stop_simt_shared[] __attribute__((weak));
}

namespace simt {

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

inline void added() {
  Residents& r = residents();
  r.progress.fetch_add(1, std::memory_order_relaxed);
  if (r.hold_each != 0 && r.additions.fetch_add(1, std::memory_order_relaxed) % r.hold_each == 0) hold();
}

inline void add_release(uint32_t* counter) {
  std::atomic_ref<uint32_t>(*counter).fetch_add(1, std::memory_order_release);
  added();
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
  r.count = launch.cooperative ? blocks : 1;
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

// Blocks that a device holds, whatever their kernel; the driver may have room for fewer.
inline int multiprocessors() { return setting("SIMT_MULTIPROCESSORS", 132); }
inline int blocks_of_multiprocessor() { return setting("SIMT_OCCUPANCY", 2); }
struct TooLarge {};

inline void run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel, bool cooperative) {
  const unsigned threads = block.x * block.y * block.z, blocks = grid.x * grid.y * grid.z;
  if (threads == 0 || threads > 1024) throw std::runtime_error("bad block size " + std::to_string(threads));
  const unsigned most_blocks = setting("SIMT_MOST_BLOCKS", std::numeric_limits<int>::max());
  if (blocks == 0 || grid.x > most_blocks || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("bad grid size");
  if (shared_bytes > most_shared_bytes) throw std::runtime_error("too much shared memory");
  const int held = setting("SIMT_HELD", multiprocessors() * blocks_of_multiprocessor());
  if (cooperative && blocks > static_cast<unsigned>(held)) throw TooLarge();
  std::mt19937 random(setting("SIMT_ORDER", 0));
  Launch launch{grid, block, shared_bytes, std::move(kernel), cooperative, {}, {}, {}};
  launch.blocks = ordered(blocks, random);
  launch.warps = ordered((threads + 31) / 32, random);
  launch.lanes = ordered(32, random);
  run_all(launch);
}

}  // namespace simt
