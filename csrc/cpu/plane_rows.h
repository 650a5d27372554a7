// Rows of a plane: from tensors to the spectrum and back, and what is done to pixels in between.
#pragma once

#include "../update.h"
#include "normals.h"
#include "plane.h"
#include "rows.h"

namespace tdas_ops::cpu {
namespace {

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

}  // namespace
}  // namespace tdas_ops::cpu
