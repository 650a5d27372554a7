"""The mathematics of the ops in float64: the operator, its transpose, the merged update, the special cases."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import Problem, make_problem, relative_rms

import tdas_ops
from benchmarks import published
from tdas_ops import reference
from tests.noise_contract import white_noise

TIGHT = 1e-13
MASKS = [(f, s) for f, s in itertools.product((True, False), repeat=2)]
SHAPES = [(2, 6, 5), (1, 4, 8), (1, 1, 7), (3, 5, 1), (1, 2, 2)]


def dense(M: tdas_ops.Preconditioner, which: str) -> torch.Tensor:
    """The operator as a matrix `[n, n]`: column j is the image of unit vector j."""
    n = M.shape[0] * M.shape[1] * M.shape[2]
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *M.shape)
    return tdas_ops.precondition(basis, M, which).reshape(n, n).T


def drift_matrix(p: Problem) -> torch.Tensor:
    """D as a matrix, read off a step without noise."""
    n = p.x[0].numel()
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *p.M.shape)
    return tdas_ops.step(torch.zeros_like(basis), basis, p.M, 1.0, noise_scale=0.0).reshape(n, n).T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_filter_equals_transcription(shape, freq, space):
    p = make_problem(shape=shape, freq=freq, space=space)
    assert relative_rms(tdas_ops.precondition(p.v, p.M, "M"), published.apply_m(p.v, p.R, p.A)) < TIGHT
    assert relative_rms(tdas_ops.precondition(p.v, p.M, "MMt"), published.apply_mmt(p.v, p.R, p.A)) < TIGHT


@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_transpose_and_product(freq, space):
    p = make_problem(freq=freq, space=space)
    m = dense(p.M, "M")
    assert torch.allclose(dense(p.M, "Mt"), m.T, atol=1e-14)
    product = dense(p.M, "MMt")
    assert torch.allclose(product, m @ m.T, atol=1e-13)
    assert torch.allclose(product, product.T, atol=1e-13)
    assert torch.linalg.eigvalsh(product).min() > 0.01


@pytest.mark.parametrize("space", [True, False])
def test_skew_part(space):
    p = make_problem(skew=True, space=space)
    skew = drift_matrix(p) - dense(p.M, "MMt")
    assert skew.abs().max() > 0.01
    assert torch.allclose(skew, -skew.T, atol=1e-13)
    got = skew @ p.v[0].flatten()
    assert relative_rms(got, published.apply_skew(p.v[0], p.w).flatten()) < 1e-12


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize(("freq", "space"), MASKS)
@pytest.mark.parametrize("skew", [False, True])
def test_step_equals_transcription(method, freq, space, skew):
    if skew and method == "tdas":
        pytest.skip("a skew part goes with method pds only")
    p = make_problem(method=method, freq=freq, space=space, skew=skew)
    z = torch.randn_like(p.x)
    expected, expected_mean = published.update(p.x, p.v, p.R, p.A, 0.3, 0.7, z, method)
    if skew:
        turn = 0.3 * published.apply_skew(p.v, p.w)
        expected, expected_mean = expected + turn, expected_mean + turn
    merged = tdas_ops.step(p.x, p.v, p.M, 0.3, noise_scale=0.7, noise=z)
    apart, mean = tdas_ops.step(p.x, p.v, p.M, 0.3, noise_scale=0.7, noise=z, return_mean=True)
    assert relative_rms(merged, expected) < TIGHT
    assert relative_rms(apart, expected) < TIGHT
    assert relative_rms(mean, expected_mean) < TIGHT


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("norm", ["batch", "sample"])
@pytest.mark.parametrize("space", [True, False])
def test_langevin_step_equals_transcription(method, norm, space):
    p = make_problem(method=method, space=space)
    z = torch.randn_like(p.x)
    expected, expected_mean = published.langevin(p.x, p.v, p.R, p.A, 0.16, 0.9, z, method, norm == "sample")
    got, mean = tdas_ops.langevin_step(p.x, p.v, p.M, 0.16, noise=z, alpha=0.9, norm=norm, return_mean=True)
    assert relative_rms(got, expected) < TIGHT
    assert relative_rms(mean, expected_mean) < TIGHT


def test_identity_filter_is_plain_langevin():
    p = make_problem(freq=False, space=False)
    z = torch.randn_like(p.x)
    got = tdas_ops.step(p.x, p.v, p.M, 0.02, noise=z)
    assert relative_rms(got, p.x + 0.02 * p.v + 0.2 * z) < TIGHT


def test_zero_step_is_the_identity():
    p = make_problem()
    assert torch.equal(tdas_ops.step(p.x, p.v, p.M, 0.0, noise=torch.randn_like(p.x)), p.x)


@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_linear_in_score_and_noise(method):
    p = make_problem(method=method, skew=method == "pds")
    zero = torch.zeros_like(p.x)
    a, b = torch.randn_like(p.x), torch.randn_like(p.x)
    run = lambda v, z: tdas_ops.step(zero, v, p.M, 0.3, noise_scale=0.7, noise=z)
    together = run(2 * p.v - a, 3 * b)
    assert relative_rms(together, 2 * run(p.v, zero) - run(a, zero) + 3 * run(zero, b)) < 1e-12


def test_scales_per_sample():
    p = make_problem()
    z = torch.randn_like(p.x)
    d, n = torch.rand(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    got = tdas_ops.step(p.x, p.v, p.M, d, noise_scale=n, noise=z)
    for b in range(3):
        alone = tdas_ops.step(
            p.x[b : b + 1], p.v[b : b + 1], p.M, float(d[b]), noise_scale=float(n[b]), noise=z[b : b + 1]
        )
        assert relative_rms(got[b : b + 1], alone) < TIGHT
    default = tdas_ops.step(p.x, p.v, p.M, d[:, None, None, None], noise=z)
    assert relative_rms(default, tdas_ops.step(p.x, p.v, p.M, d, noise_scale=torch.sqrt(2 * d), noise=z)) < TIGHT
    one = tdas_ops.step(p.x, p.v, p.M, d[0], noise=z)
    assert relative_rms(one, tdas_ops.step(p.x, p.v, p.M, float(d[0]), noise=z)) < TIGHT


FAULTS = {
    "all zeros": lambda p, z: torch.zeros_like(p.x),
    "R once instead of twice": lambda p, z: (
        p.x + 0.3 * published.apply_m(p.v, p.R, p.A) + 0.7 * published.apply_m(z, p.R, p.A)
    ),
    "space mask forgotten": lambda p, z: published.update(p.x, p.v, p.R, torch.ones_like(p.A), 0.3, 0.7, z, "pds")[0],
    "M transposed": lambda p, z: (
        p.x + 0.3 * published.apply_mmt(p.v, p.R, p.A) + 0.7 * p.A * published.apply_m(z, p.R, torch.ones_like(p.A))
    ),
    "one twiddle wrong": lambda p, z: published.update(p.x, one_twiddle_wrong(p.v), p.R, p.A, 0.3, 0.7, z, "pds")[0],
    "one sample's noise on another": lambda p, z: published.update(p.x, p.v, p.R, p.A, 0.3, 0.7, z.roll(1, 0), "pds")[
        0
    ],
    "one element unwritten": lambda p, z: one_element_nan(published.update(p.x, p.v, p.R, p.A, 0.3, 0.7, z, "pds")[0]),
}


def one_twiddle_wrong(v: torch.Tensor) -> torch.Tensor:
    """v as a DFT would see it in which a single coefficient is turned by one degree."""
    spectrum = torch.fft.rfft2(v)
    spectrum[..., 1, 1] *= torch.exp(torch.tensor(0.0175j))
    return torch.fft.irfft2(spectrum, s=v.shape[-2:])


def one_element_nan(x: torch.Tensor) -> torch.Tensor:
    x[-1, -1, -1, -1] = torch.nan
    return x


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_kernel_is_caught(fault):
    """The bound used for every backend (1e-6 in float32) rejects kernels that are slightly wrong."""
    p = make_problem()
    z = torch.randn_like(p.x)
    expected = tdas_ops.step(p.x, p.v, p.M, 0.3, noise_scale=0.7, noise=z)
    assert not relative_rms(FAULTS[fault](p, z), expected) < 1e-6


@pytest.mark.parametrize(("freq", "space"), MASKS)
def test_identity_1_noise_joins_half_way(freq, space):
    """d M M^T v + n M z = M [d M^T v + n z]."""
    p = make_problem(freq=freq, space=space)
    z = torch.randn_like(p.x)
    bracket = 0.3 * tdas_ops.precondition(p.v, p.M, "Mt") + 0.7 * z
    got = tdas_ops.step(p.x, p.v, p.M, 0.3, noise_scale=0.7, noise=z)
    assert relative_rms(got, p.x + tdas_ops.precondition(bracket, p.M, "M")) < TIGHT


PLANES = list(itertools.product((1, 2, 3, 4, 5, 8), repeat=2))


def noise_map(height: int, width: int, spectral: bool) -> torch.Tensor:
    """The linear map from the normals (n0, n1) to z, one column for each of them, by the package."""
    columns = (width + 1) // 2
    basis = torch.eye(2 * height * columns, dtype=torch.float64).reshape(-1, height, columns, 2)
    g = torch.view_as_complex(basis)
    if not spectral:
        return reference.pixel_noise(g, width).flatten(1).T
    spectrum = published.inverse_dft(reference.full_spectrum(reference.spectral_noise(g, width), width))
    assert spectrum.imag.abs().max() < TIGHT
    return spectrum.real.flatten(1).T


@pytest.mark.parametrize(("height", "width"), PLANES)
@pytest.mark.parametrize("spectral", [False, True])
def test_identity_2_drawn_noise_is_white(height, width, spectral):
    """z = L n with L L^T = 1: unit variance, no correlation; for even W L is square, so every normal counts."""
    L = noise_map(height, width, spectral)
    assert (L @ L.T - torch.eye(height * width)).abs().max() < TIGHT
    if width % 2 == 0:
        assert L.shape == (height * width, height * width)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 4, 6), (1, 5, 6)])
def test_identity_2_noise_drawn_in_the_frequency_domain(shape):
    """x + F^-1 [d R^2 F v + n R Z] with Z drawn."""
    p = make_problem(shape=shape, space=False)
    stream, size = tdas_ops.NoiseStream(4), (*p.x.shape[:-1], (p.x.shape[-1] + 1) // 2)
    g = torch.empty(size, dtype=torch.complex64)
    torch.ops.tdas_ops.normals.reference(g, stream.seeds, stream.draw, 0, True)
    Z = published.dft(white_noise(g.to(torch.complex128), shape[-1], True))
    update = published.inverse_dft(0.3 * p.R.square() * published.dft(p.v) + 0.7 * p.R * Z)
    with tdas_ops.use_backend("reference"):
        got = tdas_ops.step(p.x, p.v, p.M, 0.3, noise_scale=0.7, noise=stream)
    assert relative_rms(got, p.x + update.real) < TIGHT


def packed_transform(v: torch.Tensor) -> torch.Tensor:
    """The half spectrum of real planes of even width, by one complex transform of half the width."""
    width = v.shape[-1]
    packed = published.dft(torch.complex(v[..., 0::2], v[..., 1::2]))
    packed = torch.cat([packed, packed[..., :1]], dim=-1)  # periodic, up to W / 2
    opposite = packed.flip(-1)
    opposite = torch.cat([opposite[..., :1, :], opposite[..., 1:, :].flip(-2)], dim=-2).conj()
    turn = torch.exp(-2j * torch.pi * torch.arange(width // 2 + 1, dtype=torch.float64) / width)
    return (packed + opposite) / 2 + turn * (packed - opposite) / 2j


@pytest.mark.parametrize(("height", "width"), [(h, w) for h, w in PLANES if w % 2 == 0])
def test_identity_3_a_real_plane_rides_as_a_complex_one_of_half_the_width(height, width):
    """Even columns are the real part, odd columns the imaginary part; a sample never meets another."""
    v = torch.randn(3, 2, height, width, dtype=torch.float64)
    got, expected = packed_transform(v), torch.fft.rfft2(v)
    assert relative_rms(torch.view_as_real(got), torch.view_as_real(expected)) < TIGHT
    v[1] = torch.nan
    assert torch.equal(packed_transform(v)[::2], got[::2])
    wrong = packed_transform(v[:1].roll(1, -1))  # odd and even columns exchanged
    assert not relative_rms(torch.view_as_real(wrong), torch.view_as_real(expected[:1])) < 1e-4


def decimate(x: torch.Tensor, inverse: bool) -> torch.Tensor:
    """In-place radix-2 FFT of a line: forward by decimation in frequency (natural to bit-reversed order), inverse by
    decimation in time (bit-reversed to natural order, unnormalised)."""
    x, n = x.clone(), len(x)
    sizes = [2**k for k in range(1, n.bit_length())]
    for size in sizes if inverse else reversed(sizes):
        half = size // 2
        turn = torch.exp((2j if inverse else -2j) * torch.pi * torch.arange(half, dtype=torch.float64) / size)
        for at in range(0, n, size):
            a, b = x[at : at + half].clone(), x[at + half : at + size].clone()
            if inverse:
                x[at : at + half], x[at + half : at + size] = a + turn * b, a - turn * b
            else:
                x[at : at + half], x[at + half : at + size] = a + b, (a - b) * turn
    return x


def test_identity_4_no_reordering_pass():
    """Decimation in frequency, times R in bit-reversed order, decimation in time: F^-1 R F with no permutation."""
    n = 16
    v, R = torch.randn(n, dtype=torch.complex128), torch.rand(n, dtype=torch.float64)
    order = torch.tensor([int(f"{k:04b}"[::-1], 2) for k in range(n)])
    got = decimate(R[order] * decimate(v, False), True) / n
    assert relative_rms(torch.view_as_real(got), torch.view_as_real(torch.fft.ifft(R * torch.fft.fft(v)))) < TIGHT
