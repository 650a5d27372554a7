// Ops of C++ types behind the boxed calls of torch's stable ABI.
#pragma once

#include <bit>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "tensor.h"

namespace tdas_ops {

// An argument as it lies on the stack, which gives it away.
template <class T>
struct Boxed {
  static T take(StableIValue value) { return std::bit_cast<T>(value); }
};

template <>
struct Boxed<bool> {
  static bool take(StableIValue value) { return static_cast<uint8_t>(value) != 0; }
};

template <>
struct Boxed<Tensor> {
  static Tensor take(StableIValue value) { return Tensor(reinterpret_cast<AtenTensorHandle>(value)); }
};

template <>
struct Boxed<std::string_view> {
  static std::string take(StableIValue value) {
    const StringHandle handle = reinterpret_cast<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TDAS_OPS_TORCH(torch_string_length(handle, &length));
    TDAS_OPS_TORCH(torch_string_c_str(handle, &data));
    std::string text(data, length);
    TDAS_OPS_TORCH(torch_delete_string(handle));
    return text;
  }
};

template <class T>
struct Boxed<std::optional<T>> {
  static std::optional<T> take(StableIValue value) {
    if (value == 0) return std::nullopt;
    const auto* held = reinterpret_cast<const StableIValue*>(value);
    std::optional<T> argument = Boxed<T>::take(*held);
    delete held;  // as torch's own headers of 2.11 do
    return argument;
  }
};

// The boxed form of a function, whose parameters are those of the schema.
template <auto op>
struct Kernel;

template <class... Parameters, void (*op)(Parameters...)>
struct Kernel<op> {
  static void call(StableIValue* stack, uint64_t arguments, uint64_t results) {
    if (arguments != sizeof...(Parameters) || results != 0)
      fail<std::logic_error>("the kernel of an op has ", sizeof...(Parameters), " parameters and its schema ",
                             arguments, " and ", results, " results.");
    unbox(stack, std::index_sequence_for<Parameters...>());
  }

 private:
  template <size_t... I>
  static void unbox(StableIValue* stack, std::index_sequence<I...>) {
    op(Boxed<std::remove_cvref_t<Parameters>>::take(stack[I])...);
  }
};

struct NamedKernel {
  const char* name;
  void (*call)(StableIValue* stack, uint64_t arguments, uint64_t results);
};

// Registers kernels of ops of this package under a dispatch key, until the process ends.
inline bool implement(const char* dispatch_key, std::initializer_list<NamedKernel> kernels) {
  TorchLibraryHandle library;
  TDAS_OPS_TORCH(aoti_torch_library_init_impl("tdas_ops", dispatch_key, __FILE__, __LINE__, &library));
  for (const NamedKernel& kernel : kernels)
    TDAS_OPS_TORCH(torch_library_impl(library, kernel.name, kernel.call, torch_abi_version));
  return true;
}

}  // namespace tdas_ops
