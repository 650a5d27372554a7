// Where a launch goes, and what becomes of its error.
#pragma once

#include <ATen/DeviceAccelerator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <cuda_runtime_api.h>

namespace tdas_ops {

// Makes the device of a tensor current, and gives its current stream. `op` is named in messages.
class OnDevice {
 public:
  OnDevice(const char* op, const at::Tensor& tensor)
      : op_(op),
        guard_(tensor.device()),
        stream_(static_cast<cudaStream_t>(at::accelerator::getCurrentStream(tensor.get_device()).native_handle())) {}

  cudaStream_t stream() const { return stream_; }

  int multiprocessors() const {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, guard_.current_device().index()));
    return count;
  }

  void check(cudaError_t error) const {
    if (error == cudaSuccess) [[likely]]
      return;
    cudaGetLastError();  // taken note of
    TORCH_CHECK(error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction, op_,
                ": the extension has no code for this GPU; rebuild it with its architecture in TORCH_CUDA_ARCH_LIST.");
    TORCH_CHECK(false, op_, ": the launch failed with ", cudaGetErrorName(error), ": ", cudaGetErrorString(error), ".");
  }

 private:
  const char* op_;
  c10::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace tdas_ops
