// The plane kernels of csrc/cuda, of the sizes for which SIMT_SIZE(height, width) holds, or of one, SIMT_HEIGHT x
// SIMT_WIDTH: of every kind, or of SIMT_KINDS, bits 1 << Kind. Those of a langevin_step in one launch with SIMT_SNR,
// beside the others of SIMT_PLANE_KINDS alone.
#pragma once

#ifndef SIMT_SIZE
#define SIMT_SIZE(height, width) (height == SIMT_HEIGHT && width == SIMT_WIDTH)
#endif

#ifndef SIMT_PLANE_KINDS
#define SIMT_PLANE_KINDS SIMT_KINDS
#endif

#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/plane.cu"

namespace tdas_ops::cuda {

inline void missing_kernel(PlaneWork) { throw std::runtime_error("a kernel that is not in this library"); }

template <int H, int W>
constexpr PlaneKernels compiled_kernels() {
  if constexpr (!SIMT_SIZE(H, W)) {
    return {};
  } else {
#ifdef SIMT_KINDS
    using Shape = PlaneShape<H, W>;
    PlaneKernels size = {H, W, Shape::planes, Shape::block, Shape::shared_bytes, {}};
    for (auto& kernel : size.kernels) kernel = missing_kernel;
    const auto add = [&]<Kind kind>() {
      constexpr int i = static_cast<int>(kind);
      if constexpr (SIMT_PLANE_KINDS >> i & 1) size.kernels[i] = plane_kernel<H, W, kind>;
    };
    add.template operator()<Kind::drift>();
    add.template operator()<Kind::skewed_drift>();
    add.template operator()<Kind::noise>();
    add.template operator()<Kind::pixels>();
    add.template operator()<Kind::measure>();
    return size;
#else
    return plane_kernels<H, W>();
#endif
  }
}

inline void missing_snr_kernel(SnrWork work) { missing_kernel(work.plane); }

template <int H, int W>
constexpr SnrKernels compiled_snr() {
#ifdef SIMT_SNR
  if constexpr (SIMT_SIZE(H, W)) {
    using Shape = SnrShape<H, W>;
    SnrKernels size = {H, W, Shape::planes, Shape::block, Shape::shared_bytes, missing_snr_kernel, missing_snr_kernel};
#ifdef SIMT_KINDS
    constexpr int kinds = SIMT_KINDS;
#else
    constexpr int kinds = ~0;
#endif
    if constexpr (kinds >> static_cast<int>(Kind::drift) & 1) size.drift = snr_plane_kernel<H, W, Kind::drift>;
    if constexpr (kinds >> static_cast<int>(Kind::noise) & 1) size.noise = snr_plane_kernel<H, W, Kind::noise>;
    return size;
  }
#endif
  return {};
}

}  // namespace tdas_ops::cuda

#define snr_kernels compiled_snr
#define plane_kernels compiled_kernels
#include "cuda/plane_128.cu"
#include "cuda/plane_32.cu"
#include "cuda/plane_64.cu"
#include "cuda/plane_snr.cu"
