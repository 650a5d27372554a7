// Rows of a tensor as floats, whatever its element type and strides, and lines from rows and back.
#pragma once

#include <algorithm>

#include "../params.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

struct Rows {
  const Real* data;
  int64_t stride;
};

inline Real widen(const void* data, Element element, int64_t index) {
  if (element == own_element) return static_cast<const Real*>(data)[index];
  if (element == Element::float32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return element == Element::bfloat16 ? from_bfloat16(bits) : from_half(bits);
}

// `count` elements from `index` on, `step` apart.
void widen_row(Real* to, const void* data, Element element, int64_t index, int64_t step, int64_t count) {
  int64_t done = 0;
  if (step == 1 && element == own_element) {
    std::memcpy(to, static_cast<const Real*>(data) + index, sizeof(Real) * count);
    return;
  }
  const auto widen_vectors = [&](auto load) {
    for (; done + word_lanes <= count; done += word_lanes) {
      const Singles x = load(index + done);
      TDAS_OPS_UNROLL
      for (int part = 0; part < word_lanes / lanes; ++part) store_loose(to + done + part * lanes, widened(x, part));
    }
  };
  if (step == 1 && element == Element::bfloat16)
    widen_vectors([&](int64_t at) { return widen_bfloat16(static_cast<const uint16_t*>(data) + at); });
  else if (step == 1 && element == Element::float16)
    widen_vectors([&](int64_t at) { return widen_half(static_cast<const uint16_t*>(data) + at); });
  else if (step == 1 && element == Element::float32)
    widen_vectors([&](int64_t at) { return load_singles(static_cast<const float*>(data) + at); });
  for (; done < count; ++done) to[done] = widen(data, element, index + done * step);
}

template <class T>
int64_t offset(const FieldOf<T>& field, int64_t b, int64_t c, int64_t row) {
  return b * field.strides[0] + c * field.strides[1] + row * field.strides[2];
}

// Whether rows are floats side by side, to be read and written where they are.
template <class T>
bool has_plain_rows(const FieldOf<T>& field) {
  return field.element == own_element && field.strides[3] == 1;
}

// `count` rows of a plane from `row` on: the tensor itself where it has floats side by side, else a copy in `buffer`.
Rows rows_of(const Field& field, int64_t b, int64_t c, int64_t row, int count, int64_t width, Real* buffer) {
  if (has_plain_rows(field)) return {static_cast<const Real*>(field.data) + offset(field, b, c, row), field.strides[2]};
  for (int i = 0; i < count; ++i)
    widen_row(buffer + i * width, field.data, field.element, offset(field, b, c, row + i), field.strides[3], width);
  return {buffer, width};
}

void narrow_row(void* data, Element element, int64_t index, int64_t step, const Real* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (sizeof(Real) == 8 || element == own_element)  // what is computed in double is stored as such
      static_cast<Real*>(data)[index + i * step] = from[i];
    else
      static_cast<uint16_t*>(data)[index + i * step] = element == Element::bfloat16
                                                           ? to_bfloat16(static_cast<float>(from[i]))
                                                           : to_half(static_cast<float>(from[i]));
  }
}

// Columns [column, column + lanes), `count` of which exist; zeros beside them.
TDAS_OPS_INLINE Floats load_some(const Real* row, int64_t column, int64_t count) {
  if (count >= lanes) return load_loose(row + column);
  alignas(vector_bytes) Real padded[lanes] = {};
  std::memcpy(padded, row + column, sizeof(Real) * count);
  return load(padded);
}

// `lanes` rows and columns from `column` on of `count` rows, where not all of them exist: a copy with zeros beside
// them.
using TileCopy = Real[lanes * lanes];
__attribute__((noinline)) Rows padded_tile(TileCopy& copy, Rows rows, int64_t column, int count, int64_t width) {
  if (rows.data == nullptr) return rows;
  for (int i = 0; i < lanes; ++i)
    store_loose(copy + i * lanes,
                i < count ? load_some(rows.data + i * rows.stride, column, width - column) : Floats{});
  return {copy, lanes};
}

template <int groups>
TDAS_OPS_INLINE void read_tile(Real* line, Rows rows, Rows factors, int64_t column) {
  Floats tile[lanes];
  if (factors.data == nullptr)
    transpose([&](int i) { return load_loose(rows.data + i * rows.stride + column); }, tile);
  else
    transpose(
        [&](int i) {
          return load_loose(rows.data + i * rows.stride + column) *
                 load_loose(factors.data + i * factors.stride + column);
        },
        tile);
  TDAS_OPS_UNROLL
  for (int i = 0; i < lanes; ++i) store(line + i * groups * lanes, tile[i]);
}

// `count` rows, at most `lanes`, become vectors of a line, of which each column has as many as there are groups of
// rows. `factors` (or null) multiply them.
template <int groups>
void read_rows(Real* line, Rows rows, int count, Rows factors, int64_t width) {
  int64_t column = 0;
  if (count == lanes)
    for (; column + lanes <= width; column += lanes)
      read_tile<groups>(line + column * groups * lanes, rows, factors, column);
  for (; column < width; column += lanes) {
    TileCopy copy, factors_copy;
    const Rows tile = padded_tile(copy, rows, column, count, width);
    read_tile<groups>(line + column * groups * lanes, tile, padded_tile(factors_copy, factors, column, count, width),
                      0);
  }
}

// What is done to a row on its way out: times `factors`, plus `base`, plus `scale` times `v`; null where absent.
struct Finish {
  Rows factors, base, v;
  Real scale;
};

template <int groups, bool past_cache>
TDAS_OPS_INLINE void write_tile(Real* out, int64_t stride, const Real* line, const Finish& finish, int64_t column) {
  Floats tile[lanes];
  transpose([&](int i) { return load(line + i * groups * lanes); }, tile);
  if (finish.factors.data != nullptr) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < lanes; ++i) tile[i] *= load_loose(finish.factors.data + i * finish.factors.stride + column);
  }
  if (finish.base.data != nullptr) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < lanes; ++i) tile[i] += load_loose(finish.base.data + i * finish.base.stride + column);
  }
  if (finish.v.data != nullptr) {
    TDAS_OPS_UNROLL
    for (int i = 0; i < lanes; ++i) tile[i] += finish.scale * load_loose(finish.v.data + i * finish.v.stride + column);
  }
  TDAS_OPS_UNROLL
  for (int i = 0; i < lanes; ++i) {
    if constexpr (past_cache)
      store_past_cache(out + i * stride, tile[i]);
    else
      store_loose(out + i * stride, tile[i]);
  }
}

// The inverse of read_rows.
template <int groups, bool past_cache>
void write_rows(Real* out, int64_t stride, const Real* line, int count, const Finish& finish, int64_t width) {
  int64_t column = 0;
  if (count == lanes)
    for (; column + lanes <= width; column += lanes)
      write_tile<groups, past_cache>(out + column, stride, line + column * groups * lanes, finish, column);
  for (; column < width; column += lanes) {
    TileCopy factors, base, v, made;
    const Finish here = {padded_tile(factors, finish.factors, column, count, width),
                         padded_tile(base, finish.base, column, count, width),
                         padded_tile(v, finish.v, column, count, width), finish.scale};
    write_tile<groups, false>(made, lanes, line + column * groups * lanes, here, 0);
    for (int i = 0; i < count; ++i)
      std::memcpy(out + i * stride + column, made + i * lanes, sizeof(Real) * std::min<int64_t>(lanes, width - column));
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
