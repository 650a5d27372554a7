"""What the samplers converge to: the exact law of a Gaussian field, by linear algebra instead of by sampling.

With the exact score `s(x) = -C^-1 x` a step is linear: `x' = P x + Q z`. P and Q are read off the op itself (float64),
so the covariance recursion `S' = P S P^T + Q Q^T` has no sampling error and is compared with closed forms to rounding.
"""

from __future__ import annotations

import math

import pytest
import torch
from conftest import even, make_problem

import tdas_ops
from tdas_ops import samplers
from tdas_ops.sde import VE

SHAPE = (1, 4, 6)
N = 24


def spectrum() -> torch.Tensor:
    """Variance of every orthonormal Fourier coefficient, `[1, H, W]`, falling with frequency."""
    ky, kx = torch.fft.fftfreq(4, dtype=torch.float64), torch.fft.fftfreq(6, dtype=torch.float64)
    return (1 / (0.05 + ky[:, None] ** 2 + kx[None, :] ** 2))[None]


def covariance(variance: torch.Tensor) -> torch.Tensor:
    """The stationary covariance matrix with this spectrum."""
    basis = torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)
    return torch.fft.ifft2(variance * torch.fft.fft2(basis)).real.reshape(N, N).T


def step_matrices(M: tdas_ops.Preconditioner, precision: torch.Tensor, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """P and Q of one Langevin step with the exact score."""
    basis = torch.eye(N, dtype=torch.float64).reshape(N, *SHAPE)
    zero = torch.zeros_like(basis)
    score = -(precision @ torch.eye(N, dtype=torch.float64)).T.reshape(N, *SHAPE)
    P = tdas_ops.step(basis, score, M, eta, noise=zero).reshape(N, N).T
    Q = tdas_ops.step(zero, zero, M, eta, noise=basis).reshape(N, N).T
    return P, Q


def settled(P: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """The fixed point of `S' = P S P^T + Q Q^T`, by doubling."""
    S, power = Q @ Q.T, P
    for _ in range(60):
        S, power = S + power @ S @ power.T, power @ power
    return S


def mode_variance(S: torch.Tensor) -> torch.Tensor:
    """Variance of every orthonormal Fourier coefficient under the covariance S."""
    rows = torch.fft.fft2(S.reshape(N, *SHAPE), norm="ortho").reshape(N, N)
    return (
        torch.fft.fft2(rows.T.reshape(N, *SHAPE), norm="ortho")
        .reshape(N, N)[mirror_index(), torch.arange(N)]
        .real.reshape(SHAPE)
    )


def mirror_index() -> torch.Tensor:
    index = torch.arange(N).reshape(4, 6)
    return torch.roll(torch.flip(index, (0, 1)), (1, 1), (0, 1)).flatten()


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("eta", [0.02, 0.3])
def test_stationary_variance_of_every_frequency(method, eta):
    """Frequency mask: v = lambda / (1 - eta R^2 / (2 lambda)) for pds, the target up to the discretisation;
    v = lambda R^2 / (1 - eta / (2 lambda)) for tdas, which tends to R^2 lambda and not to the target."""
    variance = spectrum()
    R = even(0.5 + torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    M = tdas_ops.Preconditioner.from_masks(R, method=method)
    S = settled(*step_matrices(M, torch.linalg.inv(covariance(variance)), eta))
    if method == "pds":
        expected = variance / (1 - eta * R.square() / (2 * variance))
    else:
        expected = R.square() * variance / (1 - eta / (2 * variance))
    assert torch.allclose(mode_variance(S), expected, rtol=1e-10)
    target_error = float((mode_variance(S) / variance - 1).abs().max())
    if method == "pds":
        assert target_error < 0.6 * eta * float((R.square() / variance).max())
    else:
        assert target_error > 0.3


@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("space", [False, True])
def test_pds_leaves_the_target_unchanged_to_second_order(skew, space):
    """P C P^T + Q Q^T - C = eta^2 D C^-1 D^T exactly: the drift D = M M^T + S cancels the noise to first order."""
    p = make_problem(shape=SHAPE, space=space, skew=skew)
    C = covariance(spectrum())
    precision, eta = torch.linalg.inv(C), 0.05
    P, Q = step_matrices(p.M, precision, eta)
    D = (torch.eye(N, dtype=torch.float64) - P) @ C / eta
    assert torch.allclose(P @ C @ P.T + Q @ Q.T - C, eta**2 * D @ precision @ D.T, atol=1e-10)


def test_tdas_does_not_leave_the_target_unchanged():
    p = make_problem(shape=SHAPE, method="tdas")
    C = covariance(spectrum())
    eta = 1e-4
    P, Q = step_matrices(p.M, torch.linalg.inv(C), eta)
    assert (P @ C @ P.T + Q @ Q.T - C).abs().max() > 0.1 * eta


@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_whole_run_follows_the_recursion(method):
    """A VE predictor-corrector run on many samples against the scalar recursion of every frequency.

    The snr rule ties the frequencies together through its norms; over many samples they are the expected norms.
    """
    variance = spectrum() / 20
    R = even(0.6 + 0.8 * torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    M = tdas_ops.Preconditioner.from_masks(R, method=method)
    sde, iterations, snr, batch = VE(0.01, 8.0), 25, 0.1, 6000

    def score(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return -torch.fft.ifft2(torch.fft.fft2(x) / (variance + sigma.reshape(-1, 1, 1, 1) ** 2)).real

    start = tdas_ops.noise(M, (batch, *SHAPE), tdas_ops.NoiseStream(8), sde.sigma_max, dtype=torch.float64)
    x = samplers.pc(
        score,
        (batch, *SHAPE),
        sde,
        M,
        noise=tdas_ops.NoiseStream(9),
        iterations=iterations,
        snr=snr,
        start=start,
        progress=False,
    )
    measured = torch.fft.fft2(x, norm="ortho").abs().square().mean(0)

    def recursion(drift2: torch.Tensor) -> torch.Tensor:
        """Variance of x_mean at the end; the norms of the snr rule are averages of |.| over samples."""
        v = R.square() * sde.sigma_max**2
        mean = v
        for level in sde.levels(iterations):
            gain = drift2 / (variance + level.condition**2)
            eta = 2 * (snr * mean_norm(R.square()) / mean_norm(gain.square() * v)) ** 2
            v = (1 - eta * gain) ** 2 * v + 2 * eta * R.square()
            _, d, n = level.reverse
            mean = (1 - d * gain) ** 2 * v
            v = mean + n**2 * R.square()
        return mean

    real = torch.zeros(4, 6, dtype=torch.bool)
    real[::2, ::3] = True  # self-conjugate frequencies have one degree of freedom, the others two
    spread = torch.where(real, math.sqrt(2 / batch), math.sqrt(1 / batch))
    pds, tdas = recursion(R.square()), recursion(torch.ones_like(R))
    right, wrong = (pds, tdas) if method == "pds" else (tdas, pds)
    assert ((measured / right - 1).abs() / spread).max() < 4.5
    assert ((measured / wrong - 1).abs() / spread).max() > 4.5


SQUARED_NORMALS = torch.randn(100_000, N, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).square()


def mean_norm(mode_variances: torch.Tensor) -> float:
    """E |y| of a real Gaussian field with these variances of its orthonormal Fourier coefficients."""
    weights = mode_variances.flatten()
    return float((SQUARED_NORMALS @ weights).sqrt().mean())
