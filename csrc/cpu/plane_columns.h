// Columns of a power of two, and of a whole number of vectors: the sandwich of their transforms, laid out at compile
// time, with the filter and its noise in its middle.
#pragma once

#include "plane_terms.h"
#include "transform.h"

namespace tdas_ops::cpu {
namespace {

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
TDAS_OPS_INLINE Complexes filter_eight(Complexes x, const Eight& eight, int i, const Columns& columns,
                                       Squares& squares) {
  const int64_t row = (eight.first + i * (columns.height / 8)) * columns.pitch;
  return filter_element<T>(x, eight.g[i], row, eight.place + i, columns, squares);
}

TDAS_OPS_INLINE void load_frequencies(Complexes (&x)[8], const Real* line, const Spectral& spectral) {
  if (!spectral.has_data) return;
  load_elements(x, line, 0, 1);
  if (spectral.forward) butterfly<8, false>(x);
}

TDAS_OPS_INLINE void store_frequencies(Real* line, Complexes (&x)[8], const Spectral& spectral) {
  if (!spectral.inverse) return;
  butterfly<8, true>(x);
  store_elements(line, 0, 1, x);
}

// The same by way of memory. (On a copy: what a reference leads to would be written and read between any two stages.)
__attribute__((noinline)) void load_eight(Complexes (&result)[8], const Real* line, const Spectral& spectral) {
  Complexes x[8];
  load_frequencies(x, line, spectral);
  std::memcpy(result, x, sizeof(x));
}

__attribute__((noinline)) void store_eight(Real* line, const Complexes (&from)[8], const Spectral& spectral) {
  Complexes x[8];
  std::memcpy(x, from, sizeof(x));
  store_frequencies(line, x, spectral);
}

constexpr int lines_of_eight = 8 * line_step * sizeof(Real) / 64;  // as much of a plane as an eight of its columns is

template <class T>
__attribute__((noinline)) void filter_places(Real* line, int place, const void* context) {
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
  for (int i = 0; i < 8; ++i) x[i] = filter_eight<T>(x[i], eight, i, columns, squares);
  add_squares(columns, squares);
  store_frequencies(line, x, spectral);
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
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

// The frequencies 0 and H / 2.
void filter_real_frequencies(Eight& eight, const Plane& plane, const Columns& columns, double (&sums)[2]) {
  for (int which = 0; which < 2; ++which) {
    const int i = 4 * which;
    Squares squares = {};
    const Complexes x = eight.x[i];
    const int64_t row = i * int64_t{columns.height / 8} * columns.pitch;
    eight.x[i] = filter_any(x, eight.g[i], row, eight.place + i, columns, squares);
    add_squares(columns, squares);
    filter_real_frequency(eight.x[i], which, x, eight.g[i], eight.place + i, plane, columns, sums);
  }
}

// The first lane of the first block of columns ties h to H - h.
template <class T>
TDAS_OPS_INLINE void filter_tied(Eight& one, int i, Eight& other, int j, const Columns& columns, Squares& squares) {
  Complexes p = one.x[i], q = other.x[j];
  if (T::has(data, columns.terms)) separate_first_lane(p, q);
  p = filter_eight<T>(p, one, i, columns, squares);
  q = filter_eight<T>(q, other, j, columns, squares);
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

void read_eight(Eight& eight, const Real* line, int first, const Columns& columns) {
  eight.first = first;
  eight.place = columns.places[first];
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
  if (columns.spectral.has_noise) draw_frequencies(eight.g, first, columns);
  load_eight(eight.x, line + eight.place * line_step, columns.spectral);
  if (columns.spectral.ahead != nullptr) columns.spectral.ahead->call<lines_of_eight / 2>();
}

void write_eight(Real* line, const Eight& eight, const Columns& columns) {
  if (columns.spectral.inverse) store_eight(line + eight.place * line_step, eight.x, columns.spectral);
}

void filter_first_columns(Real* line, const Plane& plane, const Columns& columns, double (&squares)[2]) {
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

}  // namespace
}  // namespace tdas_ops::cpu
