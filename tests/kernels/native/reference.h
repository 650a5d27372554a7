// What the kernels should give, in double precision and by the definitions of docs/mathematics.md alone. Only Philox is
// shared with the kernels: tests/unit/test_noise.py holds it to the published vectors.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

namespace reference {

using Real = std::vector<double>;
using Spectrum = std::vector<std::complex<double>>;

// The two-dimensional DFT of a plane, unnormalised, by separable sums: fast ones for powers of two, or those of the
// definition. `sign` is that of the exponent.
Spectrum transform_plane(Spectrum x, int height, int width, int sign, bool by_definition = false);

struct Plane {
  int height, width;
  Real freq, space, skew;  // full spectra and a plane; 1, 1 and empty where absent

  Real filtered(const Real& x, const Real& factors, std::complex<double> unit = 1.0) const;
  Real times_space(Real x) const;
  Real M(const Real& x) const;
  Real Mt(const Real& x) const;
  Real MMt(const Real& x) const;
  Real D(const Real& x) const;
};

// White noise of channel c of a plane: the noise contract, pixels or spectrum.
Real white(int64_t seed, int64_t sample, int64_t draw, int c, int height, int width, bool spectral);

}  // namespace reference
