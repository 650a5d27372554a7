// Filtered updates of planes that pass through global memory between their transforms, no torch.
#pragma once

#include "update.h"

namespace tdas_ops::cuda {

// Memory for some planes of the batch at once.
struct Scratch {
  float* data;  // aligned to 16 bytes
  int64_t planes;
  int64_t chunk;    // planes of a launch, at most all of these
  int64_t spectra;  // of a plane
};

// Whether there are kernels for planes of this size: H and W powers of two from 32 to 2048.
bool has_large_kernel(int64_t height, int64_t width);

// The numbers of a Scratch, for each of its planes.
constexpr int64_t scratch_of_plane(int64_t height, int64_t width, int64_t spectra = 1) {
  return (spectra * height + 1) * width;
}

// A scratch with which every pass has work for all of a device twice: what one pass writes, the next one then mostly
// finds in the L2 cache.
int64_t busy_scratch_bytes(int multiprocessors);

// Enqueues the update on `stream`; nothing waits, nothing is allocated. There are such kernels, a frequency mask and,
// for Filter::noise, noise. Returns the launch error.
cudaError_t update_large(const UpdateArgs& args, const Scratch& scratch, cudaStream_t stream);

// |D v|^2 and |M z|^2 of every plane, for Filter::drift, or |M z|^2 alone for Filter::noise: squares[batch, channels,
// 2]. There is a frequency mask, and noise, but no skew part beside a space mask. With a space mask, D v and M z stay
// in the scratch as they are before their last filter, where it has all planes, and as many spectra as that takes.
cudaError_t measure_large(const UpdateArgs& args, float* squares, const Scratch& scratch, cudaStream_t stream);

// Spectra that stay of a plane with a space mask: of D v and of M z, or of M z alone.
constexpr int64_t measured_spectra(Filter filter) { return filter == Filter::drift ? 2 : 1; }

// As update_large, of an update with a space mask whose scratch is as measure_large left it: Filter::drift, with noise
// or without, then Filter::noise. What did not stay is made anew, with the same bits.
cudaError_t update_measured(const UpdateArgs& args, const Scratch& scratch, cudaStream_t stream);

}  // namespace tdas_ops::cuda
