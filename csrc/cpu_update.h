// Filtered updates of tensors on the CPU: the choice between the fused kernels and the path through torch's FFT.
#pragma once

#include "params.h"

namespace tdas_ops {

// The update that UpdateArgs describes, for any size and any masks. `kept` is what `measure` left in its `keep`.
void update(const UpdateArgs& args, const float* kept = nullptr);

// |D v|^2 and |M z|^2 of every plane. `keep`, where not null, has batch * channels * height * width floats and starts
// at a multiple of so many bytes.
constexpr int64_t keep_alignment = 64;
void measure(const UpdateArgs& args, double (*squares)[2], float* keep);

// Whether `measure` can leave something, which spares the update a transform.
bool can_keep(const UpdateArgs& args);

// Whether nothing is transformed, so that drawing the noise is most of the work.
bool pixels_alone(const UpdateArgs& args);

}  // namespace tdas_ops
