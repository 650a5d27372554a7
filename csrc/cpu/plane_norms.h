// |D v|^2 and |M z|^2 of planes, before the update that they scale.
#pragma once

#include <utility>

#include "plane_filter.h"

namespace tdas_ops::cpu {
namespace {

double square_of(const Plane& plane, const Field& field) {
  double total = 0.0;
  for (int row = 0; row < plane.height; row += lanes) {
    const int count = rows_there(plane, row);
    const Rows rows = rows_of(field, plane.b, plane.c, row, count, plane.width, plane.work.rows[0]);
    Floats squares = {};
    for (int i = 0; i < count; ++i)
      for (int column = 0; column < plane.width; column += lanes) {
        const Floats v = load_some(rows.data + i * rows.stride, column, plane.width - column);
        squares += v * v;
      }
    total += sum(squares);
  }
  return total;
}

// |D v|^2 and |M z|^2 of a plane, from their spectra, which go to `keep` where there is room for them.
void measure_plane(const Plane& plane, double (&squares)[2], Keep keep) {
  const UpdateArgs& args = plane.args;
  const double scale = spectrum_scale(plane);
  double sums[2] = {}, noise_sums[2] = {};
  Spectral spectral = spectral_of(plane, 1.0f);
  spectral.inverse = false;
  spectral.has_noise = noise_is_spectral(plane);
  spectral.noise = 1.0f;
  Ahead ahead;
  if (!is_large(plane)) {
    add_next(ahead, plane, args.v, keep);
    spectral.ahead = &ahead;
  }
  if (!spectral.has_noise) {
    read_noise(plane, 1.0f, std::exchange(spectral.ahead, nullptr));
    Spectral noise = spectral;
    noise.squares = &noise_sums;
    noise.keep = keep.noise;
    filter_columns(plane, noise);
  }
  spectral.squares = &sums;
  spectral.keep = keep.drift;
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
        skew.keep = keep.drift;
        filter_columns(plane, skew);
        spectral.kept = keep.drift;
        spectral.kept_scale = 1.0f;
      }
      filter_twice(plane, static_cast<Real>(scale), 0.0f, false, nullptr);
    }
    filter_columns(plane, spectral);
    squares[0] = sums[0] * scale;
  }
  squares[1] = spectral.has_noise ? sums[1] : noise_sums[0] * scale;
}

void measure_planes(const UpdateArgs& args, double (*squares)[2], Keep keep, int64_t begin, int64_t end) {
  for_planes(args, begin, end,
             [&](const Plane& plane, int64_t at) { measure_plane(plane, squares[at], kept_of_plane(keep, args, at)); });
}

}  // namespace
}  // namespace tdas_ops::cpu
