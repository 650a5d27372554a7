// The C functions of libtorch that the library calls: torch's stable ABI as of 2.11, which every later torch keeps.
// They are declared here so that a build needs no torch. What may not be there is weak, and null then.
// tests/gates/test_abi.py holds the declarations against torch's own (torch/csrc/stable,
// torch/csrc/inductor/aoti_torch/c).
#pragma once

#include <cstddef>
#include <cstdint>

struct AtenTensorOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
struct TorchLibraryOpaque;
using TorchLibraryHandle = TorchLibraryOpaque*;
struct DeviceGuardOpaque;
using DeviceGuardHandle = DeviceGuardOpaque*;
struct StableListOpaque;
using StableListHandle = StableListOpaque*;
struct StringOpaque;
using StringHandle = StringOpaque*;

using AOTITorchError = int32_t;  // 0 is success
using StableIValue = uint64_t;   // a number, a handle, or for an optional the address of one or 0
using ParallelFunc = void (*)(int64_t begin, int64_t end, void* context);

extern "C" {

int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_complex128();
int32_t aoti_torch_dtype_complex64();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_dtype_int16();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_int8();
int32_t aoti_torch_dtype_uint8();
int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_device_type_cuda();

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle tensor, AtenTensorHandle* made);
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);
AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t device_type, int32_t device_index, AtenTensorHandle* made);
AOTITorchError aoti_torch_copy_(AtenTensorHandle to, AtenTensorHandle from, int32_t non_blocking);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* got);
AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* got);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** got);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** got);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* got);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* got);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* got);
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle tensor, bool* got);
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle tensor, const void** got);
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** got);

AOTITorchError torch_new_list_reserve_size(size_t size, StableListHandle* made);
AOTITorchError torch_list_push_back(StableListHandle list, StableIValue element);
AOTITorchError torch_string_length(StringHandle string, size_t* length);
AOTITorchError torch_string_c_str(StringHandle string, const char** data);
AOTITorchError torch_delete_string(StringHandle string);

// An op by the name of its schema: takes the arguments off the stack, leaves the results there.
AOTITorchError torch_call_dispatcher(const char* op, const char* overload, StableIValue* stack, uint64_t version);
AOTITorchError torch_get_num_threads(uint32_t* got);
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc work, void* context);

AOTITorchError aoti_torch_library_init_impl(const char* name, const char* dispatch_key, const char* file, uint32_t line,
                                            TorchLibraryHandle* made);
AOTITorchError torch_library_impl(TorchLibraryHandle library, const char* op,
                                  void (*kernel)(StableIValue* stack, uint64_t arguments, uint64_t results),
                                  uint64_t version);

AOTITorchError aoti_torch_create_device_guard(int32_t device_index, DeviceGuardHandle* made);
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard);

// Of libtorch_cuda, which a torch without CUDA lacks.
[[gnu::weak]] AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** got);
// What the last failed call on this thread had to say; from torch 2.13 on.
[[gnu::weak]] const char* torch_exception_get_what_without_backtrace();
}

namespace tdas_ops {

constexpr uint64_t torch_abi_version = uint64_t{2} << 56 | uint64_t{11} << 48;  // 2.11, as torch writes versions

}  // namespace tdas_ops
