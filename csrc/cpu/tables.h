// Constants of the transforms, made once in a process: they depend on lengths alone. Index: log2 of the length.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../fft.h"

namespace tdas_ops::cpu {

constexpr int min_size = 32, max_size = 2048;  // H and W of the fused kernels, powers of two

constexpr int log2_of(int length) { return 31 - __builtin_clz(static_cast<unsigned>(length)); }

struct Tables {
  template <class T>
  using ByLength = std::array<std::vector<T>, log2_of(max_size) + 1>;

  // The first stage of a transform of this length, of radix R: exp(2 pi i j k / length), k = 1 .. R - 1 for every j.
  ByLength<Twiddle> stages;
  // exp(i pi k / length) of every frequency: it separates even and odd columns of a real row of twice the length.
  ByLength<Twiddle> reals;
  // The place of every frequency after a forward transform, and the frequency of every place: both are one table.
  ByLength<uint16_t> places;
};

const Tables& tables();

}  // namespace tdas_ops::cpu
