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

// Of `count` planes of the batch, from plane `first` on, at the beginning of the scratch.
LargeWork large_work(const UpdateArgs& args, const PlaneWork& plane, const Scratch& scratch, int64_t first,
                     int64_t count) {
  LargeWork work = {};
  const double elements = static_cast<double>(args.height * args.width);
  work.plane = plane;
  work.spectra = reinterpret_cast<float2*>(scratch.data);
  work.squares = work.spectra + scratch.spectra * scratch.planes * args.height * (args.width / 2);
  work.first_plane = static_cast<uint32_t>(first);
  work.planes = static_cast<uint32_t>(count);
  work.log_height = log2_of(args.height);
  work.log_columns = log2_of(args.width / 2);
  work.per_pixel = static_cast<float>(1.0 / elements);
  work.white = static_cast<float>(1.0 / std::sqrt(2.0 * elements));
  return work;
}

// The passes over some planes of the batch. After the first error nothing more is launched.
class Passes {
 public:
  Passes(const UpdateArgs& args, cudaStream_t stream)
      : rows_(*find_rows(args.width)), columns_(*find_columns(args.height)), stream_(stream) {}

  cudaError_t error() const { return error_; }

  void rows(Pass pass, const LargeWork& work) { launch(rows_, static_cast<int>(pass), work.log_height, work); }

  void columns(Kind kind, const LargeWork& work) { launch(columns_, static_cast<int>(kind), work.log_columns, work); }

  void sum(const LargeWork& work, float* squares, bool drift, bool noise) {
    if (error_ != cudaSuccess) return;
    error_ = sum_squares(reinterpret_cast<const float*>(work.squares), int64_t{1} << work.log_columns, squares,
                         work.planes, drift, noise, stream_);
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
#if TDAS_OPS_OVERLAP
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &early;
    config.numAttrs = 1;
#endif
    error_ = cudaLaunchKernelEx(&config, kernel, work);
  }

  const RowKernels& rows_;
  const ColumnKernels& columns_;
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

// use(first, count) for at most `most` planes at once, and until an error.
template <class Use>
cudaError_t for_chunks(int64_t planes, int64_t most, Use use) {
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < planes && error == cudaSuccess; first += most)
    error = use(first, std::min(most, planes - first));
  return error;
}

bool has_all_planes(const Scratch& scratch, const UpdateArgs& args) {
  return scratch.planes >= args.batch * args.channels;
}

// By linearity an update is made of two terms, d D v and n M z, here of some planes and up to the filter that comes
// last: the drift is v, or A A F^-1 R F v with a space mask, the noise z or A z. In a scratch that has all planes of
// the batch each has a place of its own, the noise after the drift where there are two spectra.
struct Terms {
  LargeWork drift, noise;

  Terms(const UpdateArgs& args, const Scratch& scratch, int64_t first, int64_t count) {
    const int64_t numbers = args.height * (args.width / 2);
    drift = noise = large_work(args, plane_work(args), scratch, first, count);
    if (has_all_planes(scratch, args)) drift.spectra += first * numbers;
    noise.spectra = drift.spectra + (scratch.spectra - 1) * scratch.planes * numbers;

    const bool space = args.masks.space != nullptr;
    drift.transformed = drift.plane.filter_drift = true;
    drift.plane.square = !space;
    drift.plane.samples.d = {nullptr, Number::float32, false, 1.0f};
    if (space) {
      drift.plane.z.data = nullptr;
      drift.plane.samples.seeds = nullptr;
    }
    noise.noisy = noise.plane.noise_first = true;
    noise.plane.space_first = space;
  }

  void make_drift(Passes& passes) const {
    passes.rows(Pass::forward, drift);
    if (drift.plane.masks.space == nullptr) return;
    passes.columns(Kind::pixels, drift);
    passes.rows(Pass::between, drift);
  }

  void make_noise(Passes& passes) const { passes.rows(Pass::forward, noise); }
};

}  // namespace

int64_t busy_scratch_bytes(int multiprocessors) {
  constexpr int64_t blocks = 2 * large_blocks;  // one after the other on each place of a multiprocessor
  return multiprocessors * blocks * large_block * 64 * static_cast<int64_t>(sizeof(float));
}

bool has_large_kernel(int64_t height, int64_t width) {
  return find_columns(height) != nullptr && find_rows(width) != nullptr;
}

cudaError_t update_large(const UpdateArgs& args, const Scratch& scratch, cudaStream_t stream) {
  return for_chunks(args.batch * args.channels, scratch.chunk, [&](int64_t first, int64_t count) {
    return update_with(args, plane_work(args), [&](Kind kind, const PlaneWork& plane) {
      Passes passes(args, stream);
      const LargeWork work = large_work(args, plane, scratch, first, count);
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
  const bool drift = args.filter == Filter::drift, spectral = args.masks.space == nullptr && args.z.data == nullptr;
  return for_chunks(args.batch * args.channels, scratch.chunk, [&](int64_t first, int64_t count) {
    Passes passes(args, stream);
    Terms terms(args, scratch, first, count);
    if (drift) {
      terms.drift.noisy = spectral;
      terms.make_drift(passes);
      passes.columns(Kind::measure, terms.drift);
    }
    if (!drift || !spectral) {
      terms.noise.transformed = !spectral;
      if (!spectral) terms.make_noise(passes);
      passes.columns(Kind::measure, terms.noise);
    }
    passes.sum(terms.noise, squares + 2 * first, drift, true);
    return passes.error();
  });
}

cudaError_t update_measured(const UpdateArgs& args, const Scratch& scratch, cudaStream_t stream) {
  const bool drift = args.filter == Filter::drift, noisy = args.seeds != nullptr || args.z.data != nullptr;
  return for_chunks(args.batch * args.channels, scratch.chunk, [&](int64_t first, int64_t count) {
    Passes passes(args, stream);
    const Terms terms(args, scratch, first, count);
    if (!has_all_planes(scratch, args)) {
      if (drift) terms.make_drift(passes);
      if (noisy) terms.make_noise(passes);
    }
    LargeWork work = drift ? terms.drift : terms.noise;
    work.plane = plane_work(args);
    work.plane.noise_first = !drift;
    work.plane.add_v = !drift && args.v.data != nullptr;
    if (drift) work.to_noise = terms.noise.spectra - terms.drift.spectra;
    passes.columns(Kind::pixels, work);
    passes.rows(Pass::inverse, work);
    return passes.error();
  });
}

}  // namespace tdas_ops::cuda
