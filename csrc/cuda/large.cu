#include "large.h"

#include <algorithm>
#include <cmath>

#include "large.cuh"
#include "launches.h"
#include "snr.h"

namespace tdas_ops::cuda {
namespace {

template <int kinds>
const LineKernels<kinds>* find(const LineKernels<kinds> (&to_256)[4], const LineKernels<kinds> (&from_512)[3],
                               int64_t length) {
  for (const auto& kernels : to_256)
    if (kernels.length == length) return &kernels;
  for (const auto& kernels : from_512)
    if (kernels.length == length) return &kernels;
  return nullptr;
}

const RowKernels* find_rows(int64_t width) { return find(rows_to_256, rows_from_512, width); }

const ColumnKernels* find_columns(int64_t height) { return find(columns_to_256, columns_from_512, height); }

int log2_of(int64_t n) {
  int log = 0;
  while (int64_t{1} << log < n) ++log;
  return log;
}

// The passes over some planes of the batch. After the first error nothing more is launched.
class Passes {
 public:
  Passes(const UpdateArgs& args, cudaStream_t stream)
      : rows_(*find_rows(args.width)),
        columns_(*find_columns(args.height)),
        log_height_(log2_of(args.height)),
        log_columns_(log2_of(args.width / 2)),
        stream_(stream) {}

  cudaError_t error() const { return error_; }

  LargeWork work(const PlaneWork& plane, const Scratch& scratch, int64_t first, int64_t count) const {
    LargeWork work = {};
    const double elements = std::ldexp(2.0, log_height_ + log_columns_);
    work.plane = plane;
    work.spectra = reinterpret_cast<float2*>(scratch.data);
    work.squares = work.spectra + (scratch.planes << (log_height_ + log_columns_));
    work.first_plane = static_cast<uint32_t>(first);
    work.planes = static_cast<uint32_t>(count);
    work.log_height = log_height_;
    work.log_columns = log_columns_;
    work.per_pixel = static_cast<float>(1.0 / elements);
    work.white = static_cast<float>(1.0 / std::sqrt(2.0 * elements));
    return work;
  }

  void rows(Pass pass, const LargeWork& work) { launch(rows_, static_cast<int>(pass), log_height_, work); }

  void columns(Kind kind, const LargeWork& work) { launch(columns_, static_cast<int>(kind), log_columns_, work); }

  void sum(const LargeWork& work, float* squares, bool drift, bool noise) {
    if (error_ != cudaSuccess) return;
    error_ = sum_squares(reinterpret_cast<const float*>(work.squares), int64_t{1} << log_columns_, squares, work.planes,
                         drift, noise, stream_);
  }

 private:
  // For 2^log_lines lines of each plane.
  template <int kinds>
  void launch(const LineKernels<kinds>& of_length, int kind, int log_lines, const LargeWork& work) {
    const auto kernel = of_length.kernels[kind];
    if (error_ == cudaSuccess) error_ = grant_shared(kernel, of_length.shared_bytes);
    if (error_ != cudaSuccess) return;
    const int64_t lines = static_cast<int64_t>(work.planes) << log_lines;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>((lines + of_length.lines - 1) / of_length.lines));
    config.blockDim = dim3(large_block);
    config.dynamicSmemBytes = of_length.shared_bytes;
    config.stream = stream_;
    error_ = cudaLaunchKernelEx(&config, kernel, work);
  }

  const RowKernels& rows_;
  const ColumnKernels& columns_;
  int log_height_, log_columns_;
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

// use(first, count) for as many planes at once as the scratch holds, and until an error.
template <class Use>
cudaError_t for_chunks(int64_t planes, const Scratch& scratch, Use use) {
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < planes && error == cudaSuccess; first += scratch.planes)
    error = use(first, std::min(scratch.planes, planes - first));
  return error;
}

}  // namespace

int64_t busy_scratch_bytes(int multiprocessors) {
  constexpr int64_t blocks = 2 * large_blocks;  // one after the other on each place of a multiprocessor
  return multiprocessors * blocks * large_block * 64 * static_cast<int64_t>(sizeof(float));
}

bool has_large_kernel(int64_t height, int64_t width) {
  return find_columns(height) != nullptr && find_rows(width) != nullptr;
}

cudaError_t update_large(const UpdateArgs& args, const Scratch& scratch, cudaStream_t stream) {
  return for_chunks(args.batch * args.channels, scratch, [&](int64_t first, int64_t count) {
    return update_with(args, plane_work(args), [&](Kind kind, const PlaneWork& plane) {
      Passes passes(args, stream);
      LargeWork work = passes.work(plane, scratch, first, count);
      if (kind != Kind::noise) passes.rows(Pass::forward, work);
      passes.columns(kind, work);
      if (plane.twice) {
        passes.rows(Pass::between, work);
        passes.columns(kind, work);
      }
      passes.rows(Pass::inverse, work);
      return passes.error();
    });
  });
}

cudaError_t measure_large(const UpdateArgs& args, float* squares, const Scratch& scratch, cudaStream_t stream) {
  const bool drift = args.filter == Filter::drift, space = args.masks.space != nullptr;
  const bool spectral = !space && args.z.data == nullptr;
  return for_chunks(args.batch * args.channels, scratch, [&](int64_t first, int64_t count) {
    Passes passes(args, stream);
    LargeWork work = passes.work(plane_work(args), scratch, first, count);
    if (drift) {
      LargeWork of_drift = work;
      PlaneWork& plane = of_drift.plane;
      plane.samples.d = {nullptr, Number::float32, false, 1.0f};
      plane.filter_drift = of_drift.transformed = true;
      plane.square = !space;
      of_drift.noisy = spectral;
      passes.rows(Pass::forward, of_drift);
      if (space) {
        plane.z.data = nullptr;
        plane.samples.seeds = nullptr;
        passes.columns(Kind::pixels, of_drift);
        passes.rows(Pass::between, of_drift);
      }
      passes.columns(Kind::measure, of_drift);
    }
    if (!drift || !spectral) {
      work.transformed = !spectral;
      work.noisy = work.plane.noise_first = true;
      work.plane.space_first = space;
      if (!spectral) passes.rows(Pass::forward, work);
      passes.columns(Kind::measure, work);
    }
    passes.sum(work, squares + 2 * first, drift, true);
    return passes.error();
  });
}

}  // namespace tdas_ops::cuda
