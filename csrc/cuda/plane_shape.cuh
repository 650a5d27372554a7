// How planes are laid out over threads and shared memory, and what a thread knows of its plane. See plane.cuh.
#pragma once

#include "divider.h"
#include "line.cuh"
#include "pixels.cuh"
#include "sample.cuh"

namespace tdas_ops::cuda {

enum class Kind {
  drift,         // out = base + F^-1 (d R^2 F v + n R Z)
  skewed_drift,  // out = base + F^-1 (d (R^2 + i w) F v + n R Z)
  noise,         // out = base + d v + F^-1 n R Z
  pixels,   // out = base + d v + [A] F^-1 R F u, u being v, z or drawn pixels, [A]; or u is A (d A F^-1 R F v + n z)
  measure,  // squares = |D v|^2 and |M z|^2
};

// Arguments of the kernels.
struct PlaneWork {
  PixelsOf<const void> base, v, z;
  PixelsOf<void> out, cast;
  Masks masks;
  SampleWork samples;
  uint32_t planes;
  uint32_t channels;
  Divider by_channels;
  bool square;        // kind skewed_drift: whether there is R^2
  bool add_v;         // kinds noise and pixels: whether there is d v
  bool noise_first;   // kind pixels: u is n z or drawn
  bool space_first;   // kind pixels: u is multiplied by A
  bool twice;         // kind pixels: u is A (d A F^-1 R F v + n z)
  bool space_last;    // kind pixels: the result is multiplied by A
  bool filter_drift;  // kind measure: D is M M^T + S, not 1
  float2* squares;    // kind measure: of every plane
};

// Runs of four can be read at once where the pixels of every plane follow one another from an aligned address on.
template <class T>
PixelsOf<T> in_runs(const FieldOf<T>& field, int64_t width) {
  const int64_t (&s)[4] = field.strides;
  const uintptr_t run_bytes = field.element == Element::float32 ? 16 : 8;
  const bool dense = s[3] == 1 && s[2] == width && s[1] % 4 == 0 && s[0] % 4 == 0 &&
                     reinterpret_cast<uintptr_t>(field.data) % run_bytes == 0;
  return {field.data, field.element, dense, {s[0], s[1], s[2], s[3]}};
}

inline PlaneWork plane_work(const UpdateArgs& args) {
  PlaneWork work = {};
  work.base = in_runs(args.base, args.width);
  work.v = in_runs(args.v, args.width);
  work.z = in_runs(args.z, args.width);
  work.out = in_runs(args.out, args.width);
  work.cast = in_runs(args.cast, args.width);
  work.masks = args.masks;
  work.samples = sample_work(args);
  work.planes = static_cast<uint32_t>(args.batch * args.channels);
  work.channels = static_cast<uint32_t>(args.channels);
  work.by_channels = Divider(work.channels);
  work.square = true;
  return work;
}

// Lets a kernel have that much shared memory.
template <class Kernel>
cudaError_t grant_shared(Kernel kernel, int bytes) {
  constexpr int granted_to_all = 48 << 10;
  return bytes <= granted_to_all ? cudaSuccess
                                 : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// The smallest number from n on that is `residue` modulo 32.
constexpr int padded(int n, int residue) { return n + ((residue - n) % 32 + 32) % 32; }

// 1 / sqrt(n), n being a power of two.
constexpr float inverse_root(int n) {
  float root = 1.0f;
  for (; n >= 4; n /= 4) root /= 2;
  return n == 1 ? root : root * 0.70710678f;
}

template <int H, int W>
struct PlaneShape {
  static constexpr int threads = H * W / 64;                        // of a plane
  static constexpr int planes = threads < 128 ? 128 / threads : 1;  // of a block
  static constexpr int block = threads * planes;
  static constexpr int blocks = 512 / block;       // of a multiprocessor, with 128 registers a thread
  static constexpr int classes = H >= 64 ? 2 : 1;  // of rows
  static constexpr int rows = H / classes;         // of a class
  static constexpr int halves = rows / 32;         // of a column
  static constexpr int columns = W / 2;
  static constexpr int lines = W == 32 ? 2 : 1;  // rows of a thread

  // Pitches in floats. Eight neighbouring threads of the columns have `together` columns of all classes and planes.
  static constexpr int together = 8 / (planes * classes);
  static constexpr int row_pitch = W + 4;
  static constexpr int column_pitch = 2 * (rows + 2);
  static constexpr int class_pitch = padded(columns * column_pitch, 4 * together);
  static constexpr int staging = H * row_pitch, spectrum = classes * class_pitch;
  static constexpr int plane_pitch = padded(staging > spectrum ? staging : spectrum, 4 * together * classes);
  static constexpr int sums = planes * plane_pitch;  // behind the planes: two numbers a thread
  static constexpr int shared_bytes = (sums + 2 * block) * 4;

  static constexpr float per_pixel = 1.0f / (H * W);
  static constexpr float white = inverse_root(2 * H * W);  // of F^-1 g, sqrt(HW / 2) / HW

  // Threads that share a plane's pixels and rows wait for each other. Those of a warp keep step where this stands, for
  // which ptxas leaves no instruction: racecheck may report hazards there, in the kernels of <32, 32>, <32, 64> and
  // <64, 32>.
  static TDAS_OPS_DEVICE void plane_barrier() {
    if constexpr (threads <= 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
};

// A plane of the batch; past the last one the last once more, of which nothing is stored.
struct Position {
  uint32_t sample, channel;
  bool there;

  TDAS_OPS_DEVICE Position(const PlaneWork& work, uint32_t plane) : there(plane < work.planes) {
    const uint32_t clamped = there ? plane : work.planes - 1;
    sample = work.by_channels.quotient(clamped);
    channel = clamped - sample * work.channels;
  }

  template <class T>
  TDAS_OPS_DEVICE int64_t plane(const PixelsOf<T>& field) const {
    return sample * field.strides[0] + channel * field.strides[1];
  }
};

}  // namespace tdas_ops::cuda
