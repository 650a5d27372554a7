// Rows of a plane: from tensors to the spectrum and back, and what is done to pixels in between.
#pragma once

#include "../update.h"
#include "normals.h"
#include "plane.h"
#include "rows.h"

namespace tdas_ops::cpu {
namespace {

// Real or imaginary parts of `lanes` elements of a line to those of another one.
TDAS_OPS_INLINE void transpose_tile(Real* to, const Real* from) {
  Floats tile[lanes];
  transpose([&](int i) { return load(from + i * line_step); }, tile);
  TDAS_OPS_UNROLL
  for (int i = 0; i < lanes; ++i) store(to + i * line_step, tile[i]);
}

// The same where the first `count` elements are there; the others are zero.
__attribute__((noinline)) void transpose_some(Real* to, const Real* from, int count) {
  alignas(vector_bytes) Real there[lanes * line_step] = {};
  for (int i = 0; i < count; ++i) store(there + i * line_step, load(from + i * line_step));
  transpose_tile(to, there);
}

// The spectrum of a group's rows in the line, and in the plane: `row` is the first of them.
Real* group_spectrum(const Plane& plane, int group) {
  return plane.work.line_spectrum + group * whole_vectors(plane.half) * line_step;
}

// The rows after those at `at` in a block of columns: lines side by side, but few of them.
TDAS_OPS_INLINE void call_rows(const Plane& plane, const Real* at) {
  const char* next = reinterpret_cast<const char*>(at + int64_t{rows_at_once(plane)} * line_step);
  TDAS_OPS_UNROLL
  for (int line = 0; line < lanes * line_step * int{sizeof(Real)} / 64; ++line)
    __builtin_prefetch(next + 64 * line, 0, 2);
}

// Of a group's rows from `row` on.
void store_spectrum(const Plane& plane, int group, int row) {
  const bool ahead = plane.past_cache && row + rows_at_once(plane) < plane.height;
  const Real* from = group_spectrum(plane, group);
  Real* to = plane.work.spectrum + int64_t{row} * line_step;
  for (int first = 0; first < plane.half; first += lanes, from += lanes * line_step, to += plane.block) {
    if (ahead) call_rows(plane, to);
    for (int part = 0; part < line_step; part += lanes) transpose_tile(to + part, from + part);
  }
}

void load_spectrum(const Plane& plane, int group, int row) {
  const int count = rows_there(plane, row);
  const bool ahead = plane.past_cache && row + rows_at_once(plane) < plane.height;
  const Real* from = plane.work.spectrum + int64_t{row} * line_step;
  Real* to = group_spectrum(plane, group);
  for (int first = 0; first < plane.half; first += lanes, to += lanes * line_step, from += plane.block) {
    if (ahead) call_rows(plane, from);
    for (int part = 0; part < line_step; part += lanes)
      if (count == lanes)
        transpose_tile(to + part, from + part);
      else
        transpose_some(to + part, from + part, count);
  }
}

// The line to the plane's spectrum, rows `row` on, and back.
void forward_rows(const Plane& plane, int row) {
  const Workspace& work = plane.work;
  if (plane.row_plan == nullptr) {
    plane.row.forward(work.line, work.line_spectrum, plane.tables);
    return store_spectrum(plane, 0, row);
  }
  forward_line(*plane.row_plan, work.line);
  if (plane.groups == 1) {
    separate_rows(work.line, work.line_spectrum, *plane.row_plan);
  } else {
    separate_pair(work.line, work.line_spectrum, group_spectrum(plane, 1), *plane.row_plan);
    store_spectrum(plane, 1, row + lanes);
  }
  store_spectrum(plane, 0, row);
}

void inverse_rows(const Plane& plane, int row) {
  const Workspace& work = plane.work;
  load_spectrum(plane, 0, row);
  if (plane.row_plan == nullptr) return plane.row.inverse(work.line_spectrum, work.line, plane.tables);
  if (plane.groups == 1) {
    join_rows(work.line_spectrum, work.line, *plane.row_plan);
  } else {
    load_spectrum(plane, 1, row + lanes);
    join_pair(work.line_spectrum, group_spectrum(plane, 1), work.line, *plane.row_plan);
  }
  inverse_line(*plane.row_plan, work.line);
}

// The tile of rows at `column`, as columns; absent rows and columns are zero.
__attribute__((noinline)) void transposed(Real* to, Rows rows, int64_t column, int count, int64_t width) {
  TileCopy copy;
  const bool whole = count == lanes && column + lanes <= width;
  const Rows from = whole ? Rows{rows.data + column, rows.stride} : padded_tile(copy, rows, column, count, width);
  read_tile<1>(to, from, {}, 0);
}

// What is done to the pixels of a line: A (data A u + noise z), with A = 1 where absent and z from the caller, drawn,
// or absent; without data the line is not read.
struct Pixels {
  bool has_data;
  Real data, noise;
  bool with_noise;
  Ahead* ahead;  // called meanwhile, of large planes for the space mask alone; null where nothing is wanted
};

// A tile of the line; rows of the space mask are `stride` apart.
template <int groups, bool has_space, bool has_data, bool has_noise>
void filter_tile(Real* line, const Real* space, int64_t stride, const Real* z, const Pixels& pixels) {
  const Real data = pixels.data, noise = pixels.noise;
  Floats A[lanes];
  if constexpr (has_space) transpose([&](int i) { return load_loose(space + i * stride); }, A);
  TDAS_OPS_UNROLL
  for (int i = 0; i < lanes; ++i) {
    const Floats a = has_space ? A[i] : broadcast(1.0f), u = has_data ? load(line + i * groups * lanes) : Floats{};
    const Floats normals = has_noise ? load(z + i * lanes) : Floats{};
    store(line + i * groups * lanes, filtered_pixel(u, normals, a, data, noise));
  }
}

using FilterTile = void (*)(Real* line, const Real* space, int64_t stride, const Real* z, const Pixels& pixels);

template <int groups>
FilterTile filter_tile_of(const bool (&terms)[3]) {
  constexpr FilterTile tiles[8] = {filter_tile<groups, false, false, false>, filter_tile<groups, false, false, true>,
                                   filter_tile<groups, false, true, false>,  filter_tile<groups, false, true, true>,
                                   filter_tile<groups, true, false, false>,  filter_tile<groups, true, false, true>,
                                   filter_tile<groups, true, true, false>,   filter_tile<groups, true, true, true>};
  return tiles[4 * terms[0] + 2 * terms[1] + terms[2]];
}

// The noise of a tile and of that a quarter of the width further.
__attribute__((noinline)) void draw_tiles(TileCopy (&noises)[2], uint32_t first_quad, const LaneQuads& quads,
                                          const Draw& draw, Ahead* ahead) {
  for (int j = 0; j < lanes / 2; j += groups_at_once) {
    if (ahead != nullptr && j % elements_ahead == 0) ahead->call<lines_ahead>();
    uint32_t at[groups_at_once];
    Complexes g[groups_at_once][2];
    for (int s = 0; s < groups_at_once; ++s) at[s] = first_quad + static_cast<uint32_t>(j + s);
    draw_normals<groups_at_once>(draw, at, quads, g);
    for (int s = 0; s < std::min(groups_at_once, lanes / 2); ++s)
      for (int part = 0; part < 2; ++part) store_element(noises[part], j + s, g[s][part]);
  }
}

// `count` columns from `column` on, where not all rows and columns of the tile exist.
template <int groups>
__attribute__((noinline)) void filter_some(Real* line, int64_t column, int count, int rows, Rows space, int64_t width,
                                           const Real* z, const Pixels& pixels, FilterTile filter) {
  alignas(64) TileCopy tile = {}, A;
  for (int i = 0; i < count; ++i) store(tile + i * lanes, load(line + i * groups * lanes));
  filter(tile, padded_tile(A, space, column, rows, width).data, lanes, z, pixels);
  for (int i = 0; i < count; ++i) store(line + i * groups * lanes, load(tile + i * lanes));
}

template <int groups>
void filter_pixels(const Plane& plane, int row, int group, const Pixels& pixels) {
  const UpdateArgs& args = plane.args;
  const int quarter = (plane.half + 1) / 2;  // elements that a call makes together are this far apart
  const int count = rows_there(plane, row), width = plane.width;
  const LaneQuads quads(quarter);
  const uint32_t first_quad = static_cast<uint32_t>((plane.c * plane.height + row) * quarter);
  const Rows space = space_rows(plane, row);
  const bool given = pixels.with_noise && args.z.data != nullptr;
  const bool drawn = pixels.with_noise && !given && args.seeds != nullptr;
  const Rows z = given ? rows_of(args.z, plane.b, plane.c, row, count, width, plane.work.rows[0]) : Rows{};
  const bool terms[3] = {space.data != nullptr, pixels.has_data, given || drawn};
  const FilterTile filter = filter_tile_of<groups>(terms), filter_copy = filter_tile_of<1>(terms);
  constexpr int elements = lanes / 2;  // of a tile of `lanes` columns
  for (int first = 0; first < quarter; first += elements) {
    alignas(64) TileCopy noises[2];
    if (drawn)
      draw_tiles(noises, first_quad + static_cast<uint32_t>(first), quads, plane.draw, pixels.ahead);
    else if (pixels.ahead != nullptr)
      for (int i = 0; i < elements; i += elements_ahead) pixels.ahead->call<lines_ahead>();
    for (int part = 0; part < 2; ++part) {
      const int column = 2 * (first + part * quarter), end = part == 0 ? 2 * quarter : width;
      if (column >= end) break;
      Real* line = plane.work.line + (column * groups + group) * lanes;
      if (given) transposed(noises[part], z, column, count, width);
      if (count == lanes && column + lanes <= end)
        filter(line, terms[0] ? space.data + column : nullptr, space.stride, noises[part], pixels);
      else
        filter_some<groups>(line, column, std::min(lanes, end - column), count, space, width, noises[part], pixels,
                            filter_copy);
    }
  }
}

void filter_pixels(const Plane& plane, int row, Pixels pixels) {
  const int next = row + rows_at_once(plane), rows = std::min(rows_at_once(plane), plane.height - next);
  Ahead space;
  if (is_large(plane)) {
    if (rows > 0 && plane.masks.space != nullptr) space.add(space_rows(plane, next).data, int64_t{rows} * plane.width);
    pixels.ahead = &space;
  }
  if (plane.groups == 1) return filter_pixels<1>(plane, row, 0, pixels);
  for (int group = 0; group < 2; ++group) filter_pixels<2>(plane, row + group * lanes, group, pixels);
}

// The line's rows of a group from `row` on.
template <int groups>
TDAS_OPS_INLINE void write_group(const Plane& plane, int row, int group, const Real* factors, const Field& base,
                                 const Field& v, Real scale) {
  const UpdateArgs& args = plane.args;
  const int count = rows_there(plane, row), width = plane.width;
  if (groups > 1 && count == 0) return;
  Finish finish = {{}, {}, {}, scale};
  if (factors != nullptr) finish.factors = {factors + int64_t{row} * width, width};
  if (base.data != nullptr) finish.base = rows_of(base, plane.b, plane.c, row, count, width, plane.work.rows[0]);
  if (v.data != nullptr) finish.v = rows_of(v, plane.b, plane.c, row, count, width, plane.work.rows[1]);
  const Real* line = plane.work.line + group * lanes;
  const int64_t at = offset(args.out, plane.b, plane.c, row);
  if (has_plain_rows(args.out)) {
    Real* out = static_cast<Real*>(args.out.data) + at;
    const bool past_cache = int64_t{plane.height} * width >= (1 << 18) / int{sizeof(Real)} &&
                            args.out.data != base.data && args.out.strides[2] % lanes == 0 &&
                            reinterpret_cast<uintptr_t>(out) % vector_bytes == 0;
    (past_cache ? write_rows<groups, true> : write_rows<groups, false>)(out, args.out.strides[2], line, count, finish,
                                                                        width);
  } else {
    Real* buffer = plane.work.rows[2];
    write_rows<groups, false>(buffer, width, line, count, finish, width);
    for (int i = 0; i < count; ++i)
      narrow_row(args.out.data, args.out.element, at + i * args.out.strides[2], args.out.strides[3], buffer + i * width,
                 width);
  }
}

void write_plane(const Plane& plane, const Real* factors, const Field& base, const Field& v, Real scale) {
  const int step = rows_at_once(plane);
  for (int row = 0; row < plane.height; row += step) {
    if (is_large(plane)) {
      const int64_t rows = std::min(step, plane.height - row);
      Ahead ahead;
      ahead.add(base, plane.b, plane.c, row, rows, plane.width);
      ahead.add(v, plane.b, plane.c, row, rows, plane.width);
      ahead.call_all();
    }
    inverse_rows(plane, row);
    if (plane.groups == 1)
      write_group<1>(plane, row, 0, factors, base, v, scale);
    else
      for (int group = 0; group < 2; ++group)
        write_group<2>(plane, row + group * lanes, group, factors, base, v, scale);
  }
}

void read_plane(const Plane& plane, const Field& field, bool times_space) {
  const int step = rows_at_once(plane);
  for (int row = 0; row < plane.height; row += step) {
    if (is_large(plane) && row + step < plane.height) {
      Ahead ahead;
      ahead.add(field, plane.b, plane.c, row + step, std::min(step, plane.height - row - step), plane.width);
      ahead.call_all();
    }
    for (int group = 0; group < plane.groups; ++group) {
      const int first = row + group * lanes, count = rows_there(plane, first);
      const Rows rows = rows_of(field, plane.b, plane.c, first, count, plane.width, plane.work.rows[0]);
      (plane.groups == 1 ? read_rows<1> : read_rows<2>)(plane.work.line + group * lanes, rows, count,
                                                        times_space ? space_rows(plane, first) : Rows{}, plane.width);
    }
    forward_rows(plane, row);
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
