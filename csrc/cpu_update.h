// Filtered updates of tensors on the CPU: the choice between the fused kernels and the path through torch's FFT.
#pragma once

#include <type_traits>

#include "params.h"

namespace tdas_ops {

// The update that UpdateArgs describes, for any size and any masks, T being float or double. `kept` is what `measure`
// left in its `keep`.
template <class T>
void update(const UpdateArgsOf<T>& args, std::type_identity_t<KeptOf<const T>> kept = {});

// |D v|^2 and |M z|^2 of every plane. What `keep` has, has as many T for every plane as kept_floats says, and
// starts at a multiple of so many bytes.
constexpr int64_t keep_alignment = 64;
template <class T>
void measure(const UpdateArgsOf<T>& args, double (*squares)[2], KeptOf<T> keep);

// What `measure` can leave of a plane, which spares the update transforms: so many T of each spectrum, or none.
struct KeptFloats {
  int64_t drift, noise;
};
template <class T>
KeptFloats kept_floats(const UpdateArgsOf<T>& args);

// Whether nothing is transformed, so that drawing the noise is most of the work.
template <class T>
bool pixels_alone(const UpdateArgsOf<T>& args);

}  // namespace tdas_ops
