// The fused CUDA kernels of the ops; their schemas are in tdas_ops/_schema.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "arguments.h"

namespace tdas_ops {

void normals_cuda(const at::Tensor& out, const at::Tensor& seeds, const at::Tensor& draw, int64_t first_sample,
                  bool spectral);

void noise_cuda(const at::Tensor& out, const OptionalTensor& freq, const OptionalTensor& space, double n,
                const OptionalTensor& n_tensor, const OptionalTensor& z, const OptionalTensor& seeds,
                const OptionalTensor& draw, int64_t first_sample);

void precondition_cuda(const at::Tensor& out, const at::Tensor& v, const OptionalTensor& freq,
                       const OptionalTensor& space, std::string_view which);

void step_cuda(const at::Tensor& out, const OptionalTensor& mean, const at::Tensor& x, const at::Tensor& v,
               const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew, bool filter_drift,
               double d, const OptionalTensor& d_tensor, std::optional<double> n, const OptionalTensor& n_tensor,
               const OptionalTensor& z, const OptionalTensor& seeds, const OptionalTensor& draw, int64_t first_sample,
               const OptionalTensor& cast);

void langevin_step_cuda(const at::Tensor& out, const OptionalTensor& mean, const at::Tensor& x, const at::Tensor& score,
                        const OptionalTensor& freq, const OptionalTensor& space, const OptionalTensor& skew,
                        bool filter_drift, double snr, double alpha, const OptionalTensor& alpha_tensor,
                        bool per_sample, const OptionalTensor& z, const OptionalTensor& seeds,
                        const OptionalTensor& draw, int64_t first_sample, const OptionalTensor& cast);

// Bytes of scratch that passes over large planes take at most, beyond what one plane needs; 0 is what keeps a device
// busy, or up to 1 GiB where spectra stay from the norms of langevin_step to its update.
void limit_scratch(int64_t bytes);

// Whether the passes over large planes are tickets of one launch (cuda/large_ticket.cuh); updates that have no such
// kernel are then refused. Not so at first.
void use_tickets(bool chosen);

// Whether a langevin_step is one launch where there is one for it (cuda/plane_snr.cuh); all others stay as they are.
// Not so at first.
void use_cooperative(bool chosen);

}  // namespace tdas_ops
