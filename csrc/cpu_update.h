// Filtered updates of tensors on the CPU: the choice between the fused kernels and the path through torch's FFT.
#pragma once

#include "params.h"

namespace tdas_ops {

// The update that UpdateArgs describes, for any size and any masks. `kept` is what `measure` left in its `keep`.
void update(const UpdateArgs& args, Kept kept = {});

// |D v|^2 and |M z|^2 of every plane. What `keep` has, has as many floats for every plane as kept_floats says, and
// starts at a multiple of so many bytes.
constexpr int64_t keep_alignment = 64;
void measure(const UpdateArgs& args, double (*squares)[2], Keep keep);

// What `measure` can leave of a plane, which spares the update transforms: so many floats of each spectrum, or none.
struct KeptFloats {
  int64_t drift, noise;
};
KeptFloats kept_floats(const UpdateArgs& args);

// Whether nothing is transformed, so that drawing the noise is most of the work.
bool pixels_alone(const UpdateArgs& args);

}  // namespace tdas_ops
