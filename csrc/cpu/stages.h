// Transforms of `lanes` lines at once of any length that has a Plan, stage by stage at run time. Forward leaves
// frequency k at plan.places[k], inverse starts from there.
#pragma once

#include <type_traits>

#include "tables.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

// `lines` lines, one behind the other. The last stage turns nothing.
template <int R, bool inverse, bool turns>
__attribute__((noinline)) void butterfly_stage(Real* __restrict line, int lines, const Stage& stage) {
  const int64_t M = stage.part;
  for (; lines > 0; --lines, line += R * M * line_step) {
    const Twiddle* turn = stage.turns.data();
    for (int64_t j = 0; j < M; ++j, turn += R - 1) {
      Complexes x[R];
      load_elements(x, line, j, M);
      if constexpr (inverse && turns) {
        TDAS_OPS_UNROLL
        for (int k = 1; k < R; ++k) x[k] = turned<true>(x[k], turn[k - 1]);
      }
      butterfly<R, inverse>(x);
      if constexpr (!inverse && turns) {
        TDAS_OPS_UNROLL
        for (int k = 1; k < R; ++k) x[k] = turned<false>(x[k], turn[k - 1]);
      }
      store_elements(line, j, M, x);
    }
  }
}

// Frequencies k and R - k, for `roots_at_once` k from `first` on: the sums and differences of elements n and R - n
// times cosines and sines.
template <bool inverse>
TDAS_OPS_INLINE void prime_frequencies(Real* line, int64_t j, int first, Complexes zero, const Real* sums,
                                       const Real* differences, const Stage& stage) {
  constexpr int group = roots_at_once;
  const int half = stage.radix / 2;
  const Twiddle* roots = stage.roots.data() + (first - 1) * half;
  Complexes even[group], odd[group];
  TDAS_OPS_UNROLL
  for (int i = 0; i < group; ++i) {
    even[i] = zero;
    odd[i] = Complexes{};
  }
  for (int n = 0; n < half; ++n) {
    const Complexes sum = load_element(sums, n), difference = load_element(differences, n);
    TDAS_OPS_UNROLL
    for (int i = 0; i < group; ++i) {
      const Twiddle root = roots[i * half + n];
      even[i] = {even[i].re + root.cos * sum.re, even[i].im + root.cos * sum.im};
      odd[i] = {odd[i].re + root.sin * difference.re, odd[i].im + root.sin * difference.im};
    }
  }
  const auto store_turned = [&](int k, Complexes x) {
    if (!inverse && stage.part > 1) x = turned<false>(x, stage.turns[j * (stage.radix - 1) + k - 1]);
    store_element(line, j + int64_t{k} * stage.part, x);
  };
  TDAS_OPS_UNROLL
  for (int i = 0; i < group; ++i) {
    const int k = first + i;
    if (k > half) break;
    const Complexes turn = quarter<inverse>(odd[i]);
    store_turned(k, even[i] + turn);
    store_turned(stage.radix - k, even[i] - turn);
  }
}

// The same of an odd prime, by its definition: (R - 1)^2 products of numbers.
template <bool inverse>
__attribute__((noinline)) void prime_stage(Real* __restrict line, int lines, const Stage& stage) {
  const int R = stage.radix, M = stage.part;
  alignas(64) Real sums[max_prime / 2 * line_step], differences[max_prime / 2 * line_step];
  for (; lines > 0; --lines, line += int64_t{R} * M * line_step)
    for (int64_t j = 0; j < M; ++j) {
      const auto element = [&](int n) {
        const Complexes x = load_element(line, j + int64_t{n} * M);
        return inverse && M > 1 ? turned<true>(x, stage.turns[j * (R - 1) + n - 1]) : x;
      };
      const Complexes zero = load_element(line, j);
      Complexes total = zero;
      for (int n = 1; n <= R / 2; ++n) {
        const Complexes a = element(n), b = element(R - n), sum = a + b;
        store_element(sums, n - 1, sum);
        store_element(differences, n - 1, a - b);
        total = total + sum;
      }
      store_element(line, j, total);
      for (int first = 1; first <= R / 2; first += roots_at_once)
        prime_frequencies<inverse>(line, j, first, zero, sums, differences, stage);
    }
}

template <bool inverse>
void run_stage(Real* line, int lines, const Stage& stage) {
  const auto run = [&](auto radix) {
    constexpr int R = decltype(radix)::value;
    (stage.part > 1 ? butterfly_stage<R, inverse, true> : butterfly_stage<R, inverse, false>)(line, lines, stage);
  };
  switch (stage.radix) {
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    case 4:
      return run(std::integral_constant<int, 4>());
    case 5:
      return run(std::integral_constant<int, 5>());
    case 6:
      return run(std::integral_constant<int, 6>());
    case 8:
      return run(std::integral_constant<int, 8>());
    case 10:
      return run(std::integral_constant<int, 10>());
    case 12:
      return run(std::integral_constant<int, 12>());
    case 16:
      return run(std::integral_constant<int, 16>());
    default:
      return prime_stage<inverse>(line, lines, stage);
  }
}

// Forward, middle(line, place, count) on what the last two stages make of it, inverse; each direction if asked for.
// Depth first: a part is finished while it is in the cache.
template <class Middle>
void sandwich_stages(const Plan& plan, size_t at, Real* line, int place, int lines, bool forward, bool inverse,
                     const Middle& middle) {
  const Stage& stage = plan.stages[at];
  if (forward) run_stage<false>(line, lines, stage);
  if (at + 1 == plan.stages.size())
    middle(line, place, lines * stage.radix);
  else if (at + 2 == plan.stages.size())
    sandwich_stages(plan, at + 1, line, place, stage.radix, forward, inverse, middle);
  else
    for (int part = 0; part < stage.radix; ++part) {
      const int first = part * stage.part;
      sandwich_stages(plan, at + 1, line + first * line_step, place + first, 1, forward, inverse, middle);
    }
  if (inverse) run_stage<true>(line, lines, stage);
}

void nothing(Real*, int, int) {}

void forward_line(const Plan& plan, Real* line) { sandwich_stages(plan, 0, line, 0, 1, true, false, nothing); }
void inverse_line(const Plan& plan, Real* line) { sandwich_stages(plan, 0, line, 0, 1, false, true, nothing); }

// Rows of even width 2 M, columns 2n and 2n + 1 as element n of M: to twice the spectrum's first M frequencies, 0
// carrying M as well, and back. See `separate_zero`.
void separate_rows(const Real* line, Real* spectrum, const Plan& plan) {
  const int M = plan.length;
  const uint16_t* places = plan.places.data();
  const Complexes zero = load_element(line, 0);
  store_element(spectrum, 0, {zero.re + zero.im, zero.re - zero.im});
  for (int k = 1; 2 * k < M; ++k) {
    Complexes a = load_element(line, places[k]), b = load_element(line, places[M - k]);
    separate(a, b, plan.reals[k]);
    store_element(spectrum, k, a);
    store_element(spectrum, M - k, b);
  }
  if (M % 2 != 0) return;
  const Complexes middle = load_element(line, places[M / 2]);
  store_element(spectrum, M / 2, {2.0f * middle.re, -2.0f * middle.im});
}

void join_rows(const Real* spectrum, Real* line, const Plan& plan) {
  const int M = plan.length;
  const uint16_t* places = plan.places.data();
  const Complexes zero = load_element(spectrum, 0);
  store_element(line, 0, {zero.re + zero.im, zero.re - zero.im});
  for (int k = 1; 2 * k < M; ++k) {
    Complexes a = load_element(spectrum, k), b = load_element(spectrum, M - k);
    join(a, b, plan.reals[k]);
    store_element(line, places[k], a);
    store_element(line, places[M - k], b);
  }
  if (M % 2 != 0) return;
  const Complexes middle = load_element(spectrum, M / 2);
  store_element(line, places[M / 2], {2.0f * middle.re, -2.0f * middle.im});
}

// Rows of odd width W, two as one complex row: to twice the spectra of both, (W + 1) / 2 frequencies each, and back to
// the rows themselves.
void separate_pair(const Real* line, Real* first, Real* second, const Plan& plan) {
  const int W = plan.length;
  const uint16_t* places = plan.places.data();
  const Complexes zero = load_element(line, 0);
  store_element(first, 0, {2.0f * zero.re, Floats{}});
  store_element(second, 0, {2.0f * zero.im, Floats{}});
  for (int k = 1; 2 * k < W; ++k) {
    const Complexes a = load_element(line, places[k]), b = conj(load_element(line, places[W - k]));
    store_element(first, k, a + b);
    store_element(second, k, quarter<false>(a - b));
  }
}

void join_pair(const Real* first, const Real* second, Real* line, const Plan& plan) {
  const int W = plan.length;
  const uint16_t* places = plan.places.data();
  store_element(line, 0, {load_element(first, 0).re, load_element(second, 0).re});
  for (int k = 1; 2 * k < W; ++k) {
    const Complexes a = load_element(first, k), b = quarter<true>(load_element(second, k));
    store_element(line, places[k], a + b);
    store_element(line, places[W - k], conj(a - b));
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
