#include "reference.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "../../../csrc/philox.h"

namespace reference {
namespace {

Spectrum direct(const Spectrum& x, int sign) {
  const int length = static_cast<int>(x.size());
  Spectrum result(x.size());
  static std::map<int, Spectrum> made;
  Spectrum& turns = made[sign * length];
  if (turns.empty())
    for (int i = 0; i < length; ++i) turns.push_back(std::polar(1.0, sign * 2 * M_PI * i / length));
  for (int n = 0; n < length; ++n) {
    const double re = x[n].real(), im = x[n].imag();
    for (int k = 0, at = 0; k < length; ++k) {      // at = k n modulo length
      const std::complex<double> turn = turns[at];  // its operator's checks for NaN take long
      result[k] += std::complex<double>{re * turn.real() - im * turn.imag(), re * turn.imag() + im * turn.real()};
      at += n;
      if (at >= length) at -= length;
    }
  }
  return result;
}

Spectrum fast(const Spectrum& x, int sign) {
  constexpr int whole = 2048;
  static const Spectrum turns = [] {
    Spectrum made(whole);
    for (int i = 0; i < whole; ++i) made[i] = std::polar(1.0, 2 * M_PI * i / whole);
    return made;
  }();
  const int length = static_cast<int>(x.size());
  Spectrum result(x.size());
  for (int n = 0, reversed = 0; n < length; ++n) {
    result[reversed] = x[n];
    int bit = length / 2;
    for (; reversed & bit; bit /= 2) reversed ^= bit;
    reversed |= bit;
  }
  for (int half = 1; half < length; half *= 2)
    for (int first = 0; first < length; first += 2 * half)
      for (int k = 0; k < half; ++k) {
        const std::complex<double> turn = turns[k * (whole / 2 / half)], odd = result[first + half + k];
        const double c = turn.real(), s = sign * turn.imag();
        const std::complex<double> turned = {c * odd.real() - s * odd.imag(), c * odd.imag() + s * odd.real()};
        result[first + half + k] = result[first + k] - turned;
        result[first + k] += turned;
      }
  return result;
}

std::complex<double> normal(uint32_t radius, uint32_t angle) {
  const float u = static_cast<float>(static_cast<float>(radius) * 0x1p-32 + 0x1p-33);
  const float v = static_cast<float>(static_cast<float>(~radius) * 0x1p-32 + 0x1p-33);
  const double minus_log = v < 0x1p-5f ? -std::log1p(-static_cast<double>(v)) : -std::log(static_cast<double>(u));
  return std::polar(std::sqrt(2 * minus_log), M_PI * static_cast<double>(static_cast<int32_t>(angle)) * 0x1p-31);
}

}  // namespace

Spectrum transform_plane(Spectrum x, int height, int width, int sign, bool by_definition) {
  const auto one = [=](const Spectrum& line, int sign) {
    const bool power_of_two = (line.size() & (line.size() - 1)) == 0;
    return power_of_two && !by_definition ? fast(line, sign) : direct(line, sign);
  };
  for (int h = 0; h < height; ++h) {
    const Spectrum row = one(Spectrum(&x[h * width], &x[h * width] + width), sign);
    std::copy(row.begin(), row.end(), &x[h * width]);
  }
  Spectrum column(height);
  for (int w = 0; w < width; ++w) {
    for (int h = 0; h < height; ++h) column[h] = x[h * width + w];
    const Spectrum done = one(column, sign);
    for (int h = 0; h < height; ++h) x[h * width + w] = done[h];
  }
  return x;
}

Real Plane::filtered(const Real& x, const Real& factors, std::complex<double> unit) const {
  Spectrum spectrum = transform_plane(Spectrum(x.begin(), x.end()), height, width, -1);
  for (size_t i = 0; i < x.size(); ++i) spectrum[i] *= unit * factors[i] / static_cast<double>(x.size());
  spectrum = transform_plane(spectrum, height, width, 1);
  Real result(x.size());
  for (size_t i = 0; i < x.size(); ++i) result[i] = spectrum[i].real();
  return result;
}

Real Plane::times_space(Real x) const {
  for (size_t i = 0; i < x.size(); ++i) x[i] *= space[i];
  return x;
}

Real Plane::M(const Real& x) const { return filtered(times_space(x), freq); }
Real Plane::Mt(const Real& x) const { return times_space(filtered(x, freq)); }
Real Plane::MMt(const Real& x) const { return M(Mt(x)); }

Real Plane::D(const Real& x) const {
  Real result = MMt(x);
  if (skew.empty()) return result;
  const Real rotated = filtered(x, skew, {0.0, 1.0});
  for (size_t i = 0; i < x.size(); ++i) result[i] += rotated[i];
  return result;
}

Real white(int64_t seed, int64_t sample, int64_t draw, int c, int height, int width, bool spectral) {
  const int columns = (width + 1) / 2, rows = spectral ? 1 : height, length = spectral ? height * columns : columns;
  // Elements that a call makes together are this far apart.
  const int half = spectral ? (height + 1) / 2 * columns : (columns + 1) / 2;
  Spectrum g(static_cast<size_t>(rows) * length);
  for (int row = 0; row < rows; ++row)
    for (int e = 0; e < half; ++e) {
      const uint32_t quad = static_cast<uint32_t>((c * rows + row) * half + e);
      const auto words = tdas_ops::philox4x32(tdas_ops::philox_counter(quad, static_cast<uint32_t>(sample), draw),
                                              tdas_ops::philox_key(seed));
      g[row * length + e] = normal(words.w0, words.w1);
      if (e + half < length) g[row * length + e + half] = normal(words.w2, words.w3);
    }
  Real z(static_cast<size_t>(height) * width);
  if (!spectral) {
    for (int h = 0; h < height; ++h)
      for (int w = 0; w < width; ++w) {
        const std::complex<double> both = g[h * columns + w / 2];
        z[h * width + w] = w % 2 == 0 ? both.real() : both.imag();
      }
    return z;
  }
  Spectrum full(z.size());
  const auto put = [&](int h, int w, std::complex<double> value) {
    full[h * width + w] = value;
    full[(height - h) % height * width + (width - w) % width] = std::conj(value);
  };
  const double scale = std::sqrt(height * width / 2.0);
  for (int h = 0; h < height; ++h) {
    for (int w = 1; w < columns; ++w) put(h, w, scale * g[h * columns + w]);
    const std::complex<double> first = scale * g[h * columns];
    const bool even = width % 2 == 0;  // odd widths have no column W / 2
    if (2 * h % height == 0) {
      put(h, 0, std::sqrt(2.0) * first.real());
      if (even) put(h, columns, std::sqrt(2.0) * first.imag());
    } else if (2 * h < height) {
      put(h, 0, first);
    } else if (even) {
      put(height - h, columns, first);
    }
  }
  full = transform_plane(full, height, width, 1);
  for (size_t i = 0; i < z.size(); ++i) z[i] = full[i].real() / static_cast<double>(z.size());
  return z;
}

}  // namespace reference
