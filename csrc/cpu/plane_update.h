// The update of planes: which passes, with which terms.
#pragma once

#include <cmath>
#include <utility>

#include "plane_filter.h"

namespace tdas_ops::cpu {
namespace {

void update_plane(const Plane& plane, Kept kept) {
  const UpdateArgs& args = plane.args;
  const Real scale = spectrum_scale(plane);
  const Real d = args.d == nullptr ? 1.0f : args.d[plane.b], n = args.n == nullptr ? 1.0f : args.n[plane.b];
  const bool drift = args.filter == Filter::drift || args.filter == Filter::MMt;
  const bool drawn_spectrum = noise_is_spectral(plane);
  const Field none = {};
  Field base = args.base;
  Spectral spectral = spectral_of(plane, scale);
  spectral.has_noise = drawn_spectrum;
  spectral.noise = n * std::sqrt(scale);
  Ahead ahead;
  if (!is_large(plane)) {
    ahead.add(args.base, plane.b, plane.c, 0, plane.height, plane.width);
    ahead.add(args.out, plane.b, plane.c, 0, plane.height, plane.width);
    const bool v_last = args.filter == Filter::noise;
    if (v_last) ahead.add(args.v, plane.b, plane.c, 0, plane.height, plane.width);
    add_next(ahead, plane, v_last || kept.drift != nullptr ? none : args.v, kept);
    spectral.ahead = &ahead;
  }
  if (kept.drift != nullptr || args.filter == Filter::noise) {
    const bool noise_there = args.z.data != nullptr || args.seeds != nullptr;
    spectral.kept = kept.drift;
    spectral.kept_scale = d * scale;
    if (drawn_spectrum || kept.noise != nullptr || !noise_there)
      spectral.has_data = spectral.forward = false;
    else
      read_noise(plane, n, std::exchange(spectral.ahead, nullptr));
    if (kept.noise != nullptr && noise_there) {
      (kept.drift == nullptr ? spectral.kept : spectral.other) = kept.noise;
      (kept.drift == nullptr ? spectral.kept_scale : spectral.other_scale) = n * scale;
    }
  } else if (drift && plane.masks.space == nullptr && args.z.data == nullptr) {
    read_plane(plane, args.v, false);
    spectral.linear = 0.0f;
    spectral.square = spectral.skew_scale = d * scale;
    spectral.skew = plane.masks.skew;
  } else if (drift) {
    if (plane.masks.skew != nullptr) {  // out = base + d S v first
      read_plane(plane, args.v, false);
      Spectral skew = spectral_of(plane, 0.0f);
      skew.skew = plane.masks.skew;
      skew.skew_scale = d * scale;
      filter_columns(plane, skew);
      write_plane(plane, nullptr, base, none, 0.0f);
      base = constant(args.out);
    }
    filter_twice(plane, d * scale, n, true, std::exchange(spectral.ahead, nullptr));
  } else {
    read_plane(plane, args.v, args.filter == Filter::M);
  }
  filter_columns(plane, spectral);
  write_plane(plane, args.filter == Filter::Mt ? plane.masks.space : nullptr, base,
              args.filter == Filter::noise ? args.v : none, d);
}

void update_planes(const UpdateArgs& args, Kept kept, int64_t begin, int64_t end) {
  for_planes(args, begin, end,
             [&](const Plane& plane, int64_t at) { update_plane(plane, kept_of_plane(kept, args, at)); });
#if defined(__x86_64__)
  _mm_sfence();  // what went past the cache is written before the caller reads it
#endif
}

}  // namespace
}  // namespace tdas_ops::cpu
