"""The embedded model, its filters, and the Frechet distance beside it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional as F

import tdas_ops
from tdas_ops import calibrate, models
from tdas_ops.models import frechet
from tdas_ops.models.digits import train
from tdas_ops.models.unet import UNet

FOLDER = Path(models.__file__).parent / "digits"


@pytest.fixture(scope="module")
def digits() -> models.Model:
    return models.load("digits")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Frechet distance


def test_distance_of_equal_moments_is_zero() -> None:
    mean, cov = frechet.moments(normal(50, 8))
    assert frechet.frechet_distance(mean, cov, mean, cov) < 1e-9


def test_distance_agrees_with_a_matrix_square_root() -> None:
    m1, c1 = frechet.moments(normal(40, 6))
    m2, c2 = frechet.moments(normal(40, 6, seed=1) @ normal(6, 6, seed=2) + 0.3)
    root = torch.from_numpy(sqrtm((c1 @ c2).numpy()).real)
    expected = float((m1 - m2).square().sum() + torch.trace(c1 + c2 - 2 * root))
    assert frechet.frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-9)
    assert frechet.frechet_distance(m2, c2, m1, c1) == pytest.approx(expected, rel=1e-9)


def test_distance_of_diagonal_normals_is_that_of_the_deviations() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 1.0])
    got = frechet.frechet_distance(torch.zeros(3), a.square().diag(), torch.ones(3), b.square().diag())
    assert got == pytest.approx(float((a - b).square().sum()) + 3)


def test_distance_serves_fewer_samples_than_features() -> None:
    m1, c1 = frechet.moments(normal(3, 10))
    m2, c2 = frechet.moments(normal(500, 10, seed=1))
    assert math.isfinite(frechet.frechet_distance(m1, c1, m2, c2))
    assert frechet.frechet_distance(m1, c1, m1, c1) < 1e-9


def test_distance_refuses_what_it_cannot_compare() -> None:
    mean, cov = frechet.moments(normal(10, 3))
    with pytest.raises(ValueError, match="got shapes"):
        frechet.frechet_distance(mean, cov, mean[:2], cov)
    with pytest.raises(ValueError, match="non-finite"):
        frechet.frechet_distance(mean * math.nan, cov, mean, cov)
    with pytest.raises(ValueError, match=r"expected \[N >= 2, K\]"):
        frechet.moments(normal(1, 3))


def test_floor_falls_with_the_count_and_is_the_same_at_every_call(digits: models.Model) -> None:
    few, many = digits.evaluator.floor(16), digits.evaluator.floor(256)
    assert few == digits.evaluator.floor(16)
    assert few[0] > 2 * many[0] > 0 and few[1] > many[1] > 0
    half = len(digits.evaluator.half_a)
    assert digits.evaluator.floor(10 * half)[2] == half


def test_halves_are_disjoint_and_alike(digits: models.Model) -> None:
    a, b = digits.evaluator.half_a, digits.evaluator.half_b
    assert len(a) == len(b) == 1002
    assert torch.cdist(a, b).min() > 0
    assert frechet.frechet_distance(*frechet.moments(a), *frechet.moments(b)) < 0.3


def test_distance_sees_noise(digits: models.Model) -> None:
    noise = torch.rand(64, *digits.shape, generator=torch.Generator().manual_seed(0))
    quality = digits.evaluator(noise)
    assert quality.count == quality.floor_count == 64
    assert quality.distance > 20 * quality.floor


def test_feature_networks_are_built_from_their_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = frechet.FeatureNetwork(channels=3, size=16, width=5, classes=2)
    parts = {"mean": torch.zeros(5), "projection": torch.eye(5, 2), "half_a": torch.randn(9, 2)}
    save_file({**network.state_dict(), **parts, "half_b": torch.randn(7, 2)}, tmp_path / "f.safetensors")
    loaded = frechet.Evaluator.load(tmp_path / "f.safetensors")
    images = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(loaded.features(images), network.features(images).double()[:, :2].detach())


# The model


def test_available_models_load() -> None:
    assert models.available() == ["digits"]
    with pytest.raises(ValueError, match="got 'faces', expected one of digits"):
        models.load("faces")


def test_files_are_small() -> None:
    assert sum(f.stat().st_size for f in FOLDER.glob("*.safetensors")) < 8 << 20


def test_the_model_samples_the_noise_levels_it_was_trained_on(digits: models.Model) -> None:
    assert (digits.sde.sigma_min, digits.sde.sigma_max) == (train.SIGMA_MIN, train.SIGMA_MAX)


def test_statistics_are_those_of_the_images(digits: models.Model) -> None:
    freq, space, mean = digits.statistics
    assert freq.shape == space.shape == digits.shape and freq.dtype == torch.float64
    assert float(space.min()) >= 0 and float(space.max()) < 1
    # Parseval: the mean energy of an image, both ways.
    assert float(freq.expm1().sum() / 1024) == pytest.approx(float(space.sum()), rel=1e-9)
    assert space[0, 16, 16] > 0.1 > space[0, :2].max()
    assert bool((mean.square() <= space).all()) and float(digits.target.mean_power.sum()) > 0


def test_filters_of_the_methods(digits: models.Model) -> None:
    plain, tdas, pds = (digits.preconditioner(method) for method in ("plain", "tdas", "pds"))
    v = torch.randn(2, *digits.shape)
    torch.testing.assert_close(tdas_ops.precondition(v, plain, "MMt"), v)
    assert plain.method == "pds"
    assert tdas.method == "tdas" and pds.method == "pds"
    strong = digits.preconditioner("pds", 2.0, freq=True, space=True)
    weak = digits.preconditioner("tdas", 2.0, freq=True, space=True)
    assert strong.freq is not None and strong.space is not None
    assert weak.freq is not None and weak.space is not None
    torch.testing.assert_close(strong.freq * weak.freq, torch.ones_like(weak.freq))
    torch.testing.assert_close(strong.space * weak.space, torch.ones_like(weak.space))
    assert 1.5 < float(strong.freq.max()) < 2 and float(strong.freq.min()) == 1
    assert digits.preconditioner("pds", space=False, freq=True).space is None


def test_a_schedule_has_a_filter_for_every_iteration(digits: models.Model) -> None:
    filters = digits.filters("schedule", 12)
    expected = calibrate.schedule(digits.target, calibrate.PC(digits.sde, 12, snr=digits.snr))
    assert len(filters) == 12
    for M, other in zip(filters, expected, strict=True):
        torch.testing.assert_close(M.freq, other.freq)
        assert M.method == "tdas" and bool((M.space == 1).all())
    assert torch.equal(digits.filters("pds", 20, 3.0).freq, digits.preconditioner("pds", 3.0).freq)


def test_one_seed_is_the_same_noise_for_every_method(digits: models.Model) -> None:
    """Undoing each default filter gives back the same white noise, so that samples differ by their method alone."""
    shape = (2, *digits.shape)
    white = []
    for method in models.METHODS:
        filters = digits.filters(method)
        M = filters[0] if isinstance(filters, list) else filters
        y = tdas_ops.noise(M, shape, tdas_ops.NoiseStream(0), dtype=torch.float64)
        freq = 1 if M.freq is None else M.freq
        white.append(torch.fft.irfft2(torch.fft.rfft2(y) / freq, s=shape[2:]) / (1 if M.space is None else M.space))
    for other in white[1:]:
        torch.testing.assert_close(other, white[0], rtol=0, atol=1e-5)


def settled(rho: float, noise: float, drift: float) -> float:
    """Variance over sigma^2 where the data have no energy, after many predictor steps on a ladder of ratio rho."""
    g, kappa = 1 - 1 / rho**2, 1.0
    for _ in range(10_000):
        kappa = ((1 - drift * g) ** 2 * kappa + noise**2 * g) * rho**2
    return kappa


@pytest.mark.parametrize("iterations", [3, 6, 60])
@pytest.mark.parametrize("masks", [{"freq": True, "space": True}, {"freq": False, "space": True}])
def test_matched_tdas_keeps_the_noise_on_the_ladder(
    digits: models.Model, iterations: int, masks: dict[str, bool]
) -> None:
    M = digits.preconditioner("tdas", iterations=iterations, **masks)
    r = math.prod(float(mask.min()) for mask in (M.freq, M.space) if mask is not None)
    rho = (digits.sde.sigma_max / digits.sde.sigma_min) ** (1 / (iterations - 1))
    assert settled(rho, r, 1.0) == pytest.approx(1, rel=0.05)
    assert settled(rho, 1.0, 1.0) == pytest.approx(rho**2) and rho**2 > 1.2


@pytest.mark.parametrize("iterations", [8, 12, 20])
def test_matched_pds_settles_at_the_least_noise(digits: models.Model, iterations: int) -> None:
    M = digits.preconditioner("pds", iterations=iterations)
    assert M.freq is not None and M.space is not None
    r = float(M.freq.max() * M.space.max())
    rho = (digits.sde.sigma_max / digits.sde.sigma_min) ** (1 / (iterations - 1))
    here = settled(rho, r, r**2)
    assert here < settled(rho, 1.0, 1.0)
    assert here < settled(rho, 1.02 * r, (1.02 * r) ** 2) and here < settled(rho, r / 1.02, (r / 1.02) ** 2)


def test_matched_alpha_goes_its_way_with_iterations(digits: models.Model) -> None:
    counts = (1, 3, 6, 12, 60, 1000)
    tdas = [models.matched_alpha(digits.sde, n, digits.statistics[:2], "tdas") for n in counts]
    assert tdas[0] > 1 and tdas == sorted(tdas) and tdas[-1] > 100
    pds = [models.matched_alpha(digits.sde, n, digits.statistics[:2], "pds") for n in counts]
    assert pds == sorted(pds, reverse=True) and pds[0] > 1000 and pds[-1] == 10
    assert digits.preconditioner("tdas").provenance["alpha"] == pytest.approx(tdas[4], rel=1e-3)
    assert digits.preconditioner("pds", iterations=12).provenance["alpha"] == pytest.approx(pds[3], rel=1e-3)


def test_a_start_is_made_of_the_statistics(digits: models.Model) -> None:
    mean, gaussian = digits.prior("mean"), digits.prior("gaussian")
    assert digits.prior("none") is None and mean is not None and gaussian is not None
    torch.testing.assert_close(mean.mean, digits.statistics.mean)
    torch.testing.assert_close(gaussian.mean, digits.statistics.mean)
    # Mean and variance are all of the data's power: Parseval, with the half spectrum's inner columns twice.
    twice = torch.ones(17, dtype=torch.float64)
    twice[1:-1] = 2
    power = float((twice * gaussian.variance).sum() + gaussian.mean.square().sum())
    assert power == pytest.approx(float(digits.statistics.space.sum()), rel=0.01)
    run = digits.few_step(5, start="mean")
    assert (run.count, run.sigma, run.levels[0]) == (5, digits.start_sigma, digits.start_sigma)
    plain = digits.few_step(6, "ancestral", eta=1.0)
    assert plain.start is None and plain.levels[0] == digits.sde.sigma_max
    with pytest.raises(ValueError, match="start: got 'data', expected one of none, mean, gaussian"):
        digits.few_step(5, start="data")  # type: ignore[arg-type]


def test_filters_refuse(digits: models.Model) -> None:
    with pytest.raises(ValueError, match="method: got 'ddim', expected one of plain, tdas, pds, schedule"):
        digits.preconditioner("ddim")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method: got 'schedule', expected plain, tdas or pds"):
        digits.preconditioner("schedule")
    with pytest.raises(ValueError, match=r"alpha: got 1\.0, expected a finite number greater than 1"):
        digits.preconditioner("pds", 1.0)
    with pytest.raises(ValueError, match="got neither freq nor space"):
        digits.preconditioner("pds", freq=False, space=False)


def test_score_points_to_the_clean_digit(digits: models.Model) -> None:
    """Tweedie: `x + sigma^2 score` is the denoised digit. The digit is a sample of the model itself."""
    clean = tdas_ops.samplers.pc(
        digits.score,
        (8, *digits.shape),
        digits.sde,
        digits.preconditioner("plain"),
        noise=tdas_ops.NoiseStream(3),
        iterations=40,
        progress=False,
    ).clamp(0, 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for sigma, ratio in ((0.3, 0.05), (0.03, 0.4)):
        noisy = clean + sigma * noise
        denoised = noisy + sigma**2 * digits.score(noisy, torch.full((8,), sigma))
        assert float((denoised - clean).square().mean()) < ratio * sigma**2


def test_score_of_strong_noise_is_that_of_a_normal_distribution(digits: models.Model) -> None:
    sigma = digits.sde.sigma_max
    x = sigma * torch.randn(16, *digits.shape, generator=torch.Generator().manual_seed(0))
    score = digits.score(x, torch.full((16,), sigma))
    assert float((score * sigma**2 + x).norm() / x.norm()) < 0.05


def test_samples_are_digits(digits: models.Model) -> None:
    """Thirty-two samples at 40 iterations lie as near to held-out digits as real ones do, within their scatter."""
    x = tdas_ops.samplers.pc(
        digits.score,
        (32, *digits.shape),
        digits.sde,
        digits.preconditioner("plain"),
        noise=tdas_ops.NoiseStream(0),
        iterations=40,
        snr=digits.snr,
        progress=False,
    )
    quality = digits.evaluator(x)
    assert quality.distance < quality.floor + 6 * quality.floor_scatter
    assert digits.evaluator(F.avg_pool2d(x, 5, 1, 2)).distance > quality.distance + 3 * quality.floor_scatter


def test_score_does_not_depend_on_layout_or_batch(digits: models.Model) -> None:
    x = torch.randn(6, *digits.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((6,), 0.5)
    full = digits.score(x, sigma)
    assert not full.requires_grad and full.dtype is torch.float32
    last = digits.score(x.to(memory_format=torch.channels_last), sigma)
    torch.testing.assert_close(last, full, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(digits.score(x[2:4], sigma[2:4]), full[2:4], rtol=1e-4, atol=1e-4)


def test_pictures_are_clamped_and_rounded(digits: models.Model) -> None:
    samples = torch.tensor([-0.2, 0.0, 0.5, 1.0, 1.4]).reshape(1, 1, 1, 5)
    assert digits.pictures(samples).flatten().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("missing", ["weights", "statistics", "features"])
def test_a_missing_file_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: self.name != f"{missing}.safetensors" and real(self))
    with pytest.raises(FileNotFoundError, match=f"{missing}.safetensors is missing"):
        models.load("digits")


def test_an_untrained_network_only_scales() -> None:
    """The last layer starts at zero: the denoiser is then c_skip x, the best linear one for data of that scale."""
    net = models.ScoreUNet(widths=(8, 8, 8), embedding=16, sigma_data=0.5)
    torch.nn.init.zeros_(net.head.bias)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(net.denoise(x, torch.full((2,), 0.5)), 0.5 * x)
    torch.testing.assert_close(net(x, torch.full((2,), 0.5)), -x / 0.5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_networks_run_in_bfloat16(weights: torch.dtype) -> None:
    """Under autocast x may come in either dtype; without it, weights and x are of one."""
    torch.manual_seed(0)
    network = UNet(widths=(8, 8), embedding=16)
    torch.nn.init.normal_(network.head.weight, std=0.1)
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0.5, -1.0])
    expected, network = network(x, label), network.to(weights)
    for dtype in {weights, torch.bfloat16}:
        with torch.autocast("cpu", torch.bfloat16, enabled=weights is torch.float32):
            got = network(x.to(dtype), label.to(weights))
        assert float((got.float() - expected).norm() / expected.norm()) < 0.03


def test_load_digits_splits_every_class(tmp_path: Path) -> None:
    import json

    folder = tmp_path / "src" / "digits"
    folder.mkdir(parents=True)
    for digit in range(10):
        (folder / f"{digit}.json").write_text(json.dumps({"data": [digit / 10] * (784 * 5)}))
    images, labels, held_out, held_out_labels = train.load_digits(tmp_path)
    assert images.shape == (40, 1, 32, 32) and held_out.shape == (10, 1, 32, 32)
    assert labels.bincount().tolist() == [4] * 10 and held_out_labels.tolist() == list(range(10))
    assert float(images[-1, 0, 16, 16]) == pytest.approx(0.9) and float(images[:, :, :2].max()) == 0
    with pytest.raises(SystemExit, match=r"0\.json is missing"):
        train.load_digits(tmp_path / "elsewhere")


@pytest.mark.parametrize("fold", [1, 2, 4])
def test_pixels_fold_into_channels_and_back(fold: int) -> None:
    network = UNet(channels=3, widths=(4, 4), embedding=8, fold=fold)
    assert network(torch.rand(2, 3, 16, 16), torch.zeros(2)).shape == (2, 3, 16, 16)
    assert network.stem.weight.shape[1] == network.head.weight.shape[0] == 3 * fold**2
