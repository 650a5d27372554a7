// Stands in for the part of the CUDA runtime that kernels are launched with.
#pragma once

#include <cstring>
#include <exception>
#include <string>

#include "blocks.h"

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorLaunchFailure,
  cudaErrorCooperativeLaunchTooLarge,
  cudaErrorNotSupported
};
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
enum cudaLaunchAttributeID { cudaLaunchAttributeIgnore, cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= static_cast<int>(simt::most_shared_bytes) ? cudaSuccess : cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = simt::blocks_of_multiprocessor();
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* target, int byte, size_t count, cudaStream_t) {
  std::memset(target, byte, count);
  return cudaSuccess;
}

namespace simt {
inline std::string& last_error() {
  static std::string text;
  return text;
}
inline int& launches() {
  static int count = 0;
  return count;
}
}  // namespace simt

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* launch, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  try {
    bool cooperative = false;
    for (unsigned i = 0; i < launch->numAttrs; ++i)
      cooperative =
          cooperative || (launch->attrs[i].id == cudaLaunchAttributeCooperative && launch->attrs[i].val.cooperative);
    const auto run = [&] { kernel(arguments...); };
    simt::run(launch->gridDim, launch->blockDim, launch->dynamicSmemBytes, run, cooperative);
    ++simt::launches();
    return cudaSuccess;
  } catch (simt::TooLarge&) {
    return cudaErrorCooperativeLaunchTooLarge;
  } catch (std::exception& e) {
    simt::last_error() = e.what();
    return cudaErrorLaunchFailure;
  }
}
