// Columns of a plane: the sandwich of their transforms, with the filter and its noise between them.
#pragma once

#include "../update.h"
#include "normals.h"
#include "plane.h"
#include "transform.h"

namespace tdas_ops::cpu {
namespace {

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

// The patched masks of the channel, made when the thread comes to it.
void patch_masks(const Plane& plane) {
  if (plane.work.patched_channel == plane.c) return;
  patch_mask(plane.work.patched_freq, plane.masks.freq, plane.half + 1, plane.height);
  if (plane.masks.skew != nullptr) patch_mask(plane.work.patched_skew, plane.masks.skew, plane.half + 1, plane.height);
  plane.work.patched_channel = plane.c;
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

}  // namespace
}  // namespace tdas_ops::cpu
