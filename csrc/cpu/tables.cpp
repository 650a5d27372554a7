#include "tables.h"

#include <cmath>

namespace tdas_ops::cpu {
namespace {

Twiddle turn(int64_t part, int64_t whole) {
  const double angle = 2.0 * M_PI * static_cast<double>(part % whole) / static_cast<double>(whole);
  return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
}

Tables make_tables() {
  Tables made;
  for (int length = 2; length <= max_size; length *= 2) {
    const int index = log2_of(length), radix = first_radix(length);
    for (int j = 0; j < length / radix; ++j)
      for (int k = 1; k < radix; ++k) made.stages[index].push_back(turn(int64_t{j} * k, length));
    for (int k = 0; k < length; ++k) {
      made.places[index].push_back(static_cast<uint16_t>(reversed(k, length)));
      made.reals[index].push_back(turn(k, 2 * length));
    }
  }
  return made;
}

}  // namespace

const Tables& tables() {
  static const Tables made = make_tables();
  return made;
}

}  // namespace tdas_ops::cpu
