"""Gaussian random fields of a given power spectrum in one, two and three dimensions, and the spectrum of fields.

    random_field(spectrum, shape, spacing, noise=seed)    fields, in one call
    GaussianField(spectrum, shape, spacing)               the same without repeated work; AR(1) in time
    power_spectrum(field, spacing)                        the estimator that belongs to it

One convention holds for all of them, that of cosmology (Peacock, Cosmological Physics, 1999, chapter 16): k is the
angular wavenumber, `2 pi / wavelength`, in inverse units of `spacing`; P(k) has the units of `field^2 length^d`;

    <x(r) x(r + s)> = integral d^d k / (2 pi)^d  P(k) exp(i k s),      <|x_k|^2> = V P(k),
    x_k = (V / N) sum_r x(r) exp(-i k r)

on a grid of N points and volume `V = N` times the product of the spacings. A grid has no frequencies beyond its Nyquist
wavenumbers `pi / spacing`: power there is left out, not folded back.
"""

from tdas_ops.fields.estimate import PowerSpectrum, power_spectrum
from tdas_ops.fields.field import GaussianField, random_field

__all__ = ["GaussianField", "PowerSpectrum", "power_spectrum", "random_field"]
