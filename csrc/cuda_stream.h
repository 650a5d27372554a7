// Where a launch goes, and what becomes of its error.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <type_traits>

#include "tensor.h"

namespace tdas_ops {

// Makes the device of a tensor current, and gives its current stream. `op` is named in messages.
class OnDevice {
 public:
  OnDevice(const char* op, const Tensor& tensor) : op_(op), index_(tensor.device().index), guard_(guard_of(index_)) {
    if (aoti_torch_get_current_cuda_stream == nullptr)
      fail<std::runtime_error>(op_, ": this torch has no CUDA; expected one that has.");
    void* stream;
    TDAS_OPS_TORCH(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }

  // Multiprocessors whose blocks can wait for each other.
  int cooperating() const { return attribute(cudaDevAttrCooperativeLaunch) != 0 ? multiprocessors() : 0; }

  void check(cudaError_t error) const {
    if (error == cudaSuccess) [[likely]]
      return;
    cudaGetLastError();  // taken note of
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
      fail<std::runtime_error>(
          op_, ": the library has no code for this GPU; rebuild it with its architecture in TORCH_CUDA_ARCH_LIST.");
    fail<std::runtime_error>(op_, ": the launch failed with ", cudaGetErrorName(error), ": ", cudaGetErrorString(error),
                             ".");
  }

 private:
  struct Delete {
    void operator()(DeviceGuardHandle guard) const { aoti_torch_delete_device_guard(guard); }
  };
  using Guard = std::unique_ptr<DeviceGuardOpaque, Delete>;

  static Guard guard_of(int32_t index) {
    DeviceGuardHandle made;
    TDAS_OPS_TORCH(aoti_torch_create_device_guard(index, &made));
    return Guard(made);
  }

  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, index_));
    return value;
  }

  const char* op_;
  int32_t index_;
  Guard guard_;
  cudaStream_t stream_;
};

}  // namespace tdas_ops
