#include "tables.h"

#include <cmath>
#include <memory>
#include <mutex>

namespace tdas_ops::cpu {
namespace {

Twiddle turn(int64_t part, int64_t whole) {
  const double angle = 2.0 * M_PI * static_cast<double>(part % whole) / static_cast<double>(whole);
  return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
}

std::vector<Twiddle> turns_of(int radix, int part) {
  std::vector<Twiddle> turns;
  for (int j = 0; j < part; ++j)
    for (int k = 1; k < radix; ++k) turns.push_back(turn(int64_t{j} * k, int64_t{radix} * part));
  return turns;
}

std::vector<Twiddle> reals_of(int length) {
  std::vector<Twiddle> reals;
  for (int k = 0; k < length; ++k) reals.push_back(turn(k, int64_t{2} * length));
  return reals;
}

Tables make_tables() {
  Tables made;
  for (int length = 2; length <= max_size; length *= 2) {
    const int index = log2_of(length), radix = first_radix(length);
    made.stages[index] = turns_of(radix, length / radix);
    made.reals[index] = reals_of(length);
    for (int k = 0; k < length; ++k) made.places[index].push_back(static_cast<uint16_t>(reversed(k, length)));
  }
  return made;
}

// Butterflies and what a stage of each took an element, forward and back, in hundredths of a nanosecond (AVX-512). 16
// is dear: it needs all registers.
struct Butterfly {
  int radix;
  double cost;
};
constexpr Butterfly butterflies[] = {{2, 9.5},  {3, 10.0},  {4, 10.0},  {5, 12.0}, {6, 10.5},
                                     {8, 11.5}, {10, 13.0}, {12, 13.0}, {16, 20.0}};

// The cheapest stages, the largest radix first; empty where a prime is left that has no butterfly.
double cheapest(int length, int largest, std::vector<int>& radices) {
  radices.clear();
  if (length == 1) return 0.0;
  double best = INFINITY;
  for (const Butterfly& first : butterflies) {
    if (first.radix > largest || length % first.radix != 0) continue;
    std::vector<int> rest;
    const double cost = first.cost + cheapest(length / first.radix, first.radix, rest);
    if (cost >= best) continue;
    best = cost;
    radices = {first.radix};
    radices.insert(radices.end(), rest.begin(), rest.end());
  }
  return best;
}

std::vector<Twiddle> roots_of(int prime) {
  const int half = prime / 2, rows = (half + roots_at_once - 1) / roots_at_once * roots_at_once;
  std::vector<Twiddle> roots;
  for (int k = 1; k <= rows; ++k)
    for (int n = 1; n <= half; ++n) roots.push_back(k <= half ? turn(int64_t{n} * k, prime) : Twiddle{});
  return roots;
}

std::unique_ptr<const Plan> make_plan(int length) {
  auto made = std::make_unique<Plan>();
  made->length = length;
  int left = length;
  const auto add = [&](int radix, bool prime) {
    left /= radix;
    made->stages.push_back({radix, left, turns_of(radix, left), prime ? roots_of(radix) : std::vector<Twiddle>()});
  };
  for (int64_t prime = largest_prime(left); prime > 5; prime = largest_prime(left)) add(static_cast<int>(prime), true);
  std::vector<int> radices;
  cheapest(left, max_size, radices);
  for (const int radix : radices) add(radix, false);
  made->places.resize(length);
  made->frequencies.resize(length);
  for (int k = 0; k < length; ++k) {
    int place = 0, rest = k;
    for (const Stage& stage : made->stages) {
      place += rest % stage.radix * stage.part;
      rest /= stage.radix;
    }
    made->places[k] = static_cast<uint16_t>(place);
    made->frequencies[place] = static_cast<uint16_t>(k);
  }
  made->reals = reals_of(length);
  return made;
}

}  // namespace

const Tables& tables() {
  static const Tables made = make_tables();
  return made;
}

const Plan& plan_of(int length) {
  static std::array<std::unique_ptr<const Plan>, max_size + 1> plans;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (plans[length] == nullptr) plans[length] = make_plan(length);
  return *plans[length];
}

}  // namespace tdas_ops::cpu
