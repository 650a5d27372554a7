// Scratch for vectors.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace tdas_ops::cpu {
namespace {

// Floats on the boundary of a cache line. What they held is lost when there must be more of them.
class Scratch {
 public:
  float* fit(int64_t count) {
    if (count > capacity_) {
      memory_.reset();  // first, so that both are never held at once
      memory_.reset(static_cast<float*>(::operator new(count * sizeof(float), alignment)));
      capacity_ = count;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, alignment); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t capacity_ = 0;
};

}  // namespace
}  // namespace tdas_ops::cpu
