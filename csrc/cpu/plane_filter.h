// What an update and its norms share: the filter of a plane where its columns are done twice.
#pragma once

#include "plane_rows.h"
#include "plane_stages.h"

namespace tdas_ops::cpu {
namespace {

// linear R.
Spectral spectral_of(const Plane& plane, Real linear) {
  Spectral spectral;
  spectral.freq = plane.masks.freq;
  spectral.linear = linear;
  return spectral;
}

// R F v and the pixels A (data A F^-1 R F v + noise z) transformed again.
void filter_twice(const Plane& plane, Real data, Real noise, bool with_noise, Ahead* ahead) {
  read_plane(plane, plane.args.v, false);
  filter_columns(plane, spectral_of(plane, 1.0f));
  for (int row = 0; row < plane.height; row += rows_at_once(plane)) {
    inverse_rows(plane, row);
    filter_pixels(plane, row, {true, data, noise, with_noise, ahead});
    forward_rows(plane, row);
  }
}

// F A noise z.
void read_noise(const Plane& plane, Real noise, Ahead* ahead) {
  for (int row = 0; row < plane.height; row += rows_at_once(plane)) {
    filter_pixels(plane, row, {false, 0.0f, noise, true, ahead});
    forward_rows(plane, row);
  }
}

}  // namespace
}  // namespace tdas_ops::cpu
