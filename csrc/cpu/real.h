// What the kernels of the including file compute with: float, or double where it defines TDAS_OPS_DOUBLE. Comments call
// either floats.
#pragma once

#include "kernels.h"

namespace tdas_ops::cpu {
namespace {

#ifdef TDAS_OPS_DOUBLE
using Real = double;
#else
using Real = float;
#endif

using NormalsArgs = NormalsArgsOf<Real>;
using UpdateArgs = UpdateArgsOf<Real>;
using SpectraArgs = SpectraArgsOf<Real>;
using Masks = MasksOf<Real>;
using Keep = KeptOf<Real>;
using Kept = KeptOf<const Real>;
using Twiddle = TwiddleOf<Real>;
using Tables = TablesOf<Real>;
using Stage = StageOf<Real>;
using Plan = PlanOf<Real>;

constexpr Element own_element = element_of<Real>;
constexpr Real root_two = static_cast<Real>(1.4142135623730951);

}  // namespace
}  // namespace tdas_ops::cpu
