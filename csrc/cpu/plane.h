// One filtered update of one plane. With M = W / 2 columns of half spectrum:
//
//   rows      `lanes` rows at a time: rows -> lines of M elements -> transform -> spectra of the rows -> spectrum
//   columns   `lanes` columns at a time, a sandwich: transform, the filter with its noise, transform back
//   rows      back: spectrum -> lines -> transform -> rows, plus x, to the output
//
// With a space mask the columns are done twice, and in between every line is brought back to pixels, multiplied, given
// its noise and transformed again. The spectrum is the only scratch of plane size: [M / lanes][H] elements of a line.
#pragma once

#include <cmath>

#include "../update.h"
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

// What the middle of the sandwich does to a frequency, a sum of terms:
//   X' = (linear R + square R^2) X + i skew_scale w X + kept_scale kept + noise R g
// `kept` is a spectrum in the order of the kernel; `keep` is where X' is left as one. With `squares` the noise is not
// added: |X'|^2 goes to the first sum and |noise R g|^2 to the second one.
enum Term : int { data = 1, skew = 2, kept = 4, noise = 8, keep = 16, squares = 32 };

struct Spectral {
  bool forward = true, inverse = true, has_data = true, has_noise = false;
  float linear = 0.0f, square = 0.0f, noise = 0.0f, skew_scale = 0.0f, kept_scale = 0.0f;
  const float *freq = nullptr, *skew = nullptr;
  const float* kept = nullptr;
  float* keep = nullptr;
  double (*squares)[2] = nullptr;
  Ahead* ahead = nullptr;

  int terms() const {
    return (has_data ? Term::data : 0) | (has_data && skew != nullptr ? Term::skew : 0) |
           (kept != nullptr ? Term::kept : 0) | (has_noise ? Term::noise : 0) | (keep != nullptr ? Term::keep : 0) |
           (squares != nullptr ? Term::squares : 0);
  }
};

// The terms as the compiler sees them: those that are common have loops of their own, the others share one.
template <int value>
struct Terms {
  static constexpr bool known = value >= 0;
  static TDAS_OPS_INLINE bool has(Term term, int terms) { return ((known ? value : terms) & term) != 0; }
};

template <class F>
TDAS_OPS_INLINE auto with_terms(int terms, F f) {
  switch (terms) {
    case data:
      return f(Terms<data>());
    case noise:
      return f(Terms<noise>());
    case data | noise:
      return f(Terms<data | noise>());
    case data | kept:
      return f(Terms<data | kept>());
    case kept | noise:
      return f(Terms<kept | noise>());
    case data | squares:
      return f(Terms<data | squares>());
    case data | keep | squares:
      return f(Terms<data | keep | squares>());
    case data | noise | keep | squares:
      return f(Terms<data | noise | keep | squares>());
    case data | noise | squares:
      return f(Terms<data | noise | squares>());
    case noise | squares:
      return f(Terms<noise | squares>());
    default:
      return f(Terms<-1>());
  }
}

struct Squares {
  Floats data, noise;
};

// The same on one block of columns.
struct Columns {
  Spectral spectral;
  const Draw* draw;
  const LaneQuads* quads;
  const float *freq, *skew;  // at the first frequency of the block; rows are `pitch` apart
  int64_t pitch;
  const float* kept;
  float* keep;
  const uint16_t* places;
  int height;
  uint32_t first_quad, quad_step;  // of the block's first column at h = 0, and from row to row
  int terms;
  Squares* squares;
};

// Frequency first + i H / 8 of every column lies at place + i, for the 8 places that a leaf is called on.
__attribute__((noinline)) void draw_frequencies(Complexes (&g)[8], int first, const Columns& columns) {
  const int step = columns.height / 8;
  for (int i = 0; i < 4; i += groups_at_once) {
    uint32_t quads[groups_at_once];
    Complexes drawn[groups_at_once][2];
    for (int s = 0; s < groups_at_once; ++s)
      quads[s] = columns.first_quad + static_cast<uint32_t>(first + (i + s) * step) * columns.quad_step;
    draw_normals<groups_at_once>(*columns.draw, quads, *columns.quads, drawn);
    for (int s = 0; s < groups_at_once; ++s) {
      g[i + s] = drawn[s][0];
      g[i + s + 4] = drawn[s][1];
    }
  }
}

// The eight frequencies at `place`, first + i H / 8, and their noise.
struct Eight {
  Complexes x[8], g[8];
  int first, place;
};

template <class T>
TDAS_OPS_INLINE Complexes filter_inline(Complexes x, const Eight& eight, int i, const Columns& columns,
                                        Squares& squares) {
  const Spectral& spectral = columns.spectral;
  const int64_t row = (eight.first + i * (columns.height / 8)) * columns.pitch;
  const Floats R = load_loose(columns.freq + row);
  Complexes y = {};
  if (T::has(data, columns.terms)) y = filtered(x, R, spectral.linear, spectral.square);
  if (T::has(skew, columns.terms)) y = with_skew(y, x, spectral.skew_scale * load_loose(columns.skew + row));
  if (T::has(kept, columns.terms)) {
    const Complexes other = load_element(columns.kept, eight.place + i);
    y = {y.re + spectral.kept_scale * other.re, y.im + spectral.kept_scale * other.im};
  }
  if (T::has(Term::squares, columns.terms)) {
    squares.data += y.re * y.re + y.im * y.im;
    if (T::has(noise, columns.terms)) {
      const Complexes z = with_noise(Complexes{}, eight.g[i], R, spectral.noise);
      squares.noise += z.re * z.re + z.im * z.im;
    }
  } else if (T::has(noise, columns.terms)) {
    y = with_noise(y, eight.g[i], R, spectral.noise);
  }
  if (T::has(keep, columns.terms)) store_element(columns.keep, eight.place + i, y);
  return y;
}

__attribute__((noinline)) Complexes filter_any(Complexes x, const Eight& eight, int i, const Columns& columns,
                                               Squares& squares) {
  return filter_inline<Terms<-1>>(x, eight, i, columns, squares);
}

template <class T>
TDAS_OPS_INLINE Complexes filter_element(Complexes x, const Eight& eight, int i, const Columns& columns,
                                         Squares& squares) {
  if constexpr (T::known) return filter_inline<T>(x, eight, i, columns, squares);
  return filter_any(x, eight, i, columns, squares);
}

TDAS_OPS_INLINE void add_squares(const Columns& columns, const Squares& squares) {
  if (columns.squares == nullptr) return;
  columns.squares->data += squares.data;
  columns.squares->noise += squares.noise;
}

TDAS_OPS_INLINE void load_frequencies(Complexes (&x)[8], const float* line, const Spectral& spectral) {
  if (!spectral.has_data) return;
  load_elements(x, line, 0, 1);
  if (spectral.forward) butterfly<8, false>(x);
}

TDAS_OPS_INLINE void store_frequencies(float* line, Complexes (&x)[8], const Spectral& spectral) {
  if (!spectral.inverse) return;
  butterfly<8, true>(x);
  store_elements(line, 0, 1, x);
}

// The same by way of memory. (On a copy: what a reference leads to would be written and read between any two stages.)
__attribute__((noinline)) void load_eight(Complexes (&result)[8], const float* line, const Spectral& spectral) {
  Complexes x[8];
  load_frequencies(x, line, spectral);
  std::memcpy(result, x, sizeof(x));
}

__attribute__((noinline)) void store_eight(float* line, const Complexes (&from)[8], const Spectral& spectral) {
  Complexes x[8];
  std::memcpy(x, from, sizeof(x));
  store_frequencies(line, x, spectral);
}

constexpr int lines_of_eight = 8 * line_step * sizeof(float) / 64;  // as much of a plane as an eight of its columns is

template <class T>
__attribute__((noinline)) void filter_places(float* line, int place, const void* context) {
  const Columns& columns = *static_cast<const Columns*>(context);
  const Spectral& spectral = columns.spectral;
  Eight eight;
  eight.first = columns.places[place];
  eight.place = place;
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
  if (T::has(noise, columns.terms)) draw_frequencies(eight.g, eight.first, columns);
  Complexes x[8];
  Squares squares = {};
  load_frequencies(x, line, spectral);
  TDAS_OPS_UNROLL
  for (int i = 0; i < 8; ++i) x[i] = filter_element<T>(x[i], eight, i, columns, squares);
  add_squares(columns, squares);
  store_frequencies(line, x, spectral);
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
}

// Column 0, the first lane of the first block, ties h to H - h (see update.h); the other lanes are left alone.
TDAS_OPS_INLINE Floats first_lane(Floats one, Floats others) {
  Ints mask = {};
  mask[0] = -1;
  return mask ? one : others;
}

TDAS_OPS_INLINE Complexes first_lane(Complexes one, Complexes others) {
  return {first_lane(one.re, others.re), first_lane(one.im, others.im)};
}

TDAS_OPS_INLINE void separate_first_lane(Complexes& p, Complexes& q) {
  Complexes a = p, b = q;
  separate_column(a, b);
  p = first_lane(a, p);
  q = first_lane(b, q);
}

TDAS_OPS_INLINE void join_first_lane(Complexes& p, Complexes& q) {
  Complexes a = p, b = q;
  join_column(a, b);
  p = first_lane(a, p);
  q = first_lane(b, q);
}

// A half spectrum's first `lanes` columns with column 0 as `separate_first_lane` leaves it: its lower half is that of
// column M. Zero at the two frequencies that hold two real numbers, which `filter_real_frequencies` takes care of.
void patch_mask(float* patched, const float* mask, int64_t pitch, int height) {
  for (int h = 0; h < height; ++h) {
    const Floats row = load_loose(mask + h * pitch);
    const float first = h == 0 || h == height / 2 ? 0.0f : h < height / 2 ? row[0] : mask[(height - h + 1) * pitch - 1];
    store(patched + h * lanes, first_lane(broadcast(first), row));
  }
}

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

// The patched masks of the channel, made when the thread comes to it.
void patch_masks(const Plane& plane) {
  if (plane.work.patched_channel == plane.c) return;
  patch_mask(plane.work.patched_freq, plane.masks.freq, plane.half + 1, plane.height);
  if (plane.masks.skew != nullptr) patch_mask(plane.work.patched_skew, plane.masks.skew, plane.half + 1, plane.height);
  plane.work.patched_channel = plane.c;
}

const float* space_rows(const Plane& plane, int row) {
  return plane.masks.space == nullptr ? nullptr : plane.masks.space + int64_t{row} * plane.width;
}

// The first lane of the frequencies 0 and H / 2: X(0, 0), X(0, M), X(H/2, 0), X(H/2, M), each a real number, which
// counts half in the sums.
void filter_real_frequencies(Eight& eight, const Plane& plane, const Columns& columns, double (&sums)[2]) {
  const Spectral& spectral = columns.spectral;
  for (int which = 0; which < 2; ++which) {
    const int i = 4 * which;
    Complexes& x = eight.x[i];
    const float real[2] = {2.0f * x.re[0], 2.0f * x.im[0]}, g[2] = {eight.g[i].re[0], eight.g[i].im[0]};
    Squares squares = {};
    x = filter_any(x, eight, i, columns, squares);
    add_squares(columns, squares);
    for (int part = 0; part < 2; ++part) {
      const int64_t at = (eight.place + i) * int64_t{line_step} + part * lanes;
      const float R = spectral.freq[which * (plane.height / 2) * int64_t{plane.half + 1} + part * plane.half];
      float y = spectral.has_data ? R * (spectral.square * R + spectral.linear) * real[part] : 0.0f;
      if (columns.kept != nullptr) y += spectral.kept_scale * columns.kept[at];
      const float z = spectral.has_noise ? 1.41421356f * spectral.noise * R * g[part] : 0.0f;
      sums[0] += 0.5 * y * y;
      sums[1] += 0.5 * z * z;
      if (spectral.squares == nullptr) y += z;
      if (columns.keep != nullptr) columns.keep[at] = y;
      (part == 0 ? x.re : x.im)[0] = y;
    }
  }
}

// The first lane of the first block of columns ties h to H - h.
template <class T>
TDAS_OPS_INLINE void filter_tied(Eight& one, int i, Eight& other, int j, const Columns& columns, Squares& squares) {
  Complexes p = one.x[i], q = other.x[j];
  if (T::has(data, columns.terms)) separate_first_lane(p, q);
  p = filter_element<T>(p, one, i, columns, squares);
  q = filter_element<T>(q, other, j, columns, squares);
  if (columns.spectral.inverse) join_first_lane(p, q);
  one.x[i] = p;
  other.x[j] = q;
}

template <Mirror mirror, class T>
__attribute__((noinline)) void filter_ties(Eight& one, Eight& other, const Columns& columns) {
  constexpr int start = mirror == Mirror::zero ? 1 : 0, last = 7 + start;
  Squares squares = {};
  TDAS_OPS_UNROLL
  for (int i = start; i < 4; ++i) {
    filter_tied<T>(one, i, other, last - i, columns, squares);
    if constexpr (mirror == Mirror::other) filter_tied<T>(other, i, one, last - i, columns, squares);
  }
  add_squares(columns, squares);
}

template <Mirror mirror>
void filter_ties(Eight& one, Eight& other, const Columns& columns) {
  with_terms(columns.terms, [&](auto terms) { filter_ties<mirror, decltype(terms)>(one, other, columns); });
}

void read_eight(Eight& eight, const float* line, int first, const Columns& columns) {
  eight.first = first;
  eight.place = columns.places[first];
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
  if (columns.spectral.has_noise) draw_frequencies(eight.g, first, columns);
  load_eight(eight.x, line + eight.place * line_step, columns.spectral);
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
}

void write_eight(float* line, const Eight& eight, const Columns& columns) {
  if (columns.spectral.inverse) store_eight(line + eight.place * line_step, eight.x, columns.spectral);
}

void filter_first_columns(float* line, const Plane& plane, const Columns& columns, double (&squares)[2]) {
  const int eighth = plane.height / 8;
  Eight one, other;
  if (columns.spectral.forward) plane.column.forward_to_eights(line, plane.tables);
  read_eight(one, line, 0, columns);
  filter_ties<Mirror::zero>(one, one, columns);
  filter_real_frequencies(one, plane, columns, squares);
  write_eight(line, one, columns);
  for (int first = 1; first < eighth / 2; ++first) {
    read_eight(one, line, first, columns);
    read_eight(other, line, eighth - first, columns);
    filter_ties<Mirror::other>(one, other, columns);
    write_eight(line, one, columns);
    write_eight(line, other, columns);
  }
  read_eight(one, line, eighth / 2, columns);
  filter_ties<Mirror::own>(one, one, columns);
  write_eight(line, one, columns);
  if (columns.spectral.inverse) plane.column.inverse_from_eights(line, plane.tables);
}

double sum(Floats values) {
  double total = 0.0;
  for (int i = 0; i < lanes; ++i) total += values[i];
  return total;
}

void filter_columns(const Plane& plane, const Spectral& spectral) {
  const int H = plane.height, M = plane.half;
  const LaneQuads quads(1);
  const int64_t block_size = int64_t{H} * line_step;
  Squares squares = {};
  Columns columns = {};
  columns.spectral = spectral;
  columns.draw = &plane.draw;
  columns.quads = &quads;
  columns.places = plane.tables.places[log2_of(H)].data();
  columns.height = H;
  columns.quad_step = static_cast<uint32_t>(M);
  columns.terms = spectral.terms();
  columns.squares = spectral.squares == nullptr ? nullptr : &squares;
  const Leaf leaf = with_terms(columns.terms, [](auto terms) -> Leaf { return filter_places<decltype(terms)>; });
  double real[2] = {};
  for (int first = 0; first < M; first += lanes) {
    float* line = plane.work.spectrum + first / lanes * block_size;
    const int64_t at = first / lanes * block_size;
    columns.first_quad = static_cast<uint32_t>(plane.c * (H / 2) * M + first);
    columns.kept = spectral.kept == nullptr ? nullptr : spectral.kept + at;
    columns.keep = spectral.keep == nullptr ? nullptr : spectral.keep + at;
    if (first > 0) {
      columns.freq = spectral.freq + first;
      columns.skew = spectral.skew == nullptr ? nullptr : spectral.skew + first;
      columns.pitch = M + 1;
      plane.column.sandwich(line, 0, plane.tables, {spectral.forward, spectral.inverse}, leaf, &columns);
    } else {
      patch_masks(plane);
      columns.freq = plane.work.patched_freq;
      columns.skew = plane.work.patched_skew;
      columns.pitch = lanes;
      filter_first_columns(line, plane, columns, real);
    }
  }
  if (spectral.squares == nullptr) return;
  (*spectral.squares)[0] += sum(squares.data) + real[0];
  (*spectral.squares)[1] += sum(squares.noise) + real[1];
}

// Real or imaginary parts of `lanes` elements of a line to those of another one.
TDAS_OPS_INLINE void transpose_tile(float* to, const float* from) {
  Floats tile[lanes];
  transpose([&](int i) { return load(from + i * line_step); }, tile);
  TDAS_OPS_UNROLL
  for (int i = 0; i < lanes; ++i) store(to + i * line_step, tile[i]);
}

// The line's spectrum to that of the plane, rows `row` on, and back.
void store_spectrum(const Plane& plane, int row) {
  for (int first = 0; first < plane.half; first += lanes)
    for (int part = 0; part < line_step; part += lanes) {
      const float* from = plane.work.line_spectrum + first * line_step + part;
      float* to = plane.work.spectrum + (int64_t{first} / lanes * plane.height + row) * line_step + part;
      transpose_tile(to, from);
    }
}

void load_spectrum(const Plane& plane, int row) {
  for (int first = 0; first < plane.half; first += lanes)
    for (int part = 0; part < line_step; part += lanes) {
      const float* from = plane.work.spectrum + (int64_t{first} / lanes * plane.height + row) * line_step + part;
      transpose_tile(plane.work.line_spectrum + first * line_step + part, from);
    }
}

void forward_rows(const Plane& plane, int row) {
  plane.row.forward(plane.work.line, plane.work.line_spectrum, plane.tables);
  store_spectrum(plane, row);
}

void inverse_rows(const Plane& plane, int row) {
  load_spectrum(plane, row);
  plane.row.inverse(plane.work.line_spectrum, plane.work.line, plane.tables);
}

void transposed(float* to, const float* rows, int64_t stride) {
  Floats tile[lanes];
  transpose([&](int i) { return load_loose(rows + i * stride); }, tile);
  TDAS_OPS_UNROLL
  for (int i = 0; i < lanes; ++i) store(to + i * lanes, tile[i]);
}

// The line of pixels from `row` on becomes A (data A line + noise z), with A = 1 where absent and z from the caller,
// drawn, or absent; without data the line is not read.
void filter_pixels(const Plane& plane, int row, bool has_data, float data, float noise, bool with_noise) {
  const UpdateArgs& args = plane.args;
  const int quarter = plane.half / 2;  // elements that a call makes together are this far apart
  const LaneQuads quads(quarter);
  const uint32_t first_quad = static_cast<uint32_t>((plane.c * plane.height + row) * quarter);
  const float* space = space_rows(plane, row);
  const bool given = with_noise && args.z.data != nullptr, drawn = with_noise && !given && args.seeds != nullptr;
  const Rows z = given ? rows_of(args.z, plane.b, plane.c, row, plane.width, plane.work.rows[0]) : Rows{};
  constexpr int elements = lanes / 2;  // of a tile of `lanes` columns
  for (int first = 0; first < quarter; first += elements) {
    alignas(64) float A[2][lanes * lanes], noises[2][lanes * lanes];
    for (int part = 0; part < 2; ++part) {
      const int column = 2 * (first + part * quarter);
      if (space != nullptr) transposed(A[part], space + column, plane.width);
      if (given) transposed(noises[part], z.data + column, z.stride);
    }
    if (drawn) {
      for (int j = 0; j < elements; j += groups_at_once) {
        uint32_t at[groups_at_once];
        Complexes g[groups_at_once][2];
        for (int s = 0; s < groups_at_once; ++s) at[s] = first_quad + static_cast<uint32_t>(first + j + s);
        draw_normals<groups_at_once>(plane.draw, at, quads, g);
        for (int s = 0; s < groups_at_once; ++s)
          for (int part = 0; part < 2; ++part) store_element(noises[part], j + s, g[s][part]);
      }
    }
    for (int part = 0; part < 2; ++part) {
      float* line = plane.work.line + (first + part * quarter) * line_step;
      for (int i = 0; i < lanes; ++i) {
        const Floats a = space == nullptr ? broadcast(1.0f) : load(A[part] + i * lanes);
        const Floats u = has_data ? load(line + i * lanes) : broadcast(0.0f);
        const Floats z = given || drawn ? load(noises[part] + i * lanes) : broadcast(0.0f);
        store(line + i * lanes, filtered_pixel(u, z, a, data, noise));
      }
    }
  }
}

void write_plane(const Plane& plane, const float* factors, const Field& base, const Field& v, float scale) {
  const UpdateArgs& args = plane.args;
  const bool direct = has_plain_rows(args.out);
  for (int row = 0; row < plane.height; row += lanes) {
    if (is_large(plane)) {
      Ahead ahead;
      ahead.add(base, plane.b, plane.c, row, lanes, plane.width);
      ahead.add(v, plane.b, plane.c, row, lanes, plane.width);
      ahead.call_all();
    }
    inverse_rows(plane, row);
    Finish finish = {factors == nullptr ? nullptr : factors + int64_t{row} * plane.width, {}, {}, scale};
    if (base.data != nullptr) finish.base = rows_of(base, plane.b, plane.c, row, plane.width, plane.work.rows[0]);
    if (v.data != nullptr) finish.v = rows_of(v, plane.b, plane.c, row, plane.width, plane.work.rows[1]);
    const int64_t at = offset(args.out, plane.b, plane.c, row);
    if (direct) {
      float* out = static_cast<float*>(args.out.data) + at;
      const bool past_cache = int64_t{plane.height} * plane.width >= (1 << 16) && args.out.data != base.data &&
                              args.out.strides[2] % lanes == 0 && reinterpret_cast<uintptr_t>(out) % vector_bytes == 0;
      (past_cache ? write_rows<true> : write_rows<false>)(out, args.out.strides[2], plane.work.line, finish,
                                                          plane.width);
    } else {
      float* buffer = plane.work.rows[2];
      write_rows<false>(buffer, plane.width, plane.work.line, finish, plane.width);
      for (int i = 0; i < lanes; ++i)
        narrow_row(args.out.data, args.out.element, at + i * args.out.strides[2], args.out.strides[3],
                   buffer + i * plane.width, plane.width);
    }
  }
}

void read_plane(const Plane& plane, const Field& field, bool times_space) {
  for (int row = 0; row < plane.height; row += lanes) {
    if (is_large(plane) && row + lanes < plane.height) {
      Ahead ahead;
      ahead.add(field, plane.b, plane.c, row + lanes, lanes, plane.width);
      ahead.call_all();
    }
    const Rows rows = rows_of(field, plane.b, plane.c, row, plane.width, plane.work.rows[0]);
    read_rows(plane.work.line, rows, times_space ? space_rows(plane, row) : nullptr, plane.width);
    forward_rows(plane, row);
  }
}

// Both transforms are not normalised and each leaves a factor of 2.
float spectrum_scale(const Plane& plane) {
  return 0.5f / (static_cast<float>(plane.height) * static_cast<float>(plane.width));
}

// Noise is drawn as a spectrum where nothing has to be done to its pixels.
bool noise_is_spectral(const Plane& plane) {
  return plane.args.z.data == nullptr && plane.args.seeds != nullptr && plane.masks.space == nullptr;
}

// linear R.
Spectral spectral_of(const Plane& plane, float linear) {
  Spectral spectral;
  spectral.freq = plane.masks.freq;
  spectral.linear = linear;
  return spectral;
}

// R F v and the pixels A (data A F^-1 R F v + noise z) transformed again.
void filter_twice(const Plane& plane, float data, float noise, bool with_noise = true) {
  read_plane(plane, plane.args.v, false);
  filter_columns(plane, spectral_of(plane, 1.0f));
  for (int row = 0; row < plane.height; row += lanes) {
    inverse_rows(plane, row);
    filter_pixels(plane, row, true, data, noise, with_noise);
    forward_rows(plane, row);
  }
}

// F A noise z.
void read_noise(const Plane& plane, float noise) {
  for (int row = 0; row < plane.height; row += lanes) {
    filter_pixels(plane, row, false, 0.0f, noise, true);
    forward_rows(plane, row);
  }
}

void update_plane(const Plane& plane, const float* kept) {
  const UpdateArgs& args = plane.args;
  const float scale = spectrum_scale(plane);
  const float d = args.d == nullptr ? 1.0f : args.d[plane.b], n = args.n == nullptr ? 1.0f : args.n[plane.b];
  const bool drift = args.filter == Filter::drift || args.filter == Filter::MMt;
  const bool drawn_spectrum = noise_is_spectral(plane);
  const Field none = {};
  Field base = args.base;
  Spectral spectral = spectral_of(plane, scale);
  spectral.has_noise = drawn_spectrum;
  spectral.noise = n * std::sqrt(scale);
  if (kept != nullptr || args.filter == Filter::noise) {
    if (drawn_spectrum)
      spectral.has_data = spectral.forward = false;
    else
      read_noise(plane, n);
    spectral.kept = kept;
    spectral.kept_scale = d * scale;
  } else if (drift && plane.masks.space == nullptr && args.z.data == nullptr) {
    read_plane(plane, args.v, false);
    spectral.linear = 0.0f;
    spectral.square = spectral.skew_scale = d * scale;
    spectral.skew = plane.masks.skew;
  } else if (drift) {
    if (plane.masks.skew != nullptr) {  // out = base + d S v first
      read_plane(plane, args.v, false);
      Spectral skew = spectral_of(plane, 0.0f);
      skew.skew = plane.masks.skew;
      skew.skew_scale = d * scale;
      filter_columns(plane, skew);
      write_plane(plane, nullptr, base, none, 0.0f);
      base = constant(args.out);
    }
    filter_twice(plane, d * scale, n);
  } else {
    read_plane(plane, args.v, args.filter == Filter::M);
  }
  Ahead ahead;
  if (!is_large(plane)) {
    const Field& v = args.v;
    ahead.add(base, plane.b, plane.c, 0, plane.height, plane.width);
    ahead.add(args.out, plane.b, plane.c, 0, plane.height, plane.width);
    if (args.filter == Filter::noise)
      ahead.add(v, plane.b, plane.c, 0, plane.height, plane.width);
    else if (plane.b + 1 < args.batch)
      ahead.add(v, plane.b + 1, plane.c, 0, plane.height, plane.width);
    spectral.ahead = &ahead;
  }
  filter_columns(plane, spectral);
  write_plane(plane, args.filter == Filter::Mt ? plane.masks.space : nullptr, base,
              args.filter == Filter::noise ? args.v : none, d);
}

double square_of(const Plane& plane, const Field& field) {
  double total = 0.0;
  for (int row = 0; row < plane.height; row += lanes) {
    const Rows rows = rows_of(field, plane.b, plane.c, row, plane.width, plane.work.rows[0]);
    Floats squares = {};
    for (int i = 0; i < lanes; ++i)
      for (int column = 0; column < plane.width; column += lanes) {
        const Floats v = load_loose(rows.data + i * rows.stride + column);
        squares += v * v;
      }
    total += sum(squares);
  }
  return total;
}

// |D v|^2 and |M z|^2 of a plane, from their spectra. That of D v goes to `keep` (height * width floats, in the order
// of the kernel) where there is room for it.
void measure_plane(const Plane& plane, double (&squares)[2], float* keep) {
  const UpdateArgs& args = plane.args;
  const double scale = spectrum_scale(plane);
  double sums[2] = {}, noise_sums[2] = {};
  Spectral spectral = spectral_of(plane, 1.0f);
  spectral.inverse = false;
  spectral.has_noise = noise_is_spectral(plane);
  spectral.noise = 1.0f;
  if (!spectral.has_noise) {
    Spectral noise = spectral;
    read_noise(plane, 1.0f);
    noise.squares = &noise_sums;
    filter_columns(plane, noise);
  }
  spectral.squares = &sums;
  spectral.keep = keep;
  if (args.filter == Filter::noise) {
    if (spectral.has_noise) {
      spectral.keep = nullptr;
      spectral.has_data = spectral.forward = false;
      filter_columns(plane, spectral);
    }
    squares[0] = square_of(plane, args.v);
  } else {
    if (plane.masks.space == nullptr) {
      read_plane(plane, args.v, false);
      spectral.linear = 0.0f;
      spectral.square = 1.0f;
      spectral.skew = plane.masks.skew;
      spectral.skew_scale = 1.0f;
    } else {
      if (plane.masks.skew != nullptr) {
        read_plane(plane, args.v, false);
        Spectral skew = spectral_of(plane, 0.0f);
        skew.inverse = false;
        skew.skew = plane.masks.skew;
        skew.skew_scale = 1.0f;
        skew.keep = keep;
        filter_columns(plane, skew);
        spectral.kept = keep;
        spectral.kept_scale = 1.0f;
      }
      filter_twice(plane, static_cast<float>(scale), 0.0f, false);
    }
    filter_columns(plane, spectral);
    squares[0] = sums[0] * scale;
  }
  squares[1] = spectral.has_noise ? sums[1] : noise_sums[0] * scale;
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

void update_planes(const UpdateArgs& args, const float* kept, int64_t begin, int64_t end) {
  const int64_t size = args.height * args.width;
  for_planes(args, begin, end, [&](const Plane& plane, int64_t at) {
    update_plane(plane, kept == nullptr ? nullptr : kept + at * size);
  });
#if defined(__x86_64__)
  _mm_sfence();  // what went past the cache is written before the caller reads it
#endif
}

void measure_planes(const UpdateArgs& args, double (*squares)[2], float* keep, int64_t begin, int64_t end) {
  const int64_t size = args.height * args.width;
  for_planes(args, begin, end, [&](const Plane& plane, int64_t at) {
    measure_plane(plane, squares[at], keep == nullptr ? nullptr : keep + at * size);
  });
}

}  // namespace
}  // namespace tdas_ops::cpu
