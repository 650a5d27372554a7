"""The mathematics of the ops in float64: the operator, its transpose, the merged update, the special cases."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import Problem, make_problem, relative_rms

import tdas_ops
from benchmarks import published

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
    run = lambda v, z: tdas_ops.step(zero, v, p.M, 0.3, noise_scale=0.7, noise=z)  # noqa: E731
    together = run(2 * p.v - a, 3 * b)
    assert relative_rms(together, 2 * run(p.v, zero) - run(a, zero) + 3 * run(zero, b)) < 1e-12


def test_scales_per_sample():
    p = make_problem()
    z = torch.randn_like(p.x)
    d, n = torch.rand(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    got = tdas_ops.step(p.x, p.v, p.M, d, noise_scale=n, noise=z)
    for b in range(3):
        alone = tdas_ops.step(p.x[b : b + 1], p.v[b : b + 1], p.M, float(d[b]), noise_scale=float(n[b]), noise=z[b : b + 1])
        assert relative_rms(got[b : b + 1], alone) < TIGHT
    default = tdas_ops.step(p.x, p.v, p.M, d[:, None, None, None], noise=z)
    assert relative_rms(default, tdas_ops.step(p.x, p.v, p.M, d, noise_scale=torch.sqrt(2 * d), noise=z)) < TIGHT
    one = tdas_ops.step(p.x, p.v, p.M, d[0], noise=z)
    assert relative_rms(one, tdas_ops.step(p.x, p.v, p.M, float(d[0]), noise=z)) < TIGHT


FAULTS = {
    "all zeros": lambda p, z: torch.zeros_like(p.x),
    "R once instead of twice": lambda p, z: p.x + 0.3 * published.apply_m(p.v, p.R, p.A) + 0.7 * published.apply_m(z, p.R, p.A),
    "space mask forgotten": lambda p, z: published.update(p.x, p.v, p.R, torch.ones_like(p.A), 0.3, 0.7, z, "pds")[0],
    "M transposed": lambda p, z: p.x + 0.3 * published.apply_mmt(p.v, p.R, p.A)
    + 0.7 * p.A * published.apply_m(z, p.R, torch.ones_like(p.A)),
    "one twiddle wrong": lambda p, z: published.update(p.x, one_twiddle_wrong(p.v), p.R, p.A, 0.3, 0.7, z, "pds")[0],
    "one sample's noise on another": lambda p, z: published.update(p.x, p.v, p.R, p.A, 0.3, 0.7, z.roll(1, 0), "pds")[0],
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
