// The CPU kernels of the ops; their schemas are in tdas_ops/_schema.py.
#pragma once

#include <string_view>

#include "arguments.h"

namespace tdas_ops {

void normals_cpp(const Tensor& out, const Tensor& seeds, const Tensor& draw, int64_t first_sample, bool spectral);

void noise_cpp(const Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
               const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
               const OptionalTensor& draw, int64_t first_sample);

void precondition_cpp(const Tensor& out, const Tensor& v, const OptionalTensor& freq, const OptionalTensor& space,
                      std::string_view which);

void step_cpp(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& v,
              const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
              double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
              const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample,
              const OptionalTensor& cast);

void langevin_step_cpp(const Tensor& out, const OptionalTensor& mean, const Tensor& x, const Tensor& score,
                       const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                       bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor, bool per_sample,
                       const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw,
                       int64_t first_sample, const OptionalTensor& cast);

}  // namespace tdas_ops
