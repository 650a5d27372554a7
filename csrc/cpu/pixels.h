// Updates without a frequency mask: nothing but pixels, row by row, for any size.
#pragma once

#include <algorithm>

#include "fill_normals.h"
#include "memory.h"
#include "rows.h"

namespace tdas_ops::cpu {
namespace {

// Rows of a thread, padded to whole vectors and kept from call to call.
class RowBuffers {
 public:
  static constexpr int64_t noise_floats = 4096;  // or one row, where that is longer
  Real *base, *v, *out, *noise;

  void fit(int64_t width) {
    const int64_t padded = (width + 1 + lanes - 1) / lanes * lanes, total = 3 * padded + std::max(padded, noise_floats);
    base = scratch_.fit(total + lanes);
    v = base + padded;
    out = v + padded;
    noise = out + padded;
  }

 private:
  Scratch scratch_;
};

// out = base + v_scale A^power v + z_scale A z for one row; a pointer is null where its term is absent or A = 1.
struct Row {
  const Real *base, *v, *z, *space;
  Real v_scale, z_scale;
  int power;
};

TDAS_OPS_INLINE Floats filtered(const Row& row, int64_t column, int64_t count) {
  const Floats A = row.space == nullptr ? broadcast(1.0f) : load_some(row.space, column, count);
  Floats y = row.base == nullptr ? Floats{} : load_some(row.base, column, count);
  if (row.v != nullptr) {
    Floats factor = broadcast(row.v_scale);
    if (row.power > 0) factor *= A;
    if (row.power > 1) factor *= A;
    y += factor * load_some(row.v, column, count);
  }
  if (row.z != nullptr) y += row.z_scale * A * load_some(row.z, column, count);
  return y;
}

void write_row(Real* out, const Row& row, int64_t width) {
  int64_t column = 0;
  for (; column + lanes <= width; column += lanes) store_loose(out + column, filtered(row, column, lanes));
  if (column < width) {
    alignas(vector_bytes) Real last[lanes];
    store(last, filtered(row, column, width - column));
    std::memcpy(out + column, last, sizeof(Real) * (width - column));
  }
}

// A row of a tensor as floats: itself, or a copy in `buffer`; null where the tensor is absent.
const Real* row_of(const Field& field, int64_t b, int64_t c, int64_t h, int64_t width, Real* buffer) {
  if (field.data == nullptr) return nullptr;
  const int64_t at = offset(field, b, c, h);
  if (has_plain_rows(field)) return static_cast<const Real*>(field.data) + at;
  widen_row(buffer, field.data, field.element, at, field.strides[3], width);
  return buffer;
}

int power_of(Filter filter) {
  if (filter == Filter::noise) return 0;
  return filter == Filter::M || filter == Filter::Mt ? 1 : 2;
}

// Calls visit(b, c, h, row) for rows [begin, end) of B C H, each with its v, noise and scales. Noise is drawn for
// several rows at once, since a row alone may have fewer calls than a vector has lanes.
template <class Visit>
void for_rows(const UpdateArgs& args, RowBuffers& buffers, int64_t begin, int64_t end, Visit visit) {
  const int64_t H = args.height, W = args.width, columns = (W + 1) / 2, half = (columns + 1) / 2;
  const int64_t group = std::max<int64_t>(1, RowBuffers::noise_floats / (2 * columns));
  const bool drawn = args.z.data == nullptr && args.seeds != nullptr;
  buffers.fit(W);
  for (int64_t index = begin; index < end;) {
    const int64_t b = index / (H * args.channels), c = index / H % args.channels, first = index % H;
    const int64_t last = std::min({H, first + end - index, first + group});
    if (drawn) {
      const Draw draw(args.seeds[args.seed_per_sample ? b : 0], args.seed_per_sample ? 0 : args.first_sample + b,
                      args.draw);
      const int64_t first_row = c * H + first, quads = (c * H + last) * half;
      for (int64_t quad = first_row * half; quad < quads; quad += quads_per_block)
        draw_block(draw, buffers.noise, first_row, quad, std::min<int64_t>(quads_per_block, quads - quad), columns,
                   half);
    }
    for (int64_t h = first; h < last; ++h, ++index) {
      const Real* z = drawn ? buffers.noise + (h - first) * 2 * columns : row_of(args.z, b, c, h, W, buffers.noise);
      const Real* space = args.masks.space == nullptr ? nullptr : args.masks.space + (c * H + h) * W;
      visit(b, c, h,
            Row{nullptr, row_of(args.v, b, c, h, W, buffers.v), z, space, args.d == nullptr ? 1.0f : args.d[b],
                args.n == nullptr ? 1.0f : args.n[b], power_of(args.filter)});
    }
  }
}

void update_rows(const UpdateArgs& args, int64_t begin, int64_t end) {
  thread_local RowBuffers buffers;
  for_rows(args, buffers, begin, end, [&](int64_t b, int64_t c, int64_t h, Row row) {
    row.base = row_of(args.base, b, c, h, args.width, buffers.base);
    const int64_t at = offset(args.out, b, c, h);
    const bool direct = has_plain_rows(args.out);
    Real* out = direct ? static_cast<Real*>(args.out.data) + at : buffers.out;
    write_row(out, row, args.width);
    if (!direct) narrow_row(args.out.data, args.out.element, at, args.out.strides[3], out, args.width);
  });
}

// A sum of squares: of a few vectors in floats, of the rest in double precision.
class SquareSum {
 public:
  void add(Floats x) {
    part_ += x * x;
    if (++count_ == 64) flush();
  }
  double total() {
    flush();
    return total_;
  }

 private:
  void flush() {
    for (int i = 0; i < lanes; ++i) total_ += part_[i];
    part_ = Floats{};
    count_ = 0;
  }
  Floats part_ = {};
  int count_ = 0;
  double total_ = 0.0;
};

double sum_of_squares(const Real* values, int64_t count) {
  SquareSum sum;
  for (int64_t i = 0; i < count; i += lanes) sum.add(load_some(values, i, count - i));
  return sum.total();
}

void measure_rows(const UpdateArgs& args, double (*squares)[2], int64_t begin, int64_t end) {
  thread_local RowBuffers buffers;
  for (int64_t plane = begin; plane < end; ++plane) {
    SquareSum drift, noise;
    for_rows(args, buffers, plane * args.height, (plane + 1) * args.height, [&](int64_t, int64_t, int64_t, Row row) {
      Row v = row, z = row;
      v.z = z.v = nullptr;
      for (int64_t column = 0; column < args.width; column += lanes) {
        drift.add(filtered(v, column, args.width - column));
        noise.add(filtered(z, column, args.width - column));
      }
    });
    squares[plane][0] = drift.total();
    squares[plane][1] = noise.total();
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
