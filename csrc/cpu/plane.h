// A plane in its update: place, masks, scratch. With M = ceil(W / 2) columns of half spectrum:
//
//   rows      `lanes` rows at a time: rows -> lines of M elements -> transform -> spectra of the rows -> spectrum
//   columns   `lanes` columns at a time, a sandwich: transform, the filter with its noise, transform back
//   rows      back: spectrum -> lines -> transform -> rows, plus x, to the output
//
// With a space mask the columns are done twice, and in between every line is brought back to pixels, multiplied, given
// its noise and transformed again. The spectrum is the only scratch of plane size: [M / lanes][H] elements of a line.
//
// Rows of odd width ride in pairs, row h as the real part and row h + lanes as the imaginary part of a line of W
// elements: two groups of `lanes` rows at a time. Where lanes do not divide H or M, the last rows and columns of a
// vector are there and are zero.
#pragma once

#include <algorithm>
#include <utility>

#include "memory.h"
#include "normals.h"
#include "rows.h"
#include "stages.h"
#include "transform.h"

namespace tdas_ops::cpu {
namespace {

constexpr int64_t whole_vectors(int64_t count) { return (count + lanes - 1) / lanes * lanes; }

// Scratch of a thread, kept from call to call: fresh pages cost more than the transforms of a small batch.
class Workspace {
 public:
  Real *spectrum, *line, *line_spectrum, *rows[3], *normals;
  Real *first_freq, *first_skew, *last_freq, *last_skew;  // masks of the first and the last columns, see patch_masks
  int64_t patched_channel;                                // -1: none yet
  int64_t block;                                          // of the spectrum, see Plane

  void fit(int64_t height, int64_t width) {
    patched_channel = -1;
    if (height == height_ && width == width_) return;
    height_ = height;
    width_ = width;
    const int64_t groups = 1 + width % 2, pairs = 2 * whole_vectors((width + 1) / 2), vectors = height * lanes;
    const int64_t rows_floats = whole_vectors(width) * lanes, spectrum_floats = groups * pairs * lanes;
    block = (height + groups * lanes - 1) / (groups * lanes) * (groups * lanes) * line_step;
    const int64_t plane_floats = block / line_step * pairs;
    Real* next = scratch_.fit(plane_floats + spectrum_floats + (3 + groups) * rows_floats + 6 * vectors + 2 * lanes);
    const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
    spectrum = take(plane_floats);
    line = take(groups * rows_floats);
    line_spectrum = take(spectrum_floats);
    std::fill_n(line_spectrum, spectrum_floats, 0.0f);  // columns that do not exist stay so
    first_freq = take(vectors);
    first_skew = take(vectors);
    last_freq = take(vectors);
    last_skew = take(vectors);
    for (Real*& each : rows) each = take(rows_floats);
    normals = take(2 * (vectors + lanes));
  }

 private:
  Scratch scratch_;
  int64_t height_ = 0, width_ = 0;
};

// Called at once beside the drawing of noise, of which a lane makes so many pairs of elements meanwhile: memory has no
// more than some tens of lines on their way, and more at once are waited for.
constexpr int lines_ahead = vector_bytes == 16 ? 2 : 8, elements_ahead = 16 * lines_ahead / vector_bytes;

// Memory that is wanted soon, called for a few lines at a time while the caches have nothing else to do.
class Ahead {
 public:
  template <class T>
  void add(const FieldOf<T>& field, int64_t b, int64_t c, int64_t row, int64_t rows, int64_t width) {
    if (field.data == nullptr || !has_plain_rows(field) || field.strides[2] != width) return;
    add(static_cast<const Real*>(field.data) + offset(field, b, c, row), rows * width);
  }

  void add(const Real* from, int64_t count) {
    const char* at = reinterpret_cast<const char*>(from);
    parts_[count_++] = {at, at + count * sizeof(Real)};
  }

  template <int lines>
  void call() {
    for (int i = 0; i < count_; ++i) {
      Part& part = parts_[i];
      if (part.end - part.at < 64 * lines) continue;  // a rest is not worth the loop
      TDAS_OPS_UNROLL
      for (int line = 0; line < lines; ++line) __builtin_prefetch(part.at + 64 * line, 0, 2);
      part.at += 64 * lines;
    }
  }

  void call_all() {
    for (int i = 0; i < count_; ++i)
      for (; parts_[i].at < parts_[i].end; parts_[i].at += 64) __builtin_prefetch(parts_[i].at, 0, 2);
  }

 private:
  struct Part {
    const char *at, *end;
  };
  Part parts_[4];
  int count_ = 0;
};

struct Plane {
  const UpdateArgs& args;
  int64_t b, c;
  int height, width, half, groups;  // half is that of the spectrum, ceil(W / 2); groups of rows in a line
  int pitch;                        // of the masks
  bool past_cache;                  // its spectrum alone fills an L2 cache of 1 MiB, and is called ahead as well
  int64_t block;                    // floats of `lanes` columns of the spectrum, rows that do not exist included
  const Tables& tables;
  RowTransforms row;
  ColumnTransforms column;
  const Plan *row_plan, *column_plan;  // null where the transforms above are taken
  Workspace& work;
  Masks masks;  // of this channel
  Draw draw;
};

// Small planes are called into the cache as a whole while the one before is filtered, large ones a block of rows at a
// time.
bool is_large(const Plane& plane) { return plane.height * plane.width > (1 << 16) / int{sizeof(Real)}; }

const Real* channel_mask(const Real* mask, int64_t size, int64_t c) {
  return mask == nullptr ? nullptr : mask + c * size;
}

// Planes are worked on channel by channel, since those of a channel share their masks.
Plane plane_of(const UpdateArgs& args, int64_t index, Workspace& work) {
  const int64_t c = index / args.batch, b = index % args.batch;
  const int height = static_cast<int>(args.height), width = static_cast<int>(args.width);
  const int64_t spectrum = args.height * (args.width / 2 + 1);
  const bool even = width % 2 == 0, whole = even && width / 2 % lanes == 0;
  const bool drawn = args.seeds != nullptr;
  return {args,
          b,
          c,
          height,
          width,
          (width + 1) / 2,
          even ? 1 : 2,
          width / 2 + 1,
          height * width * int{sizeof(Real)} >= 1 << 20,
          work.block,
          tables<Real>(),
          row_transforms(width),
          column_transforms(height),
          is_power_of_two(width) ? nullptr : &plan_of<Real>(even ? width / 2 : width),
          whole && is_power_of_two(height) ? nullptr : &plan_of<Real>(height),
          work,
          {channel_mask(args.masks.freq, spectrum, c), channel_mask(args.masks.space, args.height * args.width, c),
           channel_mask(args.masks.skew, spectrum, c)},
          Draw(drawn ? args.seeds[args.seed_per_sample ? b : 0] : 0,
               drawn && !args.seed_per_sample ? args.first_sample + b : 0, args.draw)};
}

// Rows of a plane that are worked on together, and those that exist of the `lanes` from `row` on.
int rows_at_once(const Plane& plane) { return plane.groups * lanes; }
int rows_there(const Plane& plane, int row) { return std::max(0, std::min(lanes, plane.height - row)); }

// Floats of a plane's spectrum in the order of the kernel: those of the plane, where lanes divide its columns.
int64_t kept_floats(int64_t height, int64_t width) { return 2 * height * whole_vectors((width + 1) / 2); }

// Those of the plane at this place.
template <class T>
KeptOf<T> kept_of_plane(KeptOf<T> kept, const UpdateArgs& args, int64_t at) {
  const int64_t first = at * kept_floats(args.height, args.width);
  return {kept.drift == nullptr ? nullptr : kept.drift + first, kept.noise == nullptr ? nullptr : kept.noise + first};
}

// What the plane after this one reads: v and what is kept of it. Of the last sample there is none.
template <class T>
void add_next(Ahead& ahead, const Plane& plane, const Field& v, KeptOf<T> kept) {
  const UpdateArgs& args = plane.args;
  const int64_t floats = kept_floats(args.height, args.width);
  if (plane.b + 1 == args.batch) return;
  ahead.add(v, plane.b + 1, plane.c, 0, args.height, args.width);
  for (const Real* each : {kept.drift, kept.noise})
    if (each != nullptr) ahead.add(each + args.channels * floats, floats);
}

Rows space_rows(const Plane& plane, int row) {
  return {plane.masks.space == nullptr ? nullptr : plane.masks.space + int64_t{row} * plane.width, plane.width};
}

// Both transforms are not normalised and each leaves a factor of 2.
Real spectrum_scale(const Plane& plane) {
  return 0.5f / (static_cast<Real>(plane.height) * static_cast<Real>(plane.width));
}

// Noise is drawn as a spectrum where nothing has to be done to its pixels.
bool noise_is_spectral(const Plane& plane) {
  return plane.args.z.data == nullptr && plane.args.seeds != nullptr && plane.masks.space == nullptr;
}

Workspace& workspace() {
  thread_local Workspace of_this_thread;
  return of_this_thread;
}

// Planes [begin, end) of batch * channels, in the order of the kernel. What belongs to a plane alone (kept spectra,
// squares) lies at b * channels + c.
template <class Work>
void for_planes(const UpdateArgs& args, int64_t begin, int64_t end, Work work_on) {
  Workspace& work = workspace();
  work.fit(args.height, args.width);
  for (int64_t index = begin; index < end; ++index) {
    const Plane plane = plane_of(args, index, work);
    work_on(plane, plane.b * args.channels + plane.c);
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
