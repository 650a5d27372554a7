"""Doors to samplers of other code: coloured noise of unit variance and the preconditioned denoiser."""

from __future__ import annotations

import copy
import itertools
import math
import warnings

import pytest
import torch
from conftest import make_problem, relative_rms

import tdas_ops
from tdas_ops import ColouredNoise, NoiseStream, PreconditionedDenoiser, Preconditioner, RadialTable, Spectrum

SHAPE = (3, 8, 6)
TABLE = RadialTable([0.1, 1.0, 10.0], [0.0, 0.1, 0.5], [[1, 1, 1], [1, 2, 1], [0, 1, 4]])


def coloured(method="noise", shape=SHAPE) -> Preconditioner:
    return Preconditioner.radial(lambda k: (k + 0.1) ** -0.7, shape, method).unit_variance()


def matrices(shape=SHAPE) -> Preconditioner:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(64, *shape, generator=g, dtype=torch.float64)
    S = Spectrum.from_images(images, window=False)
    return Preconditioner.from_cross_spectrum(S.matrices, 0.5, shape=shape, method="noise").unit_variance()


FILTERS = {"mask": coloured, "matrices": matrices, "table": lambda: TABLE}


@pytest.fixture(params=FILTERS.values(), ids=FILTERS)
def M(request):
    return request.param()


def test_noise_is_that_of_the_op():
    M, x = coloured(), torch.empty(2, *SHAPE)
    ours, stream = ColouredNoise(M, 5, x), NoiseStream(5)
    for made in (ours(3.0, 1.0), ours.randn_like(x), ours.variance_noise(x)):
        assert torch.equal(made, tdas_ops.noise(M, x.shape, stream))


def test_an_identity_filter_changes_nothing():
    x = torch.empty(2, *SHAPE)
    plain = ColouredNoise(Preconditioner.identity(SHAPE), 5, x)
    assert torch.equal(plain(3.0, 1.0), NoiseStream(5).randn(x.shape))
    w = NoiseStream(5).brownian(x.shape)
    assert torch.equal(ColouredNoise(Preconditioner.identity(SHAPE), w)(3.0, 1.0), w(3.0, 1.0))


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 4, 8, 6), (4, 3, 8, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_latents_of_every_kind(M, shape, dtype):
    """Unit variance in every channel, and a sample that is the same alone, in a batch and in a shard."""
    x = torch.empty(200, *shape, dtype=dtype)
    whole = ColouredNoise(M, 3).randn_like(x, 2.0)
    assert whole.dtype is dtype and whole.shape == x.shape
    axis = 1 + shape.index(3)
    deviations = whole.double().transpose(0, axis).flatten(1).std(1)
    assert (deviations - 1).abs().max() < 0.06
    alone = ColouredNoise(M, NoiseStream(3, first_sample=7)).randn_like(x[:1], 2.0)
    shard = ColouredNoise(M, NoiseStream(3).shard(1, 2, 200)).randn_like(x[100:], 2.0)
    assert torch.equal(alone[0], whole[7])
    assert torch.equal(shard, whole[100:])


@pytest.mark.parametrize("frames", [(3, 4), (4, 3)])
def test_every_frame_has_the_spectrum_of_the_filter(M, frames):
    x = torch.empty(600, *frames, 8, 6)
    z = ColouredNoise(M, 3).randn_like(x, 2.0)
    z = z if frames[0] == 3 else z.transpose(1, 2)
    power = torch.fft.rfft2(z.double(), norm="ortho").abs().square().mean(0)  # [C, T, H, K]
    image = ColouredNoise(M, 9).randn_like(torch.empty(2400, *SHAPE), 2.0)
    expected = torch.fft.rfft2(image.double(), norm="ortho").abs().square().mean(0)
    assert relative_rms(power.mean(1), expected) < 0.1
    between = (z[:, :, 0].double() * z[:, :, 1].double()).mean()
    assert abs(float(between)) < 0.02


@pytest.mark.parametrize("frames", [(3, 4), (4, 3)])
def test_every_channel_has_its_own_filter_in_all_frames(frames):
    gains = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    freq = gains[:, None, None].expand(-1, 8, 4)
    with pytest.warns(UserWarning, match="0.5, 1, 3"):
        noise = ColouredNoise(Preconditioner(SHAPE, freq, method="noise"), 3)
    z = noise.randn_like(torch.empty(200, *frames, 8, 6))
    z = z if frames[0] == 3 else z.transpose(1, 2)
    assert (z.double().std((0, 3, 4)) / gains[:, None] - 1).abs().max() < 0.06


@pytest.mark.parametrize("frames", [(), (4,)])
def test_paths_are_coloured_and_still_add_up(M, frames):
    shape = (100, 3, *frames, 8, 6)
    noise = ColouredNoise(M, NoiseStream(5).brownian(shape))
    assert abs(float(noise(3.0, 1.0).std()) - 1) < 0.06
    fixed = ColouredNoise(coloured(), NoiseStream(5).brownian(shape))
    parts = math.sqrt(2.0) * fixed(4.0, 2.0) + math.sqrt(1.0) * fixed(2.0, 1.0)
    assert relative_rms(parts, math.sqrt(3.0) * fixed(4.0, 1.0)) < 1e-5  # levels are rounded to 7e-6


def test_a_table_is_a_function_of_level_and_radius():
    """Linear between its entries, constant beyond; the noise has its spectrum at the level asked for, at any size."""
    radii = torch.tensor([0.0, 0.05, 0.3, 0.7], dtype=torch.float64)
    assert torch.allclose(TABLE(1.0)(radii), torch.tensor([1, 1.5, 1.5, 1], dtype=torch.float64))
    assert torch.equal(TABLE(1e3)(radii), TABLE(10.0)(radii))
    assert torch.equal(TABLE(0.0)(radii), TABLE(0.1)(radii))
    assert torch.allclose(TABLE(math.sqrt(10))(radii), (TABLE(1.0)(radii) + TABLE(10.0)(radii)) / 2)
    rising = RadialTable([10.0, 1.0, 0.1], [0.0, 0.1, 0.5], [[0, 1, 4], [1, 2, 1], [1, 1, 1]])
    assert torch.equal(rising(2.0)(radii), TABLE(2.0)(radii))
    for size in ((8, 6), (5, 9)):
        z = ColouredNoise(TABLE, 3, torch.empty(3000, 1, *size))(10.0, 1.0)
        power = torch.fft.rfft2(z.double(), norm="ortho").abs().square().mean(0)[0]
        M = Preconditioner.radial(TABLE(10.0), (1, *size), "noise").unit_variance()
        assert relative_rms(power, M.freq[0].square()) < 0.05


def test_a_function_may_give_filters_which_get_unit_variance():
    M = Preconditioner.radial(lambda k: 3 + 0 * k, SHAPE, "noise")
    x = torch.empty(2, *SHAPE)
    made = ColouredNoise(lambda sigma: M, 5).randn_like(x, 1.0)
    assert torch.equal(made, tdas_ops.noise(M.unit_variance(), x.shape, 5))


def test_a_start_is_the_same_whenever_it_is_asked_for():
    x = torch.empty(4, *SHAPE, dtype=torch.float16)
    noise = ColouredNoise(coloured(), 5, x)
    start = noise.generate_noise({"samples": x})
    steps = [noise(3.0, 1.0), noise(3.0, 1.0)]
    assert noise.seed == 5
    assert torch.equal(noise.generate_noise(x), start)
    picked = noise.generate_noise({"samples": x[:2], "batch_index": [2, 0]})
    assert torch.equal(picked, start[[2, 0]])
    assert not any(torch.equal(start, step) for step in steps) and not torch.equal(start[0], start[1])
    shard = ColouredNoise(coloured(), NoiseStream(5, first_sample=2)).generate_noise(x[:2])
    assert torch.equal(shard, start[2:])
    seeds = ColouredNoise(coloured(), [8, 5])
    assert seeds.seed == 8 and torch.equal(seeds.generate_noise({"samples": x[:1], "batch_index": [1]}), start[:1])
    high = ColouredNoise(TABLE, 5).generate_noise(x)
    assert torch.equal(high, ColouredNoise(TABLE, 5).generate_noise(x, sigma=10.0))


def test_only_a_filter_of_another_variance_is_warned_of():
    with pytest.warns(UserWarning, match=r"deviation of 3, 3, 3 .*M.unit_variance\(\)") as caught:
        ColouredNoise(Preconditioner.radial(lambda k: 3 + 0 * k, SHAPE, "noise"), 0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for M in (coloured(), matrices(), TABLE, Preconditioner.identity(SHAPE)):
            ColouredNoise(M, 0)


X = torch.empty(2, *SHAPE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ColouredNoise(3, 0), "M: got int, expected a Preconditioner or a function of the noise level"),
        (lambda: ColouredNoise(coloured(), "x"), "noise: got str, expected a NoiseStream"),
        (lambda: ColouredNoise(coloured(), 0, (2, 3)), "like: got tuple, expected a tensor"),
        (lambda: ColouredNoise(coloured(), NoiseStream(0).brownian((2, 3)), X), "like: got a tensor beside a Brownian path"),
        (lambda: ColouredNoise(coloured(), 0)(3.0, 1.0), "like: got None, expected a tensor"),
        (lambda: ColouredNoise(TABLE, 0).randn_like(X), "sigma: got None, expected the noise level"),
        (lambda: ColouredNoise(lambda s: TABLE(s), 0).generate_noise(X), "sigma: got None, expected the noise level"),
        (lambda: ColouredNoise(lambda s: 3, 0).randn_like(X, 1.0), "M: got int for the level 1.0, expected"),
        (lambda: ColouredNoise(coloured(), 0).randn_like(torch.empty(2, 3, 16, 6)), "expected (8, 6) as M has it (M.resize(16, 6) makes a filter of that size)"),
        (lambda: ColouredNoise(coloured(), 0).randn_like(torch.empty(2, 4, 8, 6)), "x: got samples of shape (4, 8, 6), expected [3, H, W]"),
        (lambda: ColouredNoise(coloured(), 0).randn_like(torch.empty(3, 8, 6)), "x: got shape (3, 8, 6), expected a floating-point"),
        (lambda: ColouredNoise(coloured(), 0).randn_like(X.int()), "x: got torch.int32, expected a floating-point"),
        (lambda: ColouredNoise(coloured(), NoiseStream(0).brownian(X.shape)).randn_like(X), "noise: got a Brownian path, expected a stream"),
        (lambda: ColouredNoise(coloured(), 0).generate_noise({"samples": X, "batch_index": [1]}), "batch_index: got 1 indices, expected one for each of 2"),
        (lambda: ColouredNoise(coloured(), 0).generate_noise({"noise": X}), "latent: got a mapping with ['noise'], expected one with 'samples'"),
        (lambda: ColouredNoise(coloured(), [1, 2]).generate_noise({"samples": X, "batch_index": [1, 2]}), "batch_index: got 2, expected one below 2"),
        (lambda: RadialTable([1.0, 0.0], [0.0], [[1.0], [1.0]]), "sigmas: got [1.0, 0.0], expected levels above 0"),
        (lambda: RadialTable([1.0, 3.0, 2.0], [0.0], [[1.0]] * 3), "sigmas: got levels out of order"),
        (lambda: RadialTable([1.0], [0.2, 0.1], [[1.0, 1.0]]), "radii: got [0.2, 0.1], expected rising ones"),
        (lambda: RadialTable([1.0], [0.1], [[1.0, 1.0]]), "values: got shape (1, 2), expected finite ones of shape (1, 1)"),
        (lambda: RadialTable([1.0], [0.1], [[math.inf]]), "values: got non-finite values"),
        (lambda: RadialTable([1.0], [0.0, 0.5], [[0.0, 0.0]]) and ColouredNoise(RadialTable([1.0], [0.0, 0.5], [[0.0, 0.0]]), 0).randn_like(X, 1.0), "leaves nothing of channel 0"),
        (lambda: PreconditionedDenoiser(3, coloured()), "model: got int, expected a function"),
        (lambda: PreconditionedDenoiser(denoise, 3), "M: got int, expected a Preconditioner"),
        (lambda: PreconditionedDenoiser(denoise, coloured(None)), "M: got a filter without a method"),
        (lambda: PreconditionedDenoiser(denoise, coloured("pds"))(torch.zeros(2, 3, 16, 6), 1.0), "M.resize(16, 6)"),
        (lambda: PreconditionedDenoiser(lambda x, s: x[:1], coloured("pds"))(torch.zeros(2, *SHAPE), 1.0), "model: got an image (1, 3, 8, 6), expected (2, 3, 8, 6)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


def denoise(x, sigma):
    return x / (1 + torch.as_tensor(sigma).reshape(-1, *(1,) * (x.dim() - 1)) ** 2)


@pytest.mark.parametrize("skew", [False, True])
def test_the_denoiser_preconditions_the_drift(skew):
    p = make_problem(2, SHAPE, space=not skew, skew=skew)
    drift = denoise(p.x, 2.0) - p.x
    spectrum = (p.R.square() + 1j * p.w) * torch.fft.fft2(drift)
    expected = p.x + torch.fft.ifft2(spectrum).real
    if not skew:
        expected = p.x + tdas_ops.precondition(drift, p.M, "MMt")
    assert relative_rms(PreconditionedDenoiser(denoise, p.M)(p.x, 2.0), expected) < 1e-12
    assert relative_rms(PreconditionedDenoiser(denoise, p.M)(p.x.float(), 2.0), expected) < 1e-6


@pytest.mark.parametrize("frames", [(3, 2), (2, 3)])
def test_the_denoiser_filters_frame_by_frame(frames):
    axis = 1 + frames.index(2)
    for M in (coloured("pds"), matrices_pds()):
        denoiser = PreconditionedDenoiser(denoise, M)
        x = torch.randn(2, *frames, 8, 6, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([denoiser(x.select(axis, i), 2.0) for i in range(2)], axis)
        assert torch.equal(denoiser(x, 2.0), expected)


def matrices_pds() -> Preconditioner:
    M = matrices()
    return Preconditioner(M.shape, M.freq, method="pds")


def test_without_a_filtered_drift_it_is_the_model():
    x = torch.randn(2, *SHAPE)
    for M in (Preconditioner.identity(SHAPE), coloured("tdas"), coloured("noise")):
        assert torch.equal(PreconditionedDenoiser(denoise, M)(x, 2.0), denoise(x, 2.0))


def test_attributes_dtypes_and_copies_are_those_of_the_model():
    class Net(torch.nn.Module):
        sigma_min = 0.1

        def forward(self, x, sigma, label=None, *, scale=1.0):
            return (x * scale).half() if label is None else x

    denoiser = PreconditionedDenoiser(Net(), coloured("pds"))
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    assert denoiser.sigma_min == 0.1 and list(denoiser.parameters()) == []
    assert denoiser(x, 1.0, scale=0.5).dtype is torch.float16 and denoiser(x, 1.0, 3).dtype is torch.float64
    assert copy.deepcopy(denoiser).sigma_min == 0.1
    with pytest.raises(AttributeError):
        _ = denoiser.nothing


def euler_ancestral(model, x, sigmas, noise_sampler):
    """What a sampler without hooks does, with the names of k-diffusion."""
    for s, t in itertools.pairwise(sigmas):
        d = (x - model(x, torch.full((len(x),), s))) / s
        up = min(t, math.sqrt(t**2 * (s**2 - t**2) / s**2))
        x = x + d * (math.sqrt(t**2 - up**2) - s) + (noise_sampler(s, t) * up if t > 0 else 0)
    return x


def test_a_foreign_sampler_with_both_doors_is_a_step_of_ours():
    M, x = coloured("pds"), 5 * NoiseStream(1).randn((2, *SHAPE))
    got = euler_ancestral(PreconditionedDenoiser(denoise, M), x, [5.0, 2.0, 0.5], ColouredNoise(M, 3, x))
    stream, expected = NoiseStream(3), x
    for s, t in itertools.pairwise([5.0, 2.0, 0.5]):
        up = math.sqrt(t**2 * (s**2 - t**2) / s**2)
        score = (denoise(expected, s) - expected) / s**2
        d = s * (s - math.sqrt(t**2 - up**2))
        expected = tdas_ops.step(expected, score, M, d, noise=stream, noise_scale=up)
    assert relative_rms(got, expected) < 1e-5


@pytest.mark.parametrize(("sigmas", "radii", "name"), [([], [], "sigmas"), ([1.0], [], "radii")])
def test_an_empty_table_is_refused(sigmas: list[float], radii: list[float], name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: got \[\], expected"):
        RadialTable(sigmas, radii, [[] for _ in sigmas])


def test_filters_that_are_forgotten_meanwhile_do_no_harm() -> None:
    noise = ColouredNoise(lambda sigma: lambda radii: radii + sigma, NoiseStream(0))

    class Forgetful(dict):  # type: ignore[type-arg]
        """As if another thread had cleared it at once."""

        def __setitem__(self, key: object, value: object) -> None:
            pass

    noise._kept = Forgetful()
    assert noise.randn_like(torch.zeros(1, 1, 4, 4), 1.0).isfinite().all()
