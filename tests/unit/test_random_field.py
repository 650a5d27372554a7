"""Random fields: normalisation, independence, bits, embedding, cross-spectra, AR(1), what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tdas_ops
from tdas_ops import GaussianField, NoiseStream, power_spectrum, random_field
from tdas_ops.fields import field as fields
from tdas_ops.fields import grid
from tdas_ops.samplers import physics

SHAPES = [
    ((600,), (0.3,)),
    ((16384,), (0.3,)),
    ((36, 40), (0.5, 0.4)),
    ((12, 10, 16), (1.0, 0.5, 0.7)),
    ((9, 7, 5), (1.0, 0.8, 0.5)),
]


def law(k: Tensor) -> Tensor:
    return 2 / (1 + k.square()) ** 2


def full_radii(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Tensor:
    ks = [2 * math.pi * torch.fft.fftfreq(n, s, dtype=torch.float64) for n, s in zip(shape, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*ks, indexing="ij")).square().sum(0).sqrt()


def periodogram(x: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """`|x_k|^2 / V` by the definition: a complex DFT of all axes but the first."""
    shape = x.shape[1:]
    cell, points = math.prod(spacing), math.prod(shape)
    x_k = cell * torch.fft.fftn(x.double(), dim=tuple(range(1, x.dim())))
    return x_k.abs().square() / (cell * points)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_frequency_has_its_power(shape, spacing, dtype):
    """The mean over all frequencies is within 4 deviations, and their scatter is that of chi^2."""
    members = 200 if math.prod(shape) < 1 << 14 else 40
    x = random_field(law, shape, spacing, noise=3, members=members, dtype=dtype)
    assert x.shape == (members, *shape) and x.dtype is dtype and x.is_contiguous()
    ratio = periodogram(x, spacing) / law(full_radii(shape, spacing))
    points = math.prod(shape)
    assert abs(float(ratio.mean()) - 1) < 4 * math.sqrt(2 / (members * points))
    # k and -k are the same: half as many variances
    assert abs(members * float(ratio.mean(0).var()) - 1) < 5 * math.sqrt(4 / points)


@pytest.mark.parametrize("shape", [(64,), (9,), (6, 8), (4, 6, 8), (5, 3, 7)])
def test_the_frequencies_that_are_their_own_mirror_images_too(shape, monkeypatch):
    """Each frequency by itself, within 5 standard errors of 2000 members; a row also as a long one."""
    for long in (fields._LONG, 2):
        monkeypatch.setattr(fields, "_LONG", long)
        x = random_field(law, shape, noise=1, members=2000)
        ratio = periodogram(x, (1.0,) * len(shape)).mean(0) / law(full_radii(shape, (1.0,) * len(shape)))
        mirror = ratio.flip(*range(len(shape))).roll([1] * len(shape), list(range(len(shape))))
        assert torch.allclose(mirror, ratio, rtol=1e-4)
        assert float((ratio - 1).abs().max()) < 5 * math.sqrt(2 / 2000)
        own = [[0, n // 2] if n % 2 == 0 else [0] for n in shape]
        ends = ratio[torch.meshgrid(*map(torch.tensor, own), indexing="ij")]
        assert float((ends - 1).square().mean()) < 5 * 2 / 2000


def test_the_third_dimension_is_that_of_a_full_transform():
    """A spectrum that depends on the signs of k goes through real FFTs; the transform of the other way is Hartley's."""
    shape = (8, 6, 10)
    P = torch.fft.rfftn(torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).abs()
    skewed = GaussianField(P, shape)
    assert skewed._filter is None
    ratio = periodogram(skewed.sample(5, 400, dtype=torch.float64), (1.0,) * 3).mean(0)[..., :6] / P
    assert abs(float(ratio.mean()) - 1) < 0.01 and 0.8 < 400 * float(ratio.var()) < 1.3
    even = GaussianField(physics.free_propagator(shape, 1.0), shape)  # mirror images up to rounding
    assert even._filter is not None
    x = torch.randn(8, 60, dtype=torch.float64)
    expected = torch.fft.fft(x, dim=0)
    fields._hartley(x[None])
    assert torch.allclose(x, expected.real - expected.imag, atol=1e-12)


@pytest.mark.parametrize("shape", [(50,), (1 << 14,), (24, 30), (8, 6, 10), (7, 5, 9), (5, 4, 18)])
@pytest.mark.parametrize("periodic", [True, False])
def test_a_member_alone_is_that_of_the_batch(shape, periodic, monkeypatch):
    made = GaussianField(law, shape, 0.5, periodic=periodic)
    double = made.sample(NoiseStream(4), 5, dtype=torch.float64)
    assert torch.equal(made.sample(NoiseStream(4, first_sample=3), dtype=torch.float64), double[3:4])
    whole = made.sample(NoiseStream(4), 5)
    assert torch.equal(made.sample(NoiseStream(4, first_sample=3)), whole[3:4])
    seeds = made.sample(NoiseStream(seeds=[7, 8, 9]))
    assert torch.equal(seeds[1:2], made.sample(8)) and not torch.equal(seeds[0], seeds[1])
    assert torch.equal(made.sample([7, 8, 9]), seeds)
    stream = NoiseStream(4)
    first, second = made.sample(stream, 5), made.sample(stream, 5)
    assert torch.equal(first, whole) and not torch.equal(first, second)
    assert torch.equal(made.sample(NoiseStream(4, draw=1), 5), second)
    monkeypatch.setattr(fields, "_WHOLE", 1)  # member by member
    assert torch.equal(made.sample(NoiseStream(4), 5), whole)


def test_threads_change_nothing():
    made = [GaussianField(law, (48, 40, 64)), GaussianField(law, (96, 100)), GaussianField(law, (5000,))]
    one = [m.sample(1, 2) for m in made]
    try:
        torch.set_num_threads(2)
        assert all(torch.equal(a, m.sample(1, 2)) for a, m in zip(one, made, strict=True))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("shape", "members"), [((200,), 2000), ((40, 30), 500), ((14, 12, 10), 400)])
def test_embedding_is_exact_where_the_correlation_ends(shape, members):
    """A Gaussian correlation of length 0.5 over a field of 2.5 and more; opposite edges know nothing of each other."""
    d, length, spacing = len(shape), 0.5, 0.25
    P = lambda k: (2 * math.pi * length**2) ** (d / 2) * torch.exp(-0.5 * (k * length) ** 2)
    x = random_field(P, shape, spacing, noise=5, members=members, periodic=False)
    for lag in (0, 1, 2, 4):
        products = [(x.narrow(a, 0, n - lag) * x.narrow(a, lag, n - lag)) for a, n in enumerate(shape, 1)]
        for each in products:
            scatter = float(each.flatten(1).mean(1).std()) / math.sqrt(members)
            assert abs(float(each.mean()) - math.exp(-0.5 * (lag * spacing / length) ** 2)) < 4 * scatter
    edges = (x[..., 0] * x[..., -1]).reshape(members, -1).mean(1)
    assert abs(float(edges.mean())) < 4 * float(edges.std()) / math.sqrt(members)
    around = random_field(P, shape, spacing, noise=5, members=members)
    assert float((around[..., 0] * around[..., -1]).mean()) > 0.8


def test_a_field_may_be_periodic_along_one_axis():
    made = GaussianField(law, (721, 48), periodic=(False, True))
    assert made.grid == (1440, 48) and GaussianField(law, (7, 1, 64), periodic=False).grid == (12, 1, 128)
    x = GaussianField(lambda k: torch.exp(-2 * k**2), (40, 48), periodic=(False, True)).sample(0, 300)
    columns, rows = (x[..., 0] * x[..., -1]).mean() / x.square().mean(), (x[:, 0] * x[:, -1]).mean() / x.square().mean()
    assert float(columns) > 0.8 and abs(float(rows)) < 0.06


def crossed(k: Tensor) -> Tensor:
    base = 1 / (1 + k.square())
    return torch.stack([torch.stack([base, 0.3 * base], -1), torch.stack([0.3 * base, 0.5 * base], -1)], -2)


@pytest.mark.parametrize("shape", [(256,), (24, 30), (10, 8, 12)])
def test_cross_spectra(shape):
    x = random_field(crossed, shape, 0.5, noise=1, members=60, dtype=torch.float64)
    assert x.shape == (60, 2, *shape)
    flat = lambda k: torch.ones_like(k)  # shells of these are compared with the mean of the law over the shell
    k = power_spectrum(random_field(flat, shape, 0.5, noise=0), 0.5).k
    for i, j in ((0, 0), (0, 1), (1, 1)):
        found = power_spectrum(x[:, i], 0.5, other=x[:, j])
        P = crossed(full_radii(shape, (0.5,) * len(shape)))
        expected = shells(P[..., i, j], shape, 0.5)
        scale = shells((P[..., i, i] * P[..., j, j]).sqrt(), shape, 0.5)
        wrong = ((found.power - expected) / scale) * (found.modes / 2).sqrt()
        assert float(wrong.square().mean()) < 1.7 and torch.equal(found.k, k)


def shells(P: Tensor, shape: tuple[int, ...], spacing: float) -> Tensor:
    """The mean of P, a full spectrum, over the shells of `power_spectrum`."""
    k = full_radii(shape, (spacing,) * len(shape)).flatten()
    width = max(2 * math.pi / (n * spacing) for n in shape)
    index = ((k / width + 0.5).floor()).clamp_min(1).long()
    index[0] = 0
    total, count = torch.bincount(index, P.flatten()), torch.bincount(index)
    return (total / count)[1:][count[1:] > 0]


def test_complex_cross_spectra_delay_a_channel():
    """A channel that is the other one shifted by three points: P_01 = P exp(3 i k)."""
    k = 2 * math.pi * torch.fft.rfftfreq(64, dtype=torch.float64)
    P = law(k).to(torch.complex128)
    shift = torch.exp(3j * k)
    matrices = torch.stack([torch.stack([P, P * shift], -1), torch.stack([P * shift.conj(), P], -1)], -2)
    matrices[-1] = torch.eye(2)  # the highest frequency is its own mirror image, and real
    x = random_field(matrices, (64,), noise=0, members=3, dtype=torch.float64)
    smooth = lambda y: torch.fft.irfft(torch.fft.rfft(y)[..., :-1], n=64)
    assert torch.allclose(smooth(x[:, 0]), smooth(x[:, 1].roll(-3, -1)), atol=1e-6)


def test_a_spectrum_in_each_form_is_the_same():
    shape, spacing = (20, 24), 0.5
    expected = random_field(law, shape, spacing, noise=2, dtype=torch.float64)
    half = law(full_radii(shape, (0.5, 0.5)))[:, :13]
    assert torch.allclose(random_field(half, shape, spacing, noise=2, dtype=torch.float64), expected, atol=1e-13)
    numbers = lambda k: law(k).numpy()
    assert torch.equal(random_field(numbers, shape, spacing, noise=2, dtype=torch.float64), expected)
    one = lambda k: law(k)[..., None, None]
    assert torch.allclose(random_field(one, shape, spacing, noise=2, dtype=torch.float64)[:, 0], expected, atol=1e-6)
    k = torch.logspace(-1.5, 1.5, 400, dtype=torch.float64)
    power = lambda k: torch.where(k > 0, 3 * k.clamp_min(1e-9) ** -1.5, 0)
    table = random_field((k.numpy(), power(k)), shape, spacing, noise=2, dtype=torch.float64)  # exact: a line in logs
    assert torch.allclose(table, random_field(power, shape, spacing, noise=2, dtype=torch.float64), atol=1e-12)
    infinite = random_field(lambda k: 3 * k**-1.5, shape, spacing, noise=2, dtype=torch.float64)
    assert torch.allclose(table, infinite, atol=1e-12) and abs(float(infinite.mean())) < 1e-14


def test_a_measured_spectrum_makes_such_fields():
    data = random_field(law, (64, 64), 0.5, noise=0, members=8)
    measured = power_spectrum(data, 0.5)
    again = power_spectrum(random_field(measured, (64, 64), 0.5, noise=1, members=8), 0.5)
    high = measured.k > 1
    assert float(((again.power / measured.power)[high] - 1).square().mean().sqrt()) < 0.1


def test_the_estimator_knows_its_units():
    """A wave of amplitude a: `<x^2> = a^2 / 2 = integral d^2 k / (2 pi)^2 P`; white noise: P is variance times cell."""
    n, spacing = 32, 0.5
    x = 3 * torch.cos(2 * math.pi * 4 * torch.arange(n) / n).expand(1, n, n)
    found = power_spectrum(x, spacing)
    peak = int(found.power.argmax())
    assert abs(float(found.k[peak]) - 4 * 2 * math.pi / (n * spacing)) < 0.05 * float(found.k[peak])
    assert math.isclose(float((found.power * found.modes).sum()) / (n * spacing) ** 2, 4.5, rel_tol=1e-6)
    white = power_spectrum(2 * NoiseStream(0).randn((20, 16, 12, 10)), (0.5, 1.0, 2.0), edges=[1e-9, 100])
    assert abs(float(white.power) - 4) < 4 * 4 * math.sqrt(2 / float(white.modes))
    assert int(white.modes) == 20 * (16 * 12 * 10 - 1)
    every = power_spectrum(x, spacing)
    assert int(every.modes.sum()) == n * n - 1


def test_ar1_keeps_the_law_and_goes_on():
    made, a = GaussianField(law, (32, 32), 0.5), 0.9
    noise = NoiseStream(seeds=range(6))
    x = states = made.sample(noise)
    kept, run = None, [x]
    for step in range(40):
        x = made.evolve(x, a, noise)
        run.append(x)
        if step == 10:
            kept = (x.clone(), noise.state_dict())
    series = torch.stack(run)
    products = (series[1:] * series[:-1]).mean((0, 2, 3)) / series.square().mean((0, 2, 3))
    assert abs(float(products.mean()) - a) < 4 * float(products.std()) / math.sqrt(6)
    ratio = power_spectrum(series[::20].flatten(0, 1), 0.5).power / power_spectrum(states, 0.5).power
    assert 0.8 < float(ratio.mean()) < 1.25
    x, noise = kept[0], NoiseStream.from_state_dict(kept[1])
    for _ in range(29):
        x = made.evolve(x, a, noise)
    assert torch.equal(x, run[-1])
    alone, own = made.sample(NoiseStream(seeds=[2])), NoiseStream(seeds=[2], draw=1)
    assert torch.equal(made.evolve(alone, a, own), series[1, 2:3])
    assert torch.equal(made.evolve(states, 1.0, NoiseStream(0)), states)


def test_the_filter_is_the_covariance():
    made = GaussianField(law, (16, 18), (0.5, 0.25))
    M = made.filter
    assert M.shape == (1, 16, 18) and M.method is None
    assert torch.equal(tdas_ops.noise(M, (2, 1, 16, 18), 3)[:, 0], made.sample(3, 2))
    assert GaussianField(law, (16,)).filter.shape == (1, 1, 16)
    with pytest.raises(ValueError, match="filter: got a field of 3 dimensions, expected one or two"):
        _ = GaussianField(law, (4, 4, 4)).filter
    assert "shape=(16, 18)" in repr(made)


ROW = torch.ones(5, dtype=torch.float64)
BAD = [
    (
        lambda: random_field(lambda k: -law(k), (8, 8), noise=0),
        ValueError,
        r"spectrum: got P = -2 at k = 0, expected none below 0",
    ),
    (
        lambda: random_field(lambda k: 1 / (k - k.max()), (8, 8), noise=0),
        ValueError,
        r"spectrum: got P = inf at k = 4.44",
    ),
    (
        lambda: random_field(lambda k: k[0], (8, 8), noise=0),
        ValueError,
        r"spectrum: got shape \(5,\) from it, expected \(5, 5\)",
    ),
    (lambda: random_field(lambda k: 1.0, (8, 8), noise=0), TypeError, "spectrum: got float from it"),
    (lambda: random_field(3.0, (8, 8), noise=0), TypeError, "spectrum: got float, expected a function of k"),
    (
        lambda: random_field(torch.ones(8, 8), (8, 8), noise=0),
        ValueError,
        r"spectrum: got shape \(8, 8\), expected \(8, 5\)",
    ),
    (lambda: random_field(torch.ones(5), (8, 8), noise=0), ValueError, r"spectrum: got shape \(5,\)"),
    (
        lambda: random_field(torch.full((8, 5), torch.nan), (8, 8), noise=0),
        ValueError,
        "spectrum: got P = nan at k = 0",
    ),
    (
        lambda: random_field(torch.arange(40.0).reshape(8, 5), (8, 8), noise=0),
        ValueError,
        r"spectrum: got values that miss P\(-k\)",
    ),
    (lambda: random_field(torch.ones(8, 5, dtype=torch.complex64), (8, 8), noise=0), TypeError, "expected real values"),
    (
        lambda: random_field(torch.diag_embed(torch.tensor([1.0, -1]).expand(8, 5, 2)), (8, 8), noise=0),
        ValueError,
        "eigenvalue of -1",
    ),
    (lambda: random_field(torch.ones(2, 2).triu().expand(8, 5, 2, 2), (8, 8), noise=0), ValueError, "miss P = P"),
    (lambda: random_field((ROW, ROW, ROW), (8, 8), noise=0), ValueError, "a tuple of 3"),
    (lambda: random_field((ROW.cumsum(0), ROW[:4]), (8, 8), noise=0), ValueError, "got a table with k of shape"),
    (lambda: random_field((ROW, ROW), (8, 8), noise=0), ValueError, "not all positive and rising"),
    (
        lambda: random_field((ROW.cumsum(0), ROW), (8, 8), noise=0),
        ValueError,
        r"got a table from k = 1 to 5, expected the 0.785398 to 4.44288 of the grid",
    ),
    (lambda: random_field((ROW.cumsum(0), -ROW), (8, 8), noise=0), ValueError, "got P = -1 at k = 1"),
    (
        lambda: random_field(law, (8, 8), noise=0, periodic=(True,)),
        ValueError,
        r"periodic: got \(True,\), expected True or False, or 2 of them",
    ),
    (lambda: random_field(law, (8, 8), noise=0, periodic=1), ValueError, "periodic: got 1"),
    (
        lambda: random_field(law, (8, 8), 0.0, noise=0),
        ValueError,
        "spacing: got 0.0, expected a number from 1e-100 to 1e\\+100, or 2",
    ),
    (lambda: random_field(law, (8, 8), (1.0, -1.0), noise=0), ValueError, r"spacing: got \(1.0, -1.0\)"),
    (lambda: random_field(law, (8, 8), (1.0,), noise=0), ValueError, r"spacing: got \(1.0,\)"),
    (lambda: random_field(law, (8, 8), "1", noise=0), TypeError, "spacing: got str"),
    *(
        (lambda call=call, step=step: call(step), ValueError, "spacing: got 1e.300, expected a number from 1e-100")
        for step in (1e-300, 1e300)  # their product is 0 or infinite
        for call in (
            lambda step: random_field(law, (8, 8), step, noise=0),
            lambda step: power_spectrum(torch.ones(1, 8), step),
        )
    ),
    *(
        (
            lambda shape=shape: random_field(lambda k: 0 * k + 1e300, shape, noise=0),
            ValueError,
            r"dtype: got float32 for amplitudes sqrt\(P / spacings\) of up to 1e\+150",
        )
        for shape in ((8,), (8, 8), (4, 4, 4), (5, 5, 5))
    ),
    (lambda: random_field(lambda k: 0 * k + 1e300, (8, 8), 1e-10, noise=0), ValueError, "spectrum: got P beyond"),
    (lambda: random_field(torch.ones(8, 5, 0, 0), (8, 8), noise=0), ValueError, r"got shape \(8, 5, 0, 0\)"),
    (lambda: random_field(law, (8, 8), noise=0, device="meta"), ValueError, "device: got meta, expected"),
    (lambda: GaussianField(law, (8,)).evolve(torch.ones(2, 8).to("meta"), 0.5, NoiseStream(0)), ValueError, "on meta"),
    (
        lambda: random_field(law, (2, 2, 2, 2), noise=0),
        ValueError,
        r"shape: got \(2, 2, 2, 2\), expected the sizes of one, two or three",
    ),
    (lambda: random_field(law, (8, 0), noise=0), ValueError, r"shape: got \(8, 0\)"),
    (lambda: random_field(law, (8, 8), noise=0, dtype=torch.float16), TypeError, "dtype: got torch.float16 on cpu"),
    (lambda: random_field(law, (8, 8), noise=0, members=0), ValueError, "members: got 0"),
    (lambda: random_field(law, (8, 8), noise=[1, 2], members=3), ValueError, "a stream of 2 seeds"),
    (
        lambda: GaussianField(law, (8, 8)).evolve(torch.ones(2, 8, 9), 0.5, 0),
        ValueError,
        r"x: got \(2, 8, 9\), expected \(members, 8, 8\)",
    ),
    (lambda: GaussianField(law, (8, 8)).evolve(torch.ones(2, 8, 8), 1.5, 0), ValueError, "correlation: got 1.5"),
    (
        lambda: GaussianField(law, (8, 8)).evolve(torch.ones(2, 8, 8), 0.5, 0),
        TypeError,
        "noise: got int, expected a NoiseS",
    ),
    (lambda: power_spectrum(torch.ones(8)), ValueError, r"field: got shape \(8,\)"),
    (lambda: power_spectrum(torch.ones(1, 8), -1.0), ValueError, "spacing: got -1.0"),
    (
        lambda: power_spectrum(torch.ones(1, 8), other=torch.ones(2, 8)),
        ValueError,
        r"other: got \(2, 8\), expected \(1, 8\)",
    ),
    (lambda: power_spectrum(torch.ones(1, 8), edges=[2, 1]), ValueError, r"edges: got \[2, 1\]"),
    (lambda: power_spectrum(torch.ones(1, 8, dtype=torch.complex64)), TypeError, "field: got torch.complex64"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_sentence(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


def test_what_does_not_fit_is_not_begun(monkeypatch):
    called = []
    with pytest.raises(
        MemoryError, match=r"shape: got a grid of \(2000, 2000, 2000\) .* takes 134\.1 GiB, expected at most"
    ):
        monkeypatch.setattr(grid, "_free", lambda device: 16 << 30)
        GaussianField(lambda k: called.append(k), (2000, 2000, 2000))
    made, stream = GaussianField(law, (1024, 1024)), NoiseStream(0)
    monkeypatch.setattr(grid, "_free", lambda device: 1 << 30)
    with pytest.raises(MemoryError, match=r"shape: got 1000 fields of \(1024, 1024\) in float32, which takes 3\.9 GiB"):
        made.sample(stream, 1000)
    assert called == [] and int(stream.draw) == 0
    monkeypatch.undo()
    assert grid._free(torch.device("cpu")) > 1 << 26


def test_the_default_dtype_of_torch_changes_nothing():
    make = lambda: [
        random_field(law, (1 << 14,), noise=0),
        random_field(law, (9, 8), noise=0, periodic=False),
        random_field(law, (7, 5, 9), noise=0),
        NoiseStream(3).randn((2, 40)),
        NoiseStream(3).brownian((2, 40))(1.0, 0.5),
        NoiseStream(3).randn_like(torch.zeros(2, 40, dtype=torch.float32)),
        power_spectrum(random_field(law, (8, 6, 8), noise=0)).power,
        GaussianField(law, (8, 8)).filter.masks(torch.float32)[0],
    ]
    single = make()
    try:
        torch.set_default_dtype(torch.float64)
        double = make()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype is b.dtype for a, b in zip(single, double, strict=True))
