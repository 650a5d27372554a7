// The path through torch's complex FFT, for sizes without a fused kernel. The real ones are no help: their bits depend
// on the batch and on the threads.
#pragma once

#include "params.h"

namespace tdas_ops {

template <class T>
void update_spectra(const UpdateArgsOf<T>& args, const T* kept);
template <class T>
void measure_spectra(const UpdateArgsOf<T>& args, double (*squares)[2], T* keep);

}  // namespace tdas_ops
