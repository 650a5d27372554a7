// Division by a number known on the host, as one high multiply and three cheap instructions on the device.
#pragma once

#include <cstdint>

#include "../philox.h"

namespace tdas_ops::cuda {

// quotient(n) = floor(n / d) for every 32-bit n, 1 <= d < 2^32 (Granlund and Montgomery 1994): with
// l = ceil(log2 d) and m = floor(2^32 (2^l - d) / d) + 1, t = high(m n), the quotient is (t + (n - t) / 2^[l > 0]) /
// 2^(l-1).
class Divider {
 public:
  Divider() = default;
  explicit Divider(uint32_t divisor) {
    uint32_t log = 0;
    while ((uint64_t{1} << log) < divisor) ++log;
    multiplier_ = static_cast<uint32_t>(((((uint64_t{1} << log) - divisor) << 32) / divisor) + 1);
    shift_first_ = log > 0 ? 1 : 0;
    shift_last_ = log > 0 ? log - 1 : 0;
  }

  TDAS_OPS_INLINE uint32_t quotient(uint32_t n) const {
    const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(multiplier_) * n) >> 32);
    return (high + ((n - high) >> shift_first_)) >> shift_last_;
  }

 private:
  uint32_t multiplier_, shift_first_, shift_last_;
};

}  // namespace tdas_ops::cuda
