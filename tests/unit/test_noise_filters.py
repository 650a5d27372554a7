"""Filters for noise alone, filters of unit variance and filters of other sizes."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_problem, odd, relative_rms

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, _gaussian, calibrate, samplers, sde
from tests.unit.test_coloured import matrices

SHAPE = (2, 8, 6)


def band(shape=SHAPE) -> Preconditioner:
    """Nothing of the lowest and the highest frequencies, and a sign that changes: no other method would take it."""
    return Preconditioner.radial(lambda k: torch.where(k > 0.45, -0.5, torch.where(k > 0.2, 1.5, 0.0)), shape, "noise")


def score(x, sigma):
    return -x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


def test_a_step_filters_its_noise_alone(backend):
    M = band()
    x, v = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    got, mean = tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(3), return_mean=True)
    assert relative_rms(mean, x + 0.1 * v) < 1e-6
    assert relative_rms(got - mean, math.sqrt(0.2) * tdas_ops.noise(M, x.shape, 3)) < 1e-5
    z = torch.fft.rfft2((got - mean).double())
    assert z[..., 0, 0].abs().max() < 1e-4 and float(z.abs().max()) > 1
    again = tdas_ops.langevin_step(x, v, M, 0.2, noise=NoiseStream(3), norm="sample")
    assert bool(again.isfinite().all())


def test_the_reference_knows_it():
    """Against complex FFTs in float64."""
    M, x, v = band(), *(torch.randn(2, *SHAPE, dtype=torch.float64) for _ in range(2))
    z = torch.randn(2, *SHAPE, dtype=torch.float64)
    R = tdas_ops.reference.full_spectrum(M.freq, SHAPE[2])
    expected = x + 0.1 * v + 0.3 * torch.fft.ifft2(R * torch.fft.fft2(z)).real
    assert relative_rms(tdas_ops.step(x, v, M, 0.1, noise=z, noise_scale=0.3), expected) < 1e-12


def test_the_other_methods_refuse_what_it_takes():
    for method in ("pds", "tdas"):
        with pytest.raises(ValueError, match=r"expected positive ones \(method='noise' admits any\)"):
            Preconditioner(SHAPE, band().freq, method=method)
    singular = torch.zeros(8, 4, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"expected regular ones \(method='noise' admits any\)"):
        Preconditioner(SHAPE, singular)
    assert Preconditioner(SHAPE, singular, method="noise").mixing
    with pytest.raises(ValueError, match="skew: got a skew part with method 'noise'"):
        Preconditioner(SHAPE, skew=torch.zeros(2, 8, 4, dtype=torch.float64), method="noise")
    with pytest.raises(ValueError, match="expected 'pds', 'tdas', 'noise' or None"):
        Preconditioner(SHAPE, method="colour")
    with pytest.raises(ValueError, match=r"expected up to 3.4e"):
        huge = Preconditioner(SHAPE, band().freq * 1e39, method="noise")
        tdas_ops.noise(huge, (1, *SHAPE), 0)


RUNS = {
    "pc": lambda M, **o: samplers.pc(score, (3, *SHAPE), sde.VE(0.1, 5.0), M, iterations=4, progress=False, **o),
    "ancestral": lambda M, **o: samplers.ancestral(score, (3, *SHAPE), sde.VE(0.1, 5.0), M, evaluations=4, progress=False, **o),
    "dpmpp": lambda M, **o: samplers.dpmpp(score, (3, *SHAPE), sde.VE(0.1, 5.0), M, evaluations=4, eta=1.0, progress=False, **o),
    "langevin": lambda M, **o: samplers.annealed_langevin(score, (3, *SHAPE), [5.0, 2.0, 1.0, 0.5], M, step_size=0.01, steps=2, progress=False, **o),
}  # fmt: skip


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_samplers_start_white_and_take_schedules(run):
    """The start is that of a run without a filter; a schedule of one filter is that filter."""
    M, seen = band(), []
    callback = lambda state: seen.append(state.iteration)
    plain = samplers.pc(score, (3, *SHAPE), sde.VE(0.1, 5.0), noise=7, iterations=4, snr=0.0, progress=False)
    got = run(M, noise=7, callback=callback)
    assert bool(got.isfinite().all()) and seen == [1, 2, 3, 4] and plain.shape == got.shape
    assert torch.equal(run([M] * 4, noise=7), got)
    white = tdas_ops.noise(Preconditioner.identity(SHAPE), (3, *SHAPE), NoiseStream(7), 5.0)
    assert torch.equal(run(M, noise=NoiseStream(7, draw=1), start=white), got)
    schedule = [Preconditioner.radial(lambda k, i=i: (k > 0.1 * i).double(), SHAPE, "noise") for i in range(4)]
    assert not torch.equal(run(schedule, noise=7), got)
    with pytest.raises(ValueError, match="expected one shape, method and device"):
        run([M, *[Preconditioner.identity(SHAPE)] * 3], noise=7)


def test_the_gaussian_model_knows_the_white_start():
    target = calibrate.Target.from_images(torch.rand(64, *SHAPE))
    gains = _gaussian.Gains.of_filter(band(), target)
    assert gains.noise.min() == 0 and gains.noise.max() == 1.5**2
    assert (gains.start == 1).all() and (gains.drift == 1).all()
    assert calibrate.predict(band(), target, calibrate.PC(sde.VE(0.1, 5.0), 8, 0.16)).distance > 0


@pytest.mark.parametrize("freq", [False, True])
@pytest.mark.parametrize("space", [False, True])
@pytest.mark.parametrize("shape", [(2, 8, 6), (3, 5, 7)])
def test_unit_variance_of_masks(shape, freq, space):
    """Exactly, by the covariance of M z, and as measured on noise."""
    p = make_problem(1, shape, freq=freq, space=space)
    unit = p.M.unit_variance()
    n = math.prod(shape[1:])
    eye = torch.eye(n, dtype=torch.float64).reshape(n, 1, *shape[1:]).expand(-1, shape[0], -1, -1).contiguous()
    for M in (p.M, unit):
        covariance = tdas_ops.precondition(eye, M, "M").square().sum(0)  # variance of every pixel
        assert torch.allclose(M.deviations(), covariance.mean((1, 2)).sqrt(), rtol=1e-12)
    assert torch.allclose(unit.deviations(), torch.ones(shape[0], dtype=torch.float64), rtol=1e-12)
    z = tdas_ops.noise(unit, (500, *shape), 0).double()
    assert abs(float(z.square().mean()) - 1) < 0.05
    assert (unit.method, unit.provenance["unit_variance"]) == ("pds", True)


def test_unit_variance_of_matrices():
    M = matrices((3, 8, 6))
    assert torch.allclose(M.deviations(), torch.ones(3, dtype=torch.float64), rtol=1e-12)
    z = tdas_ops.noise(M, (2000, 3, 8, 6), 0).double()
    assert (z.square().mean((0, 2, 3)) - 1).abs().max() < 0.05
    pixels = Preconditioner((3, 8, 6), M.freq, torch.rand(3, 8, 6, dtype=torch.float64) + 0.5, method="noise")
    z = tdas_ops.noise(pixels.unit_variance(), (2000, 3, 8, 6), 0).double()
    assert (z.square().mean((0, 2, 3)) - 1).abs().max() < 0.05


def test_masks_of_images_have_the_deviations_that_the_docstring_names():
    g = torch.Generator().manual_seed(0)
    images = 0.5 * torch.rand(200, 3, 32, 32, generator=g) + 0.25 * torch.rand(200, 3, 1, 1, generator=g)
    for method, deviation in (("pds", 1.2), ("tdas", 0.8)):
        found = Preconditioner.from_images(images, method=method, progress=False).deviations()
        assert (found - deviation).abs().max() < 0.05


def test_unit_variance_keeps_the_target():
    """D is scaled as a whole, skew part and all: the drift is one of another step size."""
    p = make_problem(2, (1, 6, 5), freq=True, space=False, skew=True)
    unit = p.M.unit_variance()
    factor = float(p.M.deviations()) ** 2
    plain, scaled = (tdas_ops.step(p.x, p.v, M, 1.0, noise_scale=0.0) - p.x for M in (p.M, unit))
    assert relative_rms(factor * scaled, plain) < 1e-12


def test_a_filter_of_nothing_has_no_unit_variance():
    with pytest.raises(ValueError, match="M: got a filter that leaves nothing of channel 1, expected some noise"):
        freq = torch.ones(2, 8, 4, dtype=torch.float64)
        freq[1] = 0
        Preconditioner(SHAPE, freq, method="noise").unit_variance()
    assert Preconditioner.identity(SHAPE).unit_variance().freq is None


@pytest.mark.parametrize("size", [(16, 12), (7, 9), (8, 7), (4, 3), (1, 1)])
def test_resize_keeps_what_a_frequency_is_given(size):
    """A mask that is linear in |ky| and |kx| is met exactly; the sampled one is where frequencies coincide."""
    linear = lambda shape: (
        1 + torch.fft.fftfreq(shape[1]).abs()[:, None].double() + torch.fft.rfftfreq(shape[2]).double()
    )
    shape, new = (2, 8, 6), (2, *size)
    skew = odd(torch.rand(shape, dtype=torch.float64))[..., :4]
    M = Preconditioner(shape, linear(shape).expand(2, -1, -1), torch.full(shape, 0.7), skew, provenance={"source": "x"})
    made = M.resize(*size)
    assert made.shape == new and made.provenance == {"source": "x", "resized_from": [8, 6]}
    assert torch.allclose(made.freq, linear(new).expand(2, -1, -1), rtol=1e-6)
    assert torch.allclose(made.space, torch.full(new, 0.7, dtype=torch.float64))
    again = made.resize(8, 6)
    assert M.resize(8, 6) is M
    if size == (16, 12):
        assert torch.allclose(again.freq, M.freq, rtol=1e-6) and torch.allclose(again.skew, M.skew, atol=1e-12)


def test_samples_of_another_size_are_refused_with_the_command_that_makes_a_filter():
    M, x = Preconditioner.identity(SHAPE), torch.zeros(1, 2, 16, 12)
    for call in (
        lambda: tdas_ops.step(x, x.clone(), M, 0.1, noise=NoiseStream(0)),
        lambda: tdas_ops.noise(M, x.shape, 0),
        lambda: tdas_ops.precondition(x, M),
        lambda: samplers.pc(score, x.shape, sde.VE(0.1, 5.0), M, noise=0, iterations=2, progress=False),
    ):
        with pytest.raises(ValueError, match=r"as M has it \(M.resize\(16, 12\) makes a filter of that size\)$"):
            call()


def test_resize_of_matrices_keeps_them_hermitian():
    g = torch.Generator().manual_seed(0)
    full = torch.randn(8, 6, 2, 2, generator=g, dtype=torch.complex128)
    mirrored = torch.roll(full.flip(0, 1), (1, 1), (0, 1)).conj()
    M = Preconditioner(SHAPE, (full + mirrored)[:, :4], method="noise")
    for size in ((16, 12), (5, 7), (4, 9)):
        made = M.resize(*size)
        assert made.mixing and made.shape == (2, *size)
        assert bool(tdas_ops.noise(made.unit_variance(), (2, 2, *size), 0).isfinite().all())
    with pytest.raises(ValueError, match="height: got 0, expected a positive integer"):
        M.resize(0, 4)


def test_a_filter_of_infinite_variance_is_not_scaled_to_nothing() -> None:
    huge = torch.full((1, 2, 2), 1e200, dtype=torch.float64)
    with pytest.raises(ValueError, match="M: got a filter whose noise in channel 0 is infinite"):
        Preconditioner.from_masks(space=huge, method="noise").unit_variance()
