// Every kernel in the instruction set of the including file, see vector.h.
#pragma once

#include "fill_normals.h"
#include "filter_spectra.h"
#include "instruction_sets.h"
#include "mix_spectra.h"
#include "pixels.h"
#include "plane_norms.h"
#include "plane_update.h"

namespace tdas_ops::cpu {
namespace {

constexpr KernelsOf<Real> all_kernels(const char* name) {
  return {name,        fill_normals, update_planes,  measure_planes, kept_floats,
          update_rows, measure_rows, filter_spectra, mix_spectra,    sum_of_squares};
}

}  // namespace
}  // namespace tdas_ops::cpu
