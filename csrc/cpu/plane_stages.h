// Columns of any length that has a plan, and the choice between them and those of a power of two.
#pragma once

#include "plane_columns.h"
#include "stages.h"

namespace tdas_ops::cpu {
namespace {

// The noise of a block of columns, in the order of their places.
__attribute__((noinline)) void draw_columns(Real* normals, const Plan& plan, const Columns& columns) {
  const int H = columns.height, half = (H + 1) / 2;
  const uint16_t* places = plan.places.data();
  for (int h = 0; h < half; h += groups_at_once) {
    if (columns.spectral.ahead != nullptr && h % elements_ahead == 0) columns.spectral.ahead->call<lines_ahead>();
    uint32_t quads[groups_at_once];
    Complexes drawn[groups_at_once][2];
    TDAS_OPS_UNROLL
    for (int s = 0; s < groups_at_once; ++s)
      quads[s] = columns.first_quad + static_cast<uint32_t>(h + s) * columns.quad_step;
    draw_normals<groups_at_once>(*columns.draw, quads, *columns.quads, drawn);
    // What is drawn too much lands behind the last place.
    TDAS_OPS_UNROLL
    for (int s = 0; s < groups_at_once; ++s) {
      const int second = h + s + half;
      store_element(normals, h + s < half ? places[h + s] : H, drawn[s][0]);
      store_element(normals, h + s < half && second < H ? places[second] : H, drawn[s][1]);
    }
  }
}

// Of places [place, place + count), from `line` on.
template <class T>
__attribute__((noinline)) void filter_range(Real* line, int place, int count, const Plan& plan, const Real* normals,
                                            const Columns& columns) {
  Squares squares = {};
  for (int i = 0; i < count; ++i) {
    if (!T::has(noise, columns.terms) && columns.spectral.ahead != nullptr && i % (2 * elements_ahead) == 0)
      columns.spectral.ahead->call<lines_ahead>();
    const int64_t row = plan.frequencies[place + i] * columns.pitch;
    const Complexes x = T::has(data, columns.terms) ? load_element(line, i) : Complexes{};
    const Complexes g = T::has(noise, columns.terms) ? load_element(normals, place + i) : Complexes{};
    store_element(line, i, filter_element<T>(x, g, row, place + i, columns, squares));
  }
  add_squares(columns, squares);
}

using FilterRange = void (*)(Real* line, int place, int count, const Plan& plan, const Real* normals,
                             const Columns& columns);

// f(p, q) on the first lanes of frequencies h and H - h, 0 < h < H / 2.
template <class F>
void for_ties(Real* line, const Plan& plan, F f) {
  for (int h = 1; 2 * h < plan.length; ++h) {
    Real *p = line + int64_t{plan.places[h]} * line_step, *q = line + int64_t{plan.places[plan.length - h]} * line_step;
    Complex<Real> a = {p[0], p[lanes]}, b = {q[0], q[lanes]};
    f(a, b);
    p[0] = a.re;
    p[lanes] = a.im;
    q[0] = b.re;
    q[lanes] = b.im;
  }
}

// The first columns of even W, see `separate_column`.
void filter_tied_columns(Real* line, const Plane& plane, const Columns& columns, FilterRange filter,
                         double (&sums)[2]) {
  const Plan& plan = *plane.column_plan;
  const Spectral& spectral = columns.spectral;
  const Real* normals = plane.work.normals;
  const int H = plane.height, reals = H % 2 == 0 ? 2 : 1;
  if (spectral.has_data) {
    if (spectral.forward) forward_line(plan, line);
    for_ties(line, plan, [](Complex<Real>& a, Complex<Real>& b) { separate_column(a, b); });
  }
  Complexes x[2] = {}, g[2] = {};
  for (int which = 0; which < reals; ++which) {
    const int place = plan.places[which * (H / 2)];
    if (spectral.has_data) x[which] = load_element(line, place);
    if (spectral.has_noise) g[which] = load_element(normals, place);
  }
  filter(line, 0, H, plan, normals, columns);
  for (int which = 0; which < reals; ++which) {
    const int place = plan.places[which * (H / 2)];
    Complexes y = load_element(line, place);
    filter_real_frequency(y, which, x[which], g[which], place, plane, columns, sums);
    store_element(line, place, y);
  }
  if (!spectral.inverse) return;
  for_ties(line, plan, [](Complex<Real>& a, Complex<Real>& b) { join_column(a, b); });
  inverse_line(plan, line);
}

// The noise of the first columns of odd W: column 0 is real in x.
void make_hermitian(Real* normals, const Plan& plan) {
  const int H = plan.length;
  for_ties(normals, plan, [](Complex<Real>& a, Complex<Real>& b) { b = conj(a); });
  for (int h = 0; h < H; h += H % 2 == 0 ? H / 2 : H) {
    Real* real = normals + int64_t{plan.places[h]} * line_step;
    real[0] *= root_two;
    real[lanes] = 0.0f;
  }
}

void filter_planned(Real* line, int first, const Plane& plane, const Columns& columns, FilterRange filter,
                    double (&sums)[2]) {
  const Plan& plan = *plane.column_plan;
  const Spectral& spectral = columns.spectral;
  Real* normals = plane.work.normals;
  if (spectral.has_noise) draw_columns(normals, plan, columns);
  if (first == 0 && plane.groups == 1) return filter_tied_columns(line, plane, columns, filter, sums);
  if (first == 0 && spectral.has_noise) make_hermitian(normals, plan);
  sandwich_stages(plan, 0, line, 0, 1, spectral.has_data && spectral.forward, spectral.inverse,
                  [&](Real* part, int place, int count) { filter(part, place, count, plan, normals, columns); });
}

void filter_columns(const Plane& plane, const Spectral& spectral) {
  const int H = plane.height, M = plane.half;
  const LaneQuads quads(1);
  const int64_t kept_block = int64_t{H} * line_step;
  Squares squares = {}, total = {};
  Columns columns = {};
  columns.spectral = spectral;
  columns.draw = &plane.draw;
  columns.quads = &quads;
  columns.height = H;
  columns.quad_step = static_cast<uint32_t>(M);
  columns.terms = spectral.terms();
  columns.squares = spectral.squares == nullptr ? nullptr : &squares;
  Leaf leaf = nullptr;
  FilterRange filter = nullptr;
  if (plane.column_plan == nullptr) {
    columns.places = plane.tables.places[log2_of(H)].data();
    leaf = with_terms(columns.terms, [](auto terms) -> Leaf { return filter_places<decltype(terms)>; });
  } else {
    filter = with_terms(columns.terms, [](auto terms) -> FilterRange { return filter_range<decltype(terms)>; });
  }
  patch_masks(plane);
  double real[2] = {};
  for (int first = 0; first < M; first += lanes) {
    const Workspace& work = plane.work;
    Real* line = work.spectrum + first / lanes * plane.block;
    const int64_t at = first / lanes * kept_block;
    const bool patched = first == 0 || first + lanes > M;
    columns.first_quad = static_cast<uint32_t>(plane.c * ((H + 1) / 2) * M + first);
    columns.kept = spectral.kept == nullptr ? nullptr : spectral.kept + at;
    columns.other = spectral.other == nullptr ? nullptr : spectral.other + at;
    columns.keep = spectral.keep == nullptr ? nullptr : spectral.keep + at;
    if (patched) {
      columns.freq = first == 0 ? work.first_freq : work.last_freq;
      columns.skew = first == 0 ? work.first_skew : work.last_skew;
    } else {
      columns.freq = spectral.freq + first;
      columns.skew = spectral.skew == nullptr ? nullptr : spectral.skew + first;
    }
    columns.pitch = patched ? lanes : plane.pitch;
    Ahead next_block;
    if (plane.past_cache) {
      if (first + lanes < M) next_block.add(line + plane.block, kept_block);
      columns.spectral.ahead = &next_block;
    }
    if (plane.column_plan != nullptr)
      filter_planned(line, first, plane, columns, filter, real);
    else if (first == 0)
      filter_first_columns(line, plane, columns, real);
    else
      plane.column.sandwich(line, 0, plane.tables, {spectral.forward, spectral.inverse}, leaf, &columns);
    if (spectral.squares == nullptr) continue;
    if (first == 0 && plane.groups == 2) {  // column 0 has all of its frequencies, the others half of them
      squares.data = first_lane(0.5f * squares.data, squares.data);
      squares.noise = first_lane(0.5f * squares.noise, squares.noise);
    }
    total.data += squares.data;
    total.noise += squares.noise;
    squares = Squares{};
  }
  if (spectral.squares == nullptr) return;
  (*spectral.squares)[0] += sum(total.data) + real[0];
  (*spectral.squares)[1] += sum(total.noise) + real[1];
}

}  // namespace
}  // namespace tdas_ops::cpu
