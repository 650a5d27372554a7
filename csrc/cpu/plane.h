// A plane in its update: place, masks, scratch. With M = W / 2 columns of half spectrum:
//
//   rows      `lanes` rows at a time: rows -> lines of M elements -> transform -> spectra of the rows -> spectrum
//   columns   `lanes` columns at a time, a sandwich: transform, the filter with its noise, transform back
//   rows      back: spectrum -> lines -> transform -> rows, plus x, to the output
//
// With a space mask the columns are done twice, and in between every line is brought back to pixels, multiplied, given
// its noise and transformed again. The spectrum is the only scratch of plane size: [M / lanes][H] elements of a line.
#pragma once

#include "memory.h"
#include "normals.h"
#include "rows.h"
#include "transform.h"

namespace tdas_ops::cpu {
namespace {

// Scratch of a thread, kept from call to call: fresh pages cost more than the transforms of a small batch.
class Workspace {
 public:
  float *spectrum, *line, *line_spectrum, *patched_freq, *patched_skew, *rows[3];
  int64_t patched_channel;  // -1: none yet

  void fit(int64_t height, int64_t width) {
    const int64_t block = lanes * width,
                  sizes[] = {height * width, block, block, height * lanes, height * lanes, 3 * block};
    int64_t total = 0;
    for (const int64_t size : sizes) total += size;
    spectrum = scratch_.fit(total);
    line = spectrum + sizes[0];
    line_spectrum = line + sizes[1];
    patched_freq = line_spectrum + sizes[2];
    patched_skew = patched_freq + sizes[3];
    for (int i = 0; i < 3; ++i) rows[i] = patched_skew + sizes[4] + i * block;
    patched_channel = -1;
  }

 private:
  Scratch scratch_;
};

// Memory that is wanted soon, called for a few lines at a time while the caches have nothing else to do.
class Ahead {
 public:
  template <class T>
  void add(const FieldOf<T>& field, int64_t b, int64_t c, int64_t row, int64_t rows, int64_t width) {
    if (field.data == nullptr || !has_plain_rows(field) || field.strides[2] != width) return;
    const char* at = reinterpret_cast<const char*>(static_cast<const float*>(field.data) + offset(field, b, c, row));
    parts_[count_++] = {at, at + rows * width * sizeof(float)};
  }

  template <int lines>
  void call() {
    for (int i = 0; i < count_; ++i) {
      Part& part = parts_[i];
      if (part.end - part.at < 64 * lines) continue;  // planes are a multiple of what is called at once
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
  int height, width, half;  // half = width / 2
  const Tables& tables;
  RowTransforms row;
  ColumnTransforms column;
  Workspace& work;
  Masks masks;  // of this channel
  Draw draw;
};

// Small planes are called into the cache as a whole while the one before is filtered, large ones a block of rows at a
// time.
bool is_large(const Plane& plane) { return plane.height * plane.width > (1 << 14); }

const float* channel_mask(const float* mask, int64_t size, int64_t c) {
  return mask == nullptr ? nullptr : mask + c * size;
}

// Planes are worked on channel by channel, since those of a channel share their masks.
Plane plane_of(const UpdateArgs& args, int64_t index, Workspace& work) {
  const int64_t c = index / args.batch, b = index % args.batch;
  const int height = static_cast<int>(args.height), width = static_cast<int>(args.width);
  const int64_t spectrum = args.height * (args.width / 2 + 1);
  const bool drawn = args.seeds != nullptr;
  return {args,
          b,
          c,
          height,
          width,
          width / 2,
          tables(),
          row_transforms(width),
          column_transforms(height),
          work,
          {channel_mask(args.masks.freq, spectrum, c), channel_mask(args.masks.space, args.height * args.width, c),
           channel_mask(args.masks.skew, spectrum, c)},
          Draw(drawn ? args.seeds[args.seed_per_sample ? b : 0] : 0,
               drawn && !args.seed_per_sample ? args.first_sample + b : 0, args.draw)};
}

const float* space_rows(const Plane& plane, int row) {
  return plane.masks.space == nullptr ? nullptr : plane.masks.space + int64_t{row} * plane.width;
}

// Both transforms are not normalised and each leaves a factor of 2.
float spectrum_scale(const Plane& plane) {
  return 0.5f / (static_cast<float>(plane.height) * static_cast<float>(plane.width));
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
