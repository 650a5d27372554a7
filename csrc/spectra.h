// The path through torch's complex FFT, for sizes without a fused kernel. The real ones are no help: their bits depend
// on the batch and on the threads.
#pragma once

#include "params.h"

namespace tdas_ops {

void update_spectra(const UpdateArgs& args, const float* kept);
void measure_spectra(const UpdateArgs& args, double (*squares)[2], float* keep);

}  // namespace tdas_ops
