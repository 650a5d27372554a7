// Constants of the transforms, made once in a process: they depend on lengths alone. T is float or double.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../fft.h"

namespace tdas_ops::cpu {

constexpr int min_size = 32, max_size = 2048;  // H and W of the fused kernels
constexpr int max_prime = 256;                 // no factor of theirs is larger

constexpr int log2_of(int length) { return 31 - __builtin_clz(static_cast<unsigned>(length)); }
constexpr bool is_power_of_two(int64_t length) { return (length & (length - 1)) == 0; }

// Of powers of two, whose transforms are laid out at compile time. Index: log2 of the length.
template <class T>
struct TablesOf {
  using Twiddle = TwiddleOf<T>;
  template <class Each>
  using ByLength = std::array<std::vector<Each>, log2_of(max_size) + 1>;

  // The first stage of a transform of this length, of radix R: exp(2 pi i j k / length), k = 1 .. R - 1 for every j.
  ByLength<Twiddle> stages;
  // exp(i pi k / length) of every frequency: it separates even and odd columns of a real row of twice the length.
  ByLength<Twiddle> reals;
  // The place of every frequency after a forward transform, and the frequency of every place: both are one table.
  ByLength<uint16_t> places;
};

template <class T>
const TablesOf<T>& tables();

// A stage splits each line of radix * part elements into `radix` lines of `part` elements.
template <class T>
struct StageOf {
  using Twiddle = TwiddleOf<T>;
  int radix, part;
  // exp(2 pi i j k / (radix * part)), k = 1 .. radix - 1 for every j < part.
  std::vector<Twiddle> turns;
  // Of a radix without a butterfly of its own, an odd prime: exp(2 pi i n k / radix), 0 < n < radix / 2 for every
  // 0 < k < radix / 2, and then zeros for whole groups of `roots_at_once` k.
  std::vector<Twiddle> roots;
};
constexpr int roots_at_once = 4;

// The transform of any length, laid out at run time. Frequency k = r + radix q of a line goes to line r, place q.
template <class T>
struct PlanOf {
  int length;
  std::vector<StageOf<T>> stages;
  std::vector<uint16_t> places, frequencies;  // the place of every frequency, the frequency of every place
  std::vector<TwiddleOf<T>> reals;            // as in Tables
};

// Made when first asked for; `length` has no prime factor above max_prime.
template <class T>
const PlanOf<T>& plan_of(int length);

// The largest prime factor.
constexpr int64_t largest_prime(int64_t length) {
  int64_t largest = 1;
  for (int64_t prime = 2; length > 1; ++prime)
    for (; length % prime == 0; length /= prime) largest = prime;
  return largest;
}

}  // namespace tdas_ops::cpu
