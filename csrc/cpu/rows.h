// Rows of a tensor as floats, whatever its element type and strides, and lines from rows and back.
#pragma once

#include "../params.h"
#include "vector.h"

namespace tdas_ops::cpu {
namespace {

struct Rows {
  const float* data;
  int64_t stride;
};

inline float widen(const void* data, Element element, int64_t index) {
  if (element == Element::float32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return element == Element::bfloat16 ? from_bfloat16(bits) : from_half(bits);
}

// `count` elements from `index` on, `step` apart.
void widen_row(float* to, const void* data, Element element, int64_t index, int64_t step, int64_t count) {
  int64_t done = 0;
  if (step == 1 && element == Element::float32) {
    std::memcpy(to, static_cast<const float*>(data) + index, sizeof(float) * count);
    return;
  }
  if (step == 1 && element == Element::bfloat16)
    for (; done + lanes <= count; done += lanes)
      store_loose(to + done, widen_bfloat16(static_cast<const uint16_t*>(data) + index + done));
  if (step == 1 && element == Element::float16)
    for (; done + lanes <= count; done += lanes)
      store_loose(to + done, widen_half(static_cast<const uint16_t*>(data) + index + done));
  for (; done < count; ++done) to[done] = widen(data, element, index + done * step);
}

template <class T>
int64_t offset(const FieldOf<T>& field, int64_t b, int64_t c, int64_t row) {
  return b * field.strides[0] + c * field.strides[1] + row * field.strides[2];
}

// Whether rows are floats side by side, to be read and written where they are.
template <class T>
bool has_plain_rows(const FieldOf<T>& field) {
  return field.element == Element::float32 && field.strides[3] == 1;
}

// `lanes` rows of a plane from `row` on: the tensor itself where it has floats side by side, else a copy in `buffer`.
Rows rows_of(const Field& field, int64_t b, int64_t c, int64_t row, int64_t width, float* buffer) {
  if (has_plain_rows(field))
    return {static_cast<const float*>(field.data) + offset(field, b, c, row), field.strides[2]};
  for (int i = 0; i < lanes; ++i)
    widen_row(buffer + i * width, field.data, field.element, offset(field, b, c, row + i), field.strides[3], width);
  return {buffer, width};
}

void narrow_row(void* data, Element element, int64_t index, int64_t step, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (element == Element::float32)
      static_cast<float*>(data)[index + i * step] = from[i];
    else
      static_cast<uint16_t*>(data)[index + i * step] =
          element == Element::bfloat16 ? to_bfloat16(from[i]) : to_half(from[i]);
  }
}

// Rows become a line: element n is columns 2n and 2n + 1 of the `lanes` rows. `factors` (rows of width floats, or null)
// multiply them.
void read_rows(float* line, Rows rows, const float* factors, int64_t width) {
  for (int64_t column = 0; column < width; column += lanes) {
    Floats tile[lanes];
    if (factors == nullptr)
      transpose([&](int i) { return load_loose(rows.data + i * rows.stride + column); }, tile);
    else
      transpose(
          [&](int i) {
            return load_loose(rows.data + i * rows.stride + column) * load_loose(factors + i * width + column);
          },
          tile);
    TDAS_OPS_UNROLL
    for (int i = 0; i < lanes; ++i) store(line + (column + i) * lanes, tile[i]);
  }
}

// What is done to a row on its way out: times `factors`, plus `base`, plus `scale` times `v`; null where absent.
struct Finish {
  const float* factors;
  Rows base, v;
  float scale;
};

template <bool past_cache>
void write_rows(float* out, int64_t stride, const float* line, const Finish& finish, int64_t width) {
  for (int64_t column = 0; column < width; column += lanes) {
    Floats tile[lanes];
    transpose([&](int i) { return load(line + (column + i) * lanes); }, tile);
    if (finish.factors != nullptr) {
      TDAS_OPS_UNROLL
      for (int i = 0; i < lanes; ++i) tile[i] *= load_loose(finish.factors + i * width + column);
    }
    if (finish.base.data != nullptr) {
      TDAS_OPS_UNROLL
      for (int i = 0; i < lanes; ++i) tile[i] += load_loose(finish.base.data + i * finish.base.stride + column);
    }
    if (finish.v.data != nullptr) {
      TDAS_OPS_UNROLL
      for (int i = 0; i < lanes; ++i)
        tile[i] += finish.scale * load_loose(finish.v.data + i * finish.v.stride + column);
    }
    TDAS_OPS_UNROLL
    for (int i = 0; i < lanes; ++i) {
      if constexpr (past_cache)
        store_past_cache(out + i * stride + column, tile[i]);
      else
        store_loose(out + i * stride + column, tile[i]);
    }
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
