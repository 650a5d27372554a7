// Filtered updates of planes that fit on chip, no torch.
#pragma once

#include "snr.h"
#include "update.h"

namespace tdas_ops::cuda {

// Whether there is a kernel for planes of this size.
bool has_plane_kernel(int64_t height, int64_t width);

// Enqueues the update on `stream`; nothing waits, nothing is allocated. There is such a kernel, a frequency mask and,
// for Filter::noise, noise. Returns the launch error.
cudaError_t update_planes(const UpdateArgs& args, cudaStream_t stream);

// |D v|^2 and |M z|^2 of every plane, for Filter::drift, or |v|^2 and |M z|^2 for Filter::noise: squares[batch,
// channels, 2]. There is a frequency mask, and noise, but no skew part beside a space mask.
cudaError_t measure_planes(const UpdateArgs& args, float* squares, cudaStream_t stream);

// Whether one launch can make a langevin_step with noise of its own (plane_snr.cuh): of 32 x 32, 64 x 64 or 128 x 128,
// with a frequency mask alone; where blocks have to wait for each other, of as many planes as so many multiprocessors
// hold at once.
bool has_snr_kernel(const UpdateArgs& args, bool per_sample, int multiprocessors);

// The update with the scales d = eta and n = sqrt(2 eta) of the rule, which reads the squares that this leaves behind:
// squares[batch, channels, 2]. `counters` has a number a sample. There is such a kernel. Returns the launch error; that
// of a driver which refuses a cooperative launch after all comes before anything is written but the counters.
cudaError_t langevin_planes(const UpdateArgs& args, const SnrArgs& rule, float* squares, uint32_t* counters,
                            cudaStream_t stream);

}  // namespace tdas_ops::cuda
