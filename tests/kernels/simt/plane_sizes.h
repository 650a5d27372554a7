// The plane kernels of csrc/cuda: of every kind for the sizes for which SIMT_SIZE(height, width) holds, or of the kinds
// SIMT_KINDS(height, width), bits 1 << Kind. Those of a langevin_step in one launch with SIMT_SNR; they alone with
// SIMT_ALONE.
#pragma once

#include "simt.h"
// After the harness, which gives the CUDA keywords a meaning.
#include "cuda/plane.cu"

namespace tdas_ops::cuda {

inline void missing_kernel(PlaneWork) { throw std::runtime_error("a kernel that is not in this library"); }

template <int H, int W>
constexpr PlaneKernels compiled_kernels() {
#ifdef SIMT_KINDS
  if constexpr (SIMT_KINDS(H, W) != 0) {
    using Shape = PlaneShape<H, W>;
    PlaneKernels size = {H, W, Shape::planes, Shape::block, Shape::shared_bytes, {}};
    for (auto& kernel : size.kernels) kernel = missing_kernel;
#ifndef SIMT_ALONE
    const auto add = [&]<Kind kind>() {
      constexpr int i = static_cast<int>(kind);
      if constexpr (SIMT_KINDS(H, W) >> i & 1) size.kernels[i] = plane_kernel<H, W, kind>;
    };
    add.template operator()<Kind::drift>();
    add.template operator()<Kind::skewed_drift>();
    add.template operator()<Kind::noise>();
    add.template operator()<Kind::pixels>();
    add.template operator()<Kind::measure>();
#endif
    return size;
  }
#else
  if constexpr (SIMT_SIZE(H, W)) return plane_kernels<H, W>();
#endif
  return {};
}

inline void missing_snr_kernel(SnrWork work) { missing_kernel(work.plane); }

template <int H, int W>
constexpr SnrKernels compiled_snr() {
#ifdef SIMT_SNR
#ifdef SIMT_KINDS
  constexpr int kinds = SIMT_KINDS(H, W);
#else
  constexpr int kinds = SIMT_SIZE(H, W) ? ~0 : 0;
#endif
  if constexpr (kinds != 0) {
    using Shape = SnrShape<H, W>;
    SnrKernels size = {H, W, Shape::planes, Shape::block, Shape::shared_bytes, missing_snr_kernel, missing_snr_kernel};
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
