// Tensors of torch through its stable ABI, and what the ops ask of torch beside them. A std::invalid_argument is a
// ValueError in Python, a std::runtime_error a RuntimeError.
#pragma once

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "torch_abi.h"

namespace tdas_ops {

using Sizes = std::span<const int64_t>;

std::string shown(Sizes sizes);            // such as "[2, 3]"
std::string name_of_dtype(int32_t dtype);  // such as "Float"

// Of texts and whole numbers.
template <class Error = std::invalid_argument, class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  std::string message;
  const auto add = [&](const auto& part) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(part)>>)
      message += std::to_string(part);
    else
      message += part;
  };
  (add(parts), ...);
  throw Error(message);
}

// The message is made only where the condition does not hold.
#define TDAS_OPS_CHECK(condition, ...) ((condition) ? static_cast<void>(0) : ::tdas_ops::fail(__VA_ARGS__))

[[noreturn, gnu::cold]] void torch_failed(const char* call);

// A call into torch that has to succeed.
#define TDAS_OPS_TORCH(call) ((call) == 0 ? static_cast<void>(0) : ::tdas_ops::torch_failed(#call))

// The numbers by which the torch at hand knows these.
namespace dtype {
inline const int32_t float32 = aoti_torch_dtype_float32(), float64 = aoti_torch_dtype_float64(),
                     bfloat16 = aoti_torch_dtype_bfloat16(), float16 = aoti_torch_dtype_float16(),
                     complex64 = aoti_torch_dtype_complex64(), complex128 = aoti_torch_dtype_complex128(),
                     int64 = aoti_torch_dtype_int64();
}  // namespace dtype
inline const int32_t cpu_device = aoti_torch_device_type_cpu();

struct Device {
  int32_t type, index;
  bool operator==(const Device&) const = default;
};

std::string shown(Device device);  // such as "cuda:0"

// Owns a reference to a tensor of torch.
class Tensor {
 public:
  explicit Tensor(AtenTensorHandle owned) : handle_(owned) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  // Contiguous and not initialised.
  static Tensor empty(Sizes sizes, int32_t dtype, Device device);

  // The same tensor where it is contiguous and has this dtype, otherwise a copy that is so.
  Tensor contiguous(int32_t dtype) const;
  Tensor contiguous() const { return contiguous(dtype()); }

  // Another reference to the same tensor.
  Tensor shared() const;

  void copy_from(const Tensor& other) const { TDAS_OPS_TORCH(aoti_torch_copy_(handle_, other.handle_, 0)); }

  int64_t dim() const { return get<int64_t>(aoti_torch_get_dim); }
  int64_t numel() const { return get<int64_t>(aoti_torch_get_numel); }
  Sizes sizes() const { return {get<int64_t*>(aoti_torch_get_sizes), static_cast<size_t>(dim())}; }
  Sizes strides() const { return {get<int64_t*>(aoti_torch_get_strides), static_cast<size_t>(dim())}; }
  int32_t dtype() const { return get<int32_t>(aoti_torch_get_dtype); }
  bool is_contiguous() const { return get<bool>(aoti_torch_is_contiguous); }
  Device device() const {
    const int32_t type = get<int32_t>(aoti_torch_get_device_type);
    return {type, type == cpu_device ? 0 : get<int32_t>(aoti_torch_get_device_index)};
  }

  template <class T = void>
  const T* const_data() const {
    return static_cast<const T*>(get<const void*>(torch_get_const_data_ptr));
  }
  template <class T = void>
  T* mutable_data() const {
    return static_cast<T*>(get<void*>(torch_get_mutable_data_ptr));
  }

  AtenTensorHandle handle() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

 private:
  template <class T>
  T get(AOTITorchError (*getter)(AtenTensorHandle, T*)) const {
    T got{};
    TDAS_OPS_TORCH(getter(handle_, &got));
    return got;
  }

  AtenTensorHandle handle_;
};

using OptionalTensor = std::optional<Tensor>;

// F or F^-1 of the last two axes of a complex tensor, by torch.
Tensor fft2(const Tensor& from, bool inverse);

}  // namespace tdas_ops
