// Tensors to the arguments of a filtered update, for the ops of the CPU and of a GPU: checks that come before anything
// is written, and what one op is made of.
#pragma once

#include <string_view>
#include <type_traits>

#include "params.h"
#include "tensor.h"

namespace tdas_ops {

// Arguments of the op `normals`. out: complex64 [B, C, H, ceil(W / 2)].
NormalsArgs normals_args(const Tensor& out, const Tensor& seeds, const Tensor& draw, int64_t first_sample,
                         bool spectral);

// The filter that the op `precondition` names.
Filter filter_of(const char* backend, std::string_view which);

// What the kernels of one backend demand of tensors; messages start with its name. They compute in float64 where the
// output is in float64 and they have such kernels, otherwise in float32.
class Arguments {
 public:
  Arguments(const char* backend, const Tensor& out, bool has_float64 = false);

  bool in_float64() const { return float64_; }

  Field input(const char* name, const Tensor& tensor) const;
  OutField output(const char* name, const Tensor& tensor) const;

  // Whether a tensor is of the dtype that is computed in, as a state and its mean are.
  void check_computed(const char* name, const Tensor& tensor) const;

  // The scale `name`, where it is a tensor: one value or one for each sample, of a dtype that a score may have.
  void check_scale(const char* name, const Tensor& tensor) const;

  // The sizes, the output and the masks of an update.
  template <class Args>
  Args update(Filter filter, const Tensor& out, const OptionalTensor& freq, const OptionalTensor& space,
              const OptionalTensor& skew) const {
    Args args = {};
    args.filter = filter;
    args.batch = shape_[0];
    args.channels = shape_[1];
    args.height = shape_[2];
    args.width = shape_[3];
    args.out = output("out", out);
    using T = std::remove_cvref_t<decltype(*args.masks.freq)>;
    args.masks = {masks<T>(freq, space, skew)};
    return args;
  }

  // R as matrices of real or complex numbers.
  template <class T>
  const T* matrices(const Tensor& freq) const;

  // The noise of an update, the caller's z or one draw of a stream. Returns the draw counter, or null.
  template <class Args>
  int64_t* noise(Args& args, const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw,
                 int64_t first_sample) const {
    TDAS_OPS_CHECK(seeds.has_value() == draw.has_value(), backend_, " kernels: `", seeds ? "seeds" : "draw",
                   "` is there without `", seeds ? "draw" : "seeds", "`; expected both or neither.");
    if (z) {
      args.z = input("z", *z);
    } else if (seeds) {
      check_stream(*seeds, *draw, first_sample);
      args.seeds = seeds->const_data<int64_t>();
      args.seed_per_sample = seeds->numel() > 1;
      args.first_sample = args.seed_per_sample ? 0 : first_sample;
      return draw->mutable_data<int64_t>();
    }
    return nullptr;
  }

 private:
  template <class T>
  FieldOf<T> field(const char* name, T* data, const Tensor& tensor, bool written) const;
  void check_shape(const char* name, const Tensor& tensor, Sizes shape) const;
  void check_mask(const char* name, const Tensor& mask, Sizes shape, bool may_be_complex) const;
  template <class T>
  const T* mask(const char* name, const OptionalTensor& mask, Sizes shape) const;
  template <class T>
  MasksOf<T> masks(const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew) const;
  void check_stream(const Tensor& seeds, const Tensor& draw, int64_t first_sample) const;

  const char* backend_;
  Device device_;
  Sizes shape_;  // of the output, which outlives this
  bool float64_;
};

template <class Args>
bool has_noise(const Args& args) {
  return args.seeds != nullptr || args.z.data != nullptr;
}

// mean = x + d D v and out = mean + n M z, with D as args.filter says, by one update or two.
template <class Args, class Update>
void update_with_mean(const Arguments& arguments, Args args, const Tensor& out, const OptionalTensor& mean,
                      Update update) {
  if (mean) {
    Args clean = args;
    clean.seeds = nullptr;
    clean.z = {};
    clean.n = {};  // which times no noise may still be NaN
    clean.out = arguments.output("mean", *mean);
    if (args.filter == Filter::noise) clean.masks = {};
    update(clean);
    if (!has_noise(args)) {
      out.copy_from(*mean);
      return;
    }
    args.base = constant(clean.out);
    args.filter = Filter::noise;
    args.v = {};
  }
  if (args.filter == Filter::noise) {
    args.masks.skew = nullptr;
    if (!has_noise(args)) args.masks = {};
  }
  update(args);
}

}  // namespace tdas_ops
