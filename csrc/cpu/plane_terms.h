// What the columns of a plane go through between their transforms, and its masks.
#pragma once

#include "../update.h"
#include "normals.h"
#include "plane.h"

namespace tdas_ops::cpu {
namespace {

// What the middle of the sandwich does to a frequency, a sum of terms:
//   X' = (linear R + square R^2) X + i skew_scale w X + kept_scale kept + other_scale other + noise R g
// `kept` and `other` are each a spectrum in the order of the kernel; `keep` is where X' is left as one. With `squares`
// the noise is not added: |X'|^2 goes to the first sum and |noise R g|^2 to the second one.
enum Term : int { data = 1, skew = 2, kept = 4, noise = 8, keep = 16, squares = 32, other = 64 };

struct Spectral {
  bool forward = true, inverse = true, has_data = true, has_noise = false;
  Real linear = 0.0f, square = 0.0f, noise = 0.0f, skew_scale = 0.0f, kept_scale = 0.0f, other_scale = 0.0f;
  const Real *freq = nullptr, *skew = nullptr;
  const Real *kept = nullptr, *other = nullptr;
  Real* keep = nullptr;
  double (*squares)[2] = nullptr;
  Ahead* ahead = nullptr;

  int terms() const {
    return (has_data ? Term::data : 0) | (has_data && skew != nullptr ? Term::skew : 0) |
           (kept != nullptr ? Term::kept : 0) | (has_noise ? Term::noise : 0) | (keep != nullptr ? Term::keep : 0) |
           (squares != nullptr ? Term::squares : 0) | (other != nullptr ? Term::other : 0);
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
    case kept:
      return f(Terms<kept>());
    case kept | other:
      return f(Terms<kept | other>());
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
  const Real *freq, *skew;  // at the first frequency of the block; rows are `pitch` apart
  int64_t pitch;
  const Real *kept, *other;
  Real* keep;
  const uint16_t* places;
  int height;
  uint32_t first_quad, quad_step;  // of the block's first column at h = 0, and from row to row
  int terms;
  Squares* squares;
};

// Frequency x of a row, its masks `row` floats from the first ones, kept and left at place `at`; g is its noise.
template <class T>
TDAS_OPS_INLINE Complexes filter_inline(Complexes x, const Complexes& g, int64_t row, int64_t at,
                                        const Columns& columns, Squares& squares) {
  const Spectral& spectral = columns.spectral;
  const Floats R = load_loose(columns.freq + row);
  Complexes y = {};
  if (T::has(data, columns.terms)) y = filtered(x, R, spectral.linear, spectral.square);
  if (T::has(skew, columns.terms)) y = with_skew(y, x, spectral.skew_scale * load_loose(columns.skew + row));
  if (T::has(kept, columns.terms)) {
    const Complexes there = load_element(columns.kept, at);
    y = {y.re + spectral.kept_scale * there.re, y.im + spectral.kept_scale * there.im};
  }
  if (T::has(other, columns.terms)) {
    const Complexes there = load_element(columns.other, at);
    y = {y.re + spectral.other_scale * there.re, y.im + spectral.other_scale * there.im};
  }
  if (T::has(Term::squares, columns.terms)) {
    squares.data += y.re * y.re + y.im * y.im;
    if (T::has(noise, columns.terms)) {
      const Complexes z = with_noise(Complexes{}, g, R, spectral.noise);
      squares.noise += z.re * z.re + z.im * z.im;
    }
  } else if (T::has(noise, columns.terms)) {
    y = with_noise(y, g, R, spectral.noise);
  }
  if (T::has(keep, columns.terms)) store_element(columns.keep, at, y);
  return y;
}

__attribute__((noinline)) Complexes filter_any(Complexes x, const Complexes& g, int64_t row, int64_t at,
                                               const Columns& columns, Squares& squares) {
  return filter_inline<Terms<-1>>(x, g, row, at, columns, squares);
}

template <class T>
TDAS_OPS_INLINE Complexes filter_element(Complexes x, const Complexes& g, int64_t row, int64_t at,
                                         const Columns& columns, Squares& squares) {
  if constexpr (T::known) return filter_inline<T>(x, g, row, at, columns, squares);
  return filter_any(x, g, row, at, columns, squares);
}

TDAS_OPS_INLINE void add_squares(const Columns& columns, const Squares& squares) {
  if (columns.squares == nullptr) return;
  columns.squares->data += squares.data;
  columns.squares->noise += squares.noise;
}

// Column 0, the first lane of the first block, ties h to H - h (see update.h); the other lanes are left alone.
TDAS_OPS_INLINE Floats first_lane(Floats one, Floats others) {
  decltype(one < others) mask = {};
  mask[0] = -1;
  return mask ? one : others;
}

TDAS_OPS_INLINE Complexes first_lane(Complexes one, Complexes others) {
  return {first_lane(one.re, others.re), first_lane(one.im, others.im)};
}

// `lanes` columns of a half spectrum from `first` on, zero where there are none. Of even W column 0 is as
// `separate_first_lane` leaves it: its lower half is that of column M. Zero at the two frequencies that hold two real
// numbers, which `filter_real_frequency` takes care of.
void patch_mask(Real* patched, const Real* mask, int first, const Plane& plane) {
  const int64_t height = plane.height, pitch = plane.pitch;
  if (first + lanes <= plane.half)
    for (int64_t h = 0; h < height; ++h) store(patched + h * lanes, load_loose(mask + h * pitch + first));
  else
    for (int64_t h = 0; h < height; ++h)
      store(patched + h * lanes, load_some(mask + h * pitch, first, plane.half - first));
  if (first > 0 || plane.groups == 2) return;
  patched[0] = 0.0f;
  if (height % 2 == 0) patched[height / 2 * lanes] = 0.0f;
  for (int64_t h = height / 2 + 1; h < height; ++h) patched[h * lanes] = mask[(height - h + 1) * pitch - 1];
}

// The patched masks of the channel, made when the thread comes to it: of the first columns, and of the last ones where
// they do not fill a vector.
void patch_masks(const Plane& plane) {
  Workspace& work = plane.work;
  if (work.patched_channel == plane.c) return;
  const int last = plane.half / lanes * lanes;
  const auto patch = [&](Real* to_first, Real* to_last, const Real* mask) {
    if (mask == nullptr) return;
    patch_mask(to_first, mask, 0, plane);
    if (last > 0 && last < plane.half) patch_mask(to_last, mask, last, plane);
  };
  patch(work.first_freq, work.last_freq, plane.masks.freq);
  patch(work.first_skew, work.last_skew, plane.masks.skew);
  work.patched_channel = plane.c;
}

// The first lane of a frequency 0 or H / 2 of even W, which holds two real numbers, `which` being 0 or 1: those of
// X(h, 0) and X(h, M), each of which counts half in the sums. x and g are what they were before the filter.
void filter_real_frequency(Complexes& y, int which, Complexes x, Complexes g, int64_t place, const Plane& plane,
                           const Columns& columns, double (&sums)[2]) {
  const Spectral& spectral = columns.spectral;
  const Real real[2] = {2.0f * x.re[0], 2.0f * x.im[0]}, normal[2] = {g.re[0], g.im[0]};
  for (int part = 0; part < 2; ++part) {
    const int64_t at = place * int64_t{line_step} + part * lanes;
    const Real R = spectral.freq[which * (plane.height / 2) * int64_t{plane.pitch} + part * plane.half];
    Real value = spectral.has_data ? R * (spectral.square * R + spectral.linear) * real[part] : 0.0f;
    if (columns.kept != nullptr) value += spectral.kept_scale * columns.kept[at];
    if (columns.other != nullptr) value += spectral.other_scale * columns.other[at];
    const Real z = spectral.has_noise ? root_two * spectral.noise * R * normal[part] : 0.0f;
    sums[0] += 0.5 * value * value;
    sums[1] += 0.5 * z * z;
    if (spectral.squares == nullptr) value += z;
    if (columns.keep != nullptr) columns.keep[at] = value;
    (part == 0 ? y.re : y.im)[0] = value;
  }
}

double sum(Floats values) {
  double total = 0.0;
  for (int i = 0; i < lanes; ++i) total += values[i];
  return total;
}

}  // namespace
}  // namespace tdas_ops::cpu
