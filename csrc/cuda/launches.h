// An update of planes as calls of kernels of some Kind.
#pragma once

#include <algorithm>

#include "plane_shape.cuh"

namespace tdas_ops::cuda {

// launch(kind, work) for each; returns its first error.
template <class Launch>
cudaError_t update_with(const UpdateArgs& args, PlaneWork work, Launch launch) {
  const bool space = args.masks.space != nullptr, skew = args.masks.skew != nullptr, z = args.z.data != nullptr;
  switch (args.filter) {
    case Filter::drift:
      if (!space && !z) return launch(skew ? Kind::skewed_drift : Kind::drift, work);
      if (skew) {  // x + d S v, to which the rest is added
        PlaneWork turned = work;
        turned.samples.seeds = nullptr;
        turned.square = false;
        turned.cast.data = nullptr;
        const cudaError_t error = launch(Kind::skewed_drift, turned);
        if (error != cudaSuccess) return error;
        work.base = {work.out.data, work.out.element, work.out.dense, {}};
        std::copy(work.out.strides, work.out.strides + 4, work.base.strides);
      }
      work.twice = true;
      return launch(Kind::pixels, work);
    case Filter::noise:
      work.add_v = args.v.data != nullptr;
      if (!space && !z) return launch(Kind::noise, work);
      work.noise_first = true;
      work.space_first = space;
      return launch(Kind::pixels, work);
    case Filter::M:
      work.space_first = space;
      return launch(Kind::pixels, work);
    case Filter::Mt:
      work.space_last = space;
      return launch(Kind::pixels, work);
    default:
      work.twice = space;
      return launch(space ? Kind::pixels : Kind::drift, work);
  }
}

}  // namespace tdas_ops::cuda
