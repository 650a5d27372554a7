"""Adapters: closed-form networks of each family must come out as the closed-form score."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import save_ncsnpp
from torch import Tensor, nn

import tdas_ops
from tdas_ops.integrations import diffusers as adapter
from tdas_ops.integrations import networks
from tdas_ops.sde import VE, VP, Discrete, SubVP

# Data N(0, 1): the score of x + sigma z is -x / (1 + sigma^2), of m x + s z it is -x / (m^2 + s^2).
LEVELS = [10.0, 1.0, 0.1]


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    return -x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


SIGMA = torch.tensor([9.0, 1.2, 0.1])
NEAREST = torch.tensor(LEVELS)


def test_ncsn_tells_the_index_of_the_nearest_level(x: Tensor) -> None:
    told: list[Tensor] = []

    def network(x: Tensor, index: Tensor) -> Tensor:
        told.append(index)
        return exact(x, NEAREST[index])

    score = networks.ncsn(network, LEVELS)(x, SIGMA)
    assert told[0].dtype is torch.int64
    torch.testing.assert_close(score, exact(x, NEAREST))


def test_ncsn_is_nearest_on_a_logarithmic_scale(x: Tensor) -> None:
    score = networks.ncsn(lambda x, index: index.reshape(-1, 1, 1, 1).float().expand_as(x), LEVELS)
    # 2.0 is nearer to 1 than to 10 both ways; 4.0 is nearer to 10 in the logarithm only.
    assert score(x, torch.tensor([2.0, 4.0, 0.2])).flatten(1)[:, 0].tolist() == [1, 0, 2]


@pytest.mark.parametrize("levels", [[], [1.0, 0.0], [1.0, -1.0], [float("nan")]])
def test_ncsn_refuses_levels(levels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sigmas: got .* expected one or more finite numbers above 0"):
        networks.ncsn(lambda x, index: x, levels)


def test_ncsnv2_divides_by_sigma(x: Tensor) -> None:
    score = networks.ncsnv2(lambda x: 3 * x)(x, SIGMA)
    torch.testing.assert_close(score, 3 * x / SIGMA.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("log_sigma", [False, True])
@pytest.mark.parametrize("divide", [False, True])
def test_ncsnpp(x: Tensor, log_sigma: bool, divide: bool) -> None:
    def network(x: Tensor, label: Tensor) -> Tensor:
        sigma = label.exp() if log_sigma else label
        return exact(x, sigma) * (sigma.reshape(-1, 1, 1, 1) if divide else 1)

    score = networks.ncsnpp(network, log_sigma=log_sigma, divide=divide)
    torch.testing.assert_close(score(x, SIGMA), exact(x, SIGMA))


@pytest.mark.parametrize("sde", [VP(), SubVP()])
def test_ddpmpp_is_the_score_of_a_noise_predictor(x: Tensor, sde: VP) -> None:
    times = [1.0, 0.4, 1e-3]

    def predictor(x: Tensor, label: Tensor) -> Tensor:
        """E[z | x] of x = m x0 + s z with unit normal x0, in double precision."""
        values = [
            sde.std(t) / (torch.tensor(2.0, dtype=torch.float64) * sde.log_mean(t)).exp().add(sde.std(t) ** 2).item()
            for t in (label.double() / 999).tolist()
        ]
        return x * torch.tensor(values).reshape(-1, 1, 1, 1)

    score = networks.ddpmpp(predictor, sde)(x, torch.tensor(times))
    variance = [torch.tensor(2.0 * sde.log_mean(t), dtype=torch.float64).exp().item() + sde.std(t) ** 2 for t in times]
    torch.testing.assert_close(score, -x / torch.tensor(variance).reshape(-1, 1, 1, 1), rtol=1e-4, atol=0)


def test_ddpmpp_with_a_table_uses_its_steps(x: Tensor) -> None:
    table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    labels: list[Tensor] = []

    def network(x: Tensor, label: Tensor) -> Tensor:
        labels.append(label)
        return torch.ones_like(x)

    score = networks.ddpmpp(network, VP(), alphas_cumprod=table)(x, torch.tensor([1.0, 0.5, 1e-3]))
    assert labels[0].tolist() == [999, 499, 0] and labels[0].dtype is torch.int64
    expected = -1 / (1 - table[[999, 499, 0]]).sqrt().float()
    torch.testing.assert_close(score[:, 0, 0, 0], expected)


def test_ddpmpp_refuses_tables(x: Tensor) -> None:
    with pytest.raises(ValueError, match="beside a sub-VP SDE"):
        networks.ddpmpp(lambda x, t: x, SubVP(), alphas_cumprod=torch.tensor([0.5]))
    with pytest.raises(ValueError, match="values between 0 and 1"):
        networks.ddpmpp(lambda x, t: x, VP(), alphas_cumprod=torch.tensor([1.5]))


class Tiny(nn.Module):
    """A convolution with weights in one dtype, which refuses any other; the label stays float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(2, 2, 3, padding=1).requires_grad_(False)
        self.config = SimpleNamespace(time_embedding_type="fourier")

    def forward(self, x: Tensor, sigma: Tensor, return_dict: bool = True) -> Tensor | tuple[Tensor, ...]:
        assert sigma.dtype is torch.float32
        y = self.convolution(x)
        return y if return_dict else (y,)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_networks_serve_a_float32_state(half: torch.dtype) -> None:
    x = torch.randn(4, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    full = networks.ncsnpp(Tiny())(x, torch.ones(4))
    cast = networks.ncsnpp(Tiny().to(half), dtype=half)(x, torch.ones(4))
    auto = networks.ncsnpp(Tiny(), autocast=half)(x, torch.ones(4))
    divided = networks.ncsnpp(Tiny(), autocast=half, divide=True)(x, torch.ones(4))
    assert cast.dtype is half and auto.dtype is half and divided.dtype is torch.float32
    for score in (cast, auto, divided):
        error = (score.float() - full).norm() / full.norm()
        assert 0 < error < 8 * torch.finfo(half).eps
    M = tdas_ops.Preconditioner.identity((2, 32, 32))
    stepped = tdas_ops.step(x, cast, M, 0.1, noise=tdas_ops.NoiseStream(0))
    assert stepped.dtype is torch.float32


def test_precision_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"autocast: got torch\.int8"):
        networks.ncsnv2(lambda x: x, autocast=torch.int8)


def test_ve_unet_takes_a_fourier_network_as_the_score(x: Tensor) -> None:
    tiny = Tiny()
    torch.testing.assert_close(adapter.ve_unet(tiny)(x, SIGMA), tiny.convolution(x))
    tiny.config.time_embedding_type = "positional"
    with pytest.raises(ValueError, match="got time_embedding_type 'positional', expected 'fourier'"):
        adapter.ve_unet(tiny)


def test_vp_unet_takes_a_noise_predictor(x: Tensor) -> None:
    tiny = Tiny()
    with pytest.raises(ValueError, match="got time_embedding_type 'fourier'"):
        adapter.vp_unet(tiny, VP())
    tiny.config.time_embedding_type = "positional"
    t = torch.tensor([1.0, 0.5, 0.1])
    std = torch.tensor([VP().std(float(v)) for v in t]).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(adapter.vp_unet(tiny, VP())(x, t), -tiny.convolution(x) / std)
    sde = LEVELS_OF["discrete"][0]
    std = torch.tensor([sde.marginal(sde.sigma(n)).std for n in (999, 400, 0)]).reshape(-1, 1, 1, 1)
    score = adapter.vp_unet(tiny, sde)(x, torch.tensor([999.0, 400.0, 0.0]))
    torch.testing.assert_close(score, -tiny.convolution(x) / std)
    with pytest.raises(ValueError, match="alphas_cumprod: got a table beside Discrete"):
        adapter.vp_unet(tiny, sde, alphas_cumprod=torch.tensor([0.5]))


def test_ve_sde_reads_a_scheduler() -> None:
    config = SimpleNamespace(sigma_min=0.02, sigma_max=380.0, num_train_timesteps=2000, sampling_eps=1e-5)
    assert adapter.ve_sde(SimpleNamespace(config=config)) == VE(0.02, 380.0, 2000, 1e-5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_ncsnpp(tmp_path_factory.mktemp("checkpoint"), steps=10, sigma_max=20.0))


def test_load_ve_samples_from_a_checkpoint(checkpoint: str) -> None:
    loaded = adapter.load_ve(checkpoint)
    assert loaded.shape == (3, 16, 16) and loaded.sde == VE(0.01, 20.0, 10, 1e-5) and loaded.snr == 0.15
    M = tdas_ops.Preconditioner.identity(loaded.shape)
    stream = tdas_ops.NoiseStream(0)
    y = tdas_ops.samplers.pc(
        loaded.score, (2, *loaded.shape), loaded.sde, M, noise=stream, snr=loaded.snr, progress=False
    )
    assert y.shape == (2, 3, 16, 16) and bool(y.isfinite().all())


def test_load_ve_takes_the_output_as_the_score(checkpoint: str) -> None:
    import diffusers

    unet = diffusers.DiffusionPipeline.from_pretrained(checkpoint).unet
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 7.0])
    with torch.no_grad():
        expected = unet(x, sigma).sample
        torch.testing.assert_close(adapter.load_ve(checkpoint).score(x, sigma), expected)
        # The network divides by sigma itself: without its own division it would be smaller by that factor.
        unet.register_to_config(time_embedding_type="undivided")
        torch.testing.assert_close(unet(x, sigma).sample / sigma.reshape(-1, 1, 1, 1), expected)


def test_load_ve_refuses_another_pipeline(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a DDPMPipeline, expected a ScoreSdeVePipeline"):
        adapter.load_ve(str(tmp_path))


def ddpm(**config: object) -> object:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    return diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(**config))


def test_load_vp_is_the_deterministic_sampler_of_diffusers(tmp_path: Path) -> None:
    """DDIM of the library, and DPM-Solver++ of order 1 on the same labels, which is DDIM."""
    pipe = ddpm(num_train_timesteps=100)
    import diffusers

    pipe.save_pretrained(tmp_path)
    loaded = adapter.load_vp(str(tmp_path))
    assert loaded.shape == (1, 8, 8) and loaded.low == -1.0 and isinstance(loaded.sde, Discrete)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(5)
    expected = x
    with torch.no_grad():
        for t in scheduler.timesteps:
            expected = scheduler.step(pipe.unet(expected, t).sample, t, expected).prev_sample
    levels = [loaded.sde.sigma(int(t)) for t in scheduler.timesteps]
    start = x / loaded.sde.marginal(levels[0]).mean_scale
    got = tdas_ops.samplers.dpmpp(
        loaded.score,
        x.shape,
        loaded.sde,
        noise=tdas_ops.NoiseStream(0),
        start=start,
        order=1,
        ladder=[*levels, 0.0],
        progress=False,
    )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert loaded.images(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_few_steps_give_a_picture_again_alone() -> None:
    loaded = adapter.from_pipeline(ddpm())
    run = tdas_ops.calibrate.FewStep(loaded.sde, 3)
    draw = lambda n, first: run.sample(
        loaded.score, (n, *loaded.shape), tdas_ops.NoiseStream(0, first_sample=first), progress=False
    )
    torch.testing.assert_close(draw(1, 2), draw(3, 0)[2:], rtol=1e-4, atol=1e-4)


def test_from_pipeline_and_pc(x: Tensor) -> None:
    pipe = ddpm()
    loaded = adapter.from_pipeline(pipe, sde="continuous")
    assert loaded.sde == VP(0.1, 20.0) and loaded.sde.native_iterations == 1000
    y = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = -pipe.unet(y, 499).sample / (1 - pipe.scheduler.alphas_cumprod[499]).sqrt()
        torch.testing.assert_close(loaded.score(y, torch.tensor([0.5, 0.5])), expected)


def test_pipelines_that_are_refused(checkpoint: str, tmp_path: Path) -> None:
    ddpm(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="kind: got 'continuous' with beta_schedule 'squaredcos_cap_v2'"):
        adapter.load_vp(str(tmp_path), sde="continuous")
    with pytest.raises(ValueError, match="a ScoreSdeVePipeline, expected a DDPMPipeline"):
        adapter.load_vp(checkpoint)
    with pytest.raises(ValueError, match="pipeline: got a SimpleNamespace, expected a ScoreSdeVePipeline"):
        adapter.from_pipeline(SimpleNamespace())
    with pytest.raises(ValueError, match="prediction_type 'v_prediction', expected 'epsilon'"):
        adapter.from_pipeline(ddpm(prediction_type="v_prediction"), sde="continuous")
    with pytest.raises(ValueError, match="scheduler: got SimpleNamespace, expected one with alphas_cumprod"):
        adapter.vp_sde(SimpleNamespace())


def test_what_needs_diffusers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("diffusers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "tdas_ops.integrations.score_sde_ve", raising=False)
    monkeypatch.delattr("tdas_ops.integrations.score_sde_ve", raising=False)
    missing = "the package diffusers is missing; `pip install diffusers` provides it"
    with pytest.raises(ImportError, match=f"load_vp: {missing}"):
        adapter.load_vp("x")
    with pytest.raises(ImportError, match=f"PreconditionedScoreSdeVePipeline: {missing}"):
        adapter.PreconditionedScoreSdeVePipeline  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        adapter.nothing  # noqa: B018


def test_load_ve_in_half_precision(checkpoint: str) -> None:
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 7.0])
    full, half = adapter.load_ve(checkpoint), adapter.load_ve(checkpoint, autocast=torch.bfloat16)
    with torch.no_grad():
        expected, got = full.score(x, sigma), half.score(x, sigma)
    assert 0 < (got.float() - expected).norm() / expected.norm() < 0.05


LEVELS_OF = {
    "VE": (VE(0.01, 50.0), [0.5, 2.0, 7.0]),
    "VP": (VP(), [1.0, 0.4, 1e-3]),
    "sub-VP": (SubVP(), [1.0, 0.4, 0.05]),
    "discrete": (
        Discrete(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)),
        [999, 400.5, 0],
    ),
}


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("case", LEVELS_OF)
def test_predictions_are_scores(x: Tensor, case: str, kind: str) -> None:
    """Of unit normal data: x = m x0 + s z, the network gives E[z | x], E[x0 | x] or m E[z | x] - s E[x0 | x]."""
    sde, told = LEVELS_OF[case]
    marginals = [sde.marginal(sde.sigma(t) if case != "VE" else t) for t in told]
    m, s = (
        torch.tensor([getattr(each, name) for each in marginals], dtype=torch.float64).reshape(-1, 1, 1, 1)
        for name in ("mean_scale", "std")
    )
    z, x0 = s * x.double() / (m**2 + s**2), m * x.double() / (m**2 + s**2)
    output = {"epsilon": z, "sample": x0, "v_prediction": m * z - s * x0}[kind]
    labels: list[Tensor] = []

    def network(x: Tensor, label: Tensor) -> Tensor:
        labels.append(label)
        return output.float()

    level = torch.tensor(told, dtype=torch.float32)
    score = networks.prediction(network, sde, kind)(x, level)
    # Where the noise is small the image of a float32 network says little about it; what samplers use is s^2 times this.
    torch.testing.assert_close(s**2 * score.double(), -(s**2) * x.double() / (m**2 + s**2), rtol=1e-4, atol=1e-6)
    assert torch.equal(labels[0], level)
    networks.prediction(network, sde, kind, label=lambda t: 3 * t)(x, level)
    assert torch.equal(labels[1], 3 * level)


def test_predictions_are_checked() -> None:
    with pytest.raises(ValueError, match="kind: got 'noise', expected 'epsilon'"):
        networks.prediction(lambda x, t: x, VP(), "noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sde: got str, expected VE, VP, SubVP or Discrete"):
        networks.prediction(lambda x, t: x, "VP")  # type: ignore[arg-type]
