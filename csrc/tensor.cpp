#include "tensor.h"

#include <algorithm>
#include <vector>

namespace tdas_ops {

std::string shown(Sizes sizes) {
  std::string text = "[";
  for (const int64_t size : sizes) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
}

std::string shown(Device device) {
  if (device.type == cpu_device) return "cpu";
  const bool cuda = device.type == aoti_torch_device_type_cuda();
  return (cuda ? "cuda:" : "another device:") + std::to_string(device.index);
}

std::string name_of_dtype(int32_t dtype) {
  const std::pair<int32_t, const char*> names[] = {
      {dtype::float32, "Float"},
      {dtype::float64, "Double"},
      {dtype::bfloat16, "BFloat16"},
      {dtype::float16, "Half"},
      {dtype::complex64, "ComplexFloat"},
      {dtype::complex128, "ComplexDouble"},
      {dtype::int64, "Long"},
      {aoti_torch_dtype_int32(), "Int"},
      {aoti_torch_dtype_int16(), "Short"},
      {aoti_torch_dtype_int8(), "Char"},
      {aoti_torch_dtype_uint8(), "Byte"},
      {aoti_torch_dtype_bool(), "Bool"},
  };
  for (const auto& [number, name] : names)
    if (number == dtype) return name;
  return "of number " + std::to_string(dtype);
}

void torch_failed(const char* call) {
  const char* why = torch_exception_get_what_without_backtrace == nullptr
                        ? "it says no more"
                        : torch_exception_get_what_without_backtrace();
  fail<std::runtime_error>("torch failed in ", call, ": ", why);
}

Tensor Tensor::empty(Sizes sizes, int32_t dtype, Device device) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  AtenTensorHandle made;
  TDAS_OPS_TORCH(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype,
                                          device.type, device.index, &made));
  return Tensor(made);
}

Tensor Tensor::shared() const {
  AtenTensorHandle made;
  TDAS_OPS_TORCH(aoti_torch_new_tensor_handle(handle_, &made));
  return Tensor(made);
}

Tensor Tensor::contiguous(int32_t dtype) const {
  if (dtype == this->dtype() && is_contiguous()) return shared();
  Tensor made = empty(sizes(), dtype, device());
  made.copy_from(*this);
  return made;
}

Tensor fft2(const Tensor& from, bool inverse) {
  StableListHandle axes;
  TDAS_OPS_TORCH(torch_new_list_reserve_size(2, &axes));
  for (const int64_t axis : {-2, -1}) TDAS_OPS_TORCH(torch_list_push_back(axes, static_cast<StableIValue>(axis)));
  // (Tensor self, SymInt[1]? s, int[1] dim, str? norm) -> Tensor
  StableIValue stack[] = {reinterpret_cast<StableIValue>(from.shared().release()), 0,
                          reinterpret_cast<StableIValue>(axes), 0};
  const char* op = inverse ? "aten::fft_ifft2" : "aten::fft_fft2";
  TDAS_OPS_TORCH(torch_call_dispatcher(op, "", stack, torch_abi_version));
  return Tensor(reinterpret_cast<AtenTensorHandle>(stack[0])).contiguous();
}

}  // namespace tdas_ops
