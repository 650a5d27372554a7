// Scratch for vectors.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "real.h"

namespace tdas_ops::cpu {
namespace {

// Floats on the boundary of a cache line. What they held is lost when there must be more of them.
class Scratch {
 public:
  Real* fit(int64_t count) {
    if (count > capacity_) {
      memory_.reset();  // first, so that both are never held at once
      memory_.reset(static_cast<Real*>(::operator new(count * sizeof(Real), alignment)));
      capacity_ = count;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(Real* p) const { ::operator delete(p, alignment); }
  };
  std::unique_ptr<Real, Free> memory_;
  int64_t capacity_ = 0;
};

}  // namespace
}  // namespace tdas_ops::cpu
