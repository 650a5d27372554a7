// Counts the instructions of the fused CPU kernels, one line a case: name, instructions, elements. The processor traps
// after every instruction while its trap flag is set, and the handler counts; so AVX-512 is counted too, no counters of
// the machine are needed, and the figure is the same every time.
#if defined(__x86_64__)
// Before the pragma, so that the standard library's inline functions keep the baseline.
#include <signal.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if TDAS_OPS_VECTOR_BYTES == 64
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c,prefer-vector-width=512")
#elif TDAS_OPS_VECTOR_BYTES == 32
#pragma GCC target("avx2,fma,f16c")
#endif
#include "../../csrc/cpu/plane_norms.h"
#include "../../csrc/cpu/plane_update.h"

namespace {

using namespace tdas_ops;
using cpu::Real;

volatile sig_atomic_t steps = 0;

void count(int) { steps = steps + 1; }

// Past the red zone of the caller.
__attribute__((noinline)) void set_trap_flag() {
  asm volatile("lea -256(%%rsp), %%rsp\n pushfq\n orq $0x100, (%%rsp)\n popfq\n lea 256(%%rsp), %%rsp" ::
                   : "memory", "cc");
}
__attribute__((noinline)) void clear_trap_flag() {
  asm volatile("lea -256(%%rsp), %%rsp\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n lea 256(%%rsp), %%rsp" ::
                   : "memory", "cc");
}

enum class Call { update, measure };

void run(const char* name, Call call, Filter filter, bool space, int64_t height, int64_t width) {
  const size_t size = static_cast<size_t>(height * width);
  const auto filled = [](size_t count) {  // aligned, so that no figure hangs on the allocator
    Real* values = static_cast<Real*>(std::aligned_alloc(64, (count * sizeof(Real) + 63) / 64 * 64));
    std::fill_n(values, count, Real(1));
    return values;
  };
  Real *out = filled(size), *x = filled(size), *v = filled(size), *A = filled(size);
  Real* R = filled(static_cast<size_t>(height * (width / 2 + 1)));
  const Real scale = 0.5;
  const int64_t seed = 1;
  const bool sampling = filter == Filter::drift || filter == Filter::noise;
  cpu::UpdateArgs args = {};
  args.filter = filter;
  args.batch = args.channels = 1;
  args.height = height;
  args.width = width;
  args.out = {out, element_of<Real>, {height * width, height * width, width, 1}};
  args.v = {v, element_of<Real>, {height * width, height * width, width, 1}};
  if (sampling) args.base = {x, element_of<Real>, {height * width, height * width, width, 1}};
  args.masks = {{R, space ? A : nullptr, nullptr}};
  args.d = args.n = &scale;
  if (sampling) args.seeds = &seed;
  double squares[1][2];
  const auto once = [&] {
    if (call == Call::update)
      cpu::update_planes(args, {}, 0, 1);
    else
      cpu::measure_planes(args, squares, {}, 0, 1);
  };
  once();  // makes tables and scratch
  steps = 0;
  set_trap_flag();
  once();
  clear_trap_flag();
  std::printf("%s%s\t%ld\t%zu\n", sizeof(Real) == 8 ? "float64 " : "", name, static_cast<long>(steps), size);
  for (Real* values : {out, x, v, A, R}) std::free(values);
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_handler = count;
  sigaction(SIGTRAP, &action, nullptr);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  run("drift 32x32", Call::update, Filter::drift, false, 32, 32);
  run("drift 64x64", Call::update, Filter::drift, false, 64, 64);
  run("drift, space mask 32x32", Call::update, Filter::drift, true, 32, 32);
  run("noise 32x32", Call::update, Filter::noise, false, 32, 32);
  run("noise, space mask 32x32", Call::update, Filter::noise, true, 32, 32);
  run("norms 32x32", Call::measure, Filter::drift, false, 32, 32);
  // Stages chosen at run time: three and five, no whole vectors, pairs of rows and a prime.
  run("drift 96x96", Call::update, Filter::drift, false, 96, 96);
#ifndef TDAS_OPS_DOUBLE  // the same sources: some cases are enough there
  run("precondition M 32x32", Call::update, Filter::M, false, 32, 32);
  run("drift, space mask 45x50", Call::update, Filter::drift, true, 45, 50);
  run("drift 37x33", Call::update, Filter::drift, false, 37, 33);
#if TDAS_OPS_VECTOR_BYTES == 64
  // Rows and columns of 256x256, which would take long; and a plane past the size of small ones.
  run("drift 256x32", Call::update, Filter::drift, false, 256, 32);
  run("drift 32x256", Call::update, Filter::drift, false, 32, 256);
  run("drift 1024x32", Call::update, Filter::drift, false, 1024, 32);
#endif
#endif
}
#else
int main() {}
#endif
