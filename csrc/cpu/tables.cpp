#include "tables.h"

#include <cmath>
#include <memory>
#include <mutex>

namespace tdas_ops::cpu {
namespace {

template <class T>
TwiddleOf<T> turn(int64_t part, int64_t whole) {
  const double angle = 2.0 * M_PI * static_cast<double>(part % whole) / static_cast<double>(whole);
  return {static_cast<T>(std::cos(angle)), static_cast<T>(std::sin(angle))};
}

template <class T>
std::vector<TwiddleOf<T>> turns_of(int radix, int part) {
  std::vector<TwiddleOf<T>> turns;
  for (int j = 0; j < part; ++j)
    for (int k = 1; k < radix; ++k) turns.push_back(turn<T>(int64_t{j} * k, int64_t{radix} * part));
  return turns;
}

template <class T>
std::vector<TwiddleOf<T>> reals_of(int length) {
  std::vector<TwiddleOf<T>> reals;
  for (int k = 0; k < length; ++k) reals.push_back(turn<T>(k, int64_t{2} * length));
  return reals;
}

template <class T>
TablesOf<T> make_tables() {
  TablesOf<T> made;
  for (int length = 2; length <= max_size; length *= 2) {
    const int index = log2_of(length), radix = first_radix(length);
    made.stages[index] = turns_of<T>(radix, length / radix);
    made.reals[index] = reals_of<T>(length);
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

template <class T>
std::vector<TwiddleOf<T>> roots_of(int prime) {
  const int half = prime / 2, rows = (half + roots_at_once - 1) / roots_at_once * roots_at_once;
  std::vector<TwiddleOf<T>> roots;
  for (int k = 1; k <= rows; ++k)
    for (int n = 1; n <= half; ++n) roots.push_back(k <= half ? turn<T>(int64_t{n} * k, prime) : TwiddleOf<T>{});
  return roots;
}

template <class T>
std::unique_ptr<const PlanOf<T>> make_plan(int length) {
  auto made = std::make_unique<PlanOf<T>>();
  made->length = length;
  int left = length;
  const auto add = [&](int radix, bool prime) {
    left /= radix;
    made->stages.push_back(
        {radix, left, turns_of<T>(radix, left), prime ? roots_of<T>(radix) : std::vector<TwiddleOf<T>>()});
  };
  for (int64_t prime = largest_prime(left); prime > 5; prime = largest_prime(left)) add(static_cast<int>(prime), true);
  std::vector<int> radices;
  cheapest(left, max_size, radices);
  for (const int radix : radices) add(radix, false);
  made->places.resize(length);
  made->frequencies.resize(length);
  for (int k = 0; k < length; ++k) {
    int place = 0, rest = k;
    for (const StageOf<T>& stage : made->stages) {
      place += rest % stage.radix * stage.part;
      rest /= stage.radix;
    }
    made->places[k] = static_cast<uint16_t>(place);
    made->frequencies[place] = static_cast<uint16_t>(k);
  }
  made->reals = reals_of<T>(length);
  return made;
}

}  // namespace

template <class T>
const TablesOf<T>& tables() {
  static const TablesOf<T> made = make_tables<T>();
  return made;
}

template <class T>
const PlanOf<T>& plan_of(int length) {
  static std::array<std::unique_ptr<const PlanOf<T>>, max_size + 1> plans;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (plans[length] == nullptr) plans[length] = make_plan<T>(length);
  return *plans[length];
}

template const TablesOf<float>& tables();
template const TablesOf<double>& tables();
template const PlanOf<float>& plan_of(int length);
template const PlanOf<double>& plan_of(int length);

}  // namespace tdas_ops::cpu
