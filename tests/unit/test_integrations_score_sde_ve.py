"""The scheduler and pipeline with a preconditioner beside those of diffusers, run with the same generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import relative_rms, save_ncsnpp
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner

diffusers = pytest.importorskip("diffusers", reason="diffusers is missing; `pip install diffusers` provides it")

from diffusers import ScoreSdeVeScheduler  # noqa: E402

from tdas_ops.integrations.score_sde_ve import (  # noqa: E402
    PreconditionedScoreSdeVePipeline,
    PreconditionedScoreSdeVeScheduler,
)

SHAPE = (3, 16, 16)
X = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(3))


def pds(shape: tuple[int, int, int] = SHAPE) -> Preconditioner:
    images = torch.rand(32, *shape, generator=torch.Generator().manual_seed(1))
    return Preconditioner.from_images(images, alpha=2.0)


def score(x: Tensor, sigma: Any) -> Tensor:
    return -(x - 0.5) / (0.1 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1) ** 2)


def generators(kind: str) -> Any:
    one = lambda seed: torch.Generator().manual_seed(seed)
    return {"one": one(5), "list": [one(i) for i in range(4)], "global": None}[kind]


def run(scheduler: Any, x: Tensor, generator: Any, steps: int = 5) -> tuple[Tensor, Tensor]:
    """x and x_mean after some iterations."""
    scheduler.set_timesteps(steps)
    scheduler.set_sigmas(steps)
    mean = x
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        x = scheduler.step_correct(score(x, sigma), x, generator=generator).prev_sample
        out = scheduler.step_pred(score(x, sigma), t, x, generator=generator)
        x, mean = out.prev_sample, out.prev_sample_mean
    return x, mean


@pytest.mark.parametrize("kind", ["one", "list", "global"])
@pytest.mark.parametrize("M", [None, Preconditioner.identity(SHAPE), Preconditioner.identity(SHAPE, "tdas")])
def test_the_identity_is_the_original(kind: str, M: Preconditioner | None) -> None:
    original = ScoreSdeVeScheduler(num_train_timesteps=50, sigma_max=20.0)
    ours = PreconditionedScoreSdeVeScheduler.from_config(original.config, preconditioner=M)
    assert isinstance(ours, ScoreSdeVeScheduler) and ours.config.num_train_timesteps == 50
    torch.manual_seed(0)
    expected = run(original, 20 * X, generators(kind))
    torch.manual_seed(0)
    got = run(ours, 20 * X, generators(kind))
    assert relative_rms(got[0], expected[0]) < 1e-6 and relative_rms(got[1], expected[1]) < 1e-6


def test_a_filter_is_that_of_the_ops() -> None:
    M, z = pds(), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(5))
    ours = PreconditionedScoreSdeVeScheduler(50, snr=0.2, sigma_max=20.0, preconditioner=M)
    corrected = ours.step_correct(-X, X, torch.Generator().manual_seed(5)).prev_sample
    torch.testing.assert_close(corrected, tdas_ops.langevin_step(X, -X, M, 0.2, noise=z))
    s, t = ours.discrete_sigmas[30], ours.discrete_sigmas[29]
    d = float(s**2 - t**2)
    predicted = ours.step_pred(-X, 30 / 49 + 1e-4, X, torch.Generator().manual_seed(5))
    expected = tdas_ops.step(X, -X, M, d, noise_scale=d**0.5, noise=z, return_mean=True)
    torch.testing.assert_close((predicted.prev_sample, predicted.prev_sample_mean), expected)


def test_times_of_its_own_for_each_sample_and_the_last_one() -> None:
    original, ours = (make(50, sigma_max=20.0) for make in (ScoreSdeVeScheduler, PreconditionedScoreSdeVeScheduler))
    t = torch.tensor([0.0, 0.3, 0.7, 1.0])
    for make in (original, ours):
        make.expected = make.step_pred(-X, t, X, torch.Generator().manual_seed(5), return_dict=False)
    torch.testing.assert_close(ours.expected, original.expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    original, ours = (make(50, sigma_max=2.0) for make in (ScoreSdeVeScheduler, PreconditionedScoreSdeVeScheduler))
    x = X.to(dtype)
    step = lambda s: s.step_pred(-x, 0.5, x, torch.Generator().manual_seed(5)).prev_sample
    got = step(ours)
    assert got.dtype is dtype
    assert relative_rms(got, step(original)) < (1e-6 if dtype is torch.float64 else 2 * torch.finfo(dtype).eps)


def test_a_stream_gives_each_sample_its_own_picture() -> None:
    ours = PreconditionedScoreSdeVeScheduler(50, sigma_max=20.0, preconditioner=pds())
    whole = run(ours, 20 * X, NoiseStream(7, first_sample=0))[0]
    shard = run(ours, 20 * X[2:], NoiseStream(7, first_sample=2))[0]
    assert torch.equal(whole[2:], shard)
    # Generators do so where norms are taken sample by sample.
    ours = PreconditionedScoreSdeVeScheduler(50, sigma_max=20.0, preconditioner=pds(), norm="sample")
    whole = run(ours, 20 * X, generators("list"))[0]
    assert torch.equal(whole[2:3], run(ours, 20 * X[2:3], generators("list")[2:3])[0])


def test_what_it_refuses() -> None:
    make = PreconditionedScoreSdeVeScheduler
    with pytest.raises(ValueError, match="config: got one with beta_end, beta_schedule, beta_start, expected"):
        make.from_config(diffusers.DDPMScheduler().config)
    with pytest.raises(ValueError, match="expected 0 < first < second"):
        make(sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match=r"sampling_eps: got 1\.5"):
        make(sampling_eps=1.5)
    with pytest.raises(ValueError, match="norm: got 'both'"):
        make(norm="both")
    with pytest.raises(TypeError, match="preconditioner: got str, expected a Preconditioner"):
        make.from_config(make().config, preconditioner="pds")
    ours = make(50, preconditioner=pds((3, 8, 8)))
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\), .*M\.resize\(16, 16\) makes a filter"):
        ours.step_pred(X, 0.5, X)
    ours = make(50)
    for t in (-0.1, 1.5, float("nan"), 40):
        with pytest.raises(ValueError, match=r"timestep: got .* expected times from 0 to 1"):
            ours.step_pred(X, t, X)
    with pytest.raises(ValueError, match="generator: got 2 generators, expected one for each of 4 samples"):
        ours.step_correct(X, X, [torch.Generator()] * 2)
    with pytest.raises(TypeError, match="generator: got int"):
        ours.step_correct(X, X, 5)
    with pytest.raises(ValueError, match=r"sample: got \(4, 16, 16\), expected a tensor \[B, C, H, W\]"):
        ours.step_correct(X, X[:, 0], None)
    ours.set_timesteps(60)
    with pytest.raises(ValueError, match="got 60 timesteps beside 50 sigmas"):
        ours.step_pred(X, 1.0, X)
    ours.timesteps = None
    with pytest.raises(ValueError, match="timesteps: got none"):
        ours.step_pred(X, 0.5, X)


def test_save_and_load(tmp_path: Path) -> None:
    M = pds()
    ours = PreconditionedScoreSdeVeScheduler(50, sigma_max=20.0, preconditioner=M, norm="sample")
    ours.save_pretrained(tmp_path)
    again = PreconditionedScoreSdeVeScheduler.from_pretrained(str(tmp_path))
    assert again.config.norm == "sample" and again.config.num_train_timesteps == 50
    assert torch.equal(again.preconditioner.freq, M.freq)
    step = lambda s: s.step_pred(-X, 0.5, X, torch.Generator().manual_seed(5)).prev_sample
    assert torch.equal(step(ours), step(again))
    assert ScoreSdeVeScheduler.from_pretrained(str(tmp_path)).config.sigma_max == 20.0
    file = tmp_path / "preconditioner.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="preconditioner"):
        PreconditionedScoreSdeVeScheduler.from_pretrained(str(tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match=r"without preconditioner.safetensors, which its configuration names"):
        PreconditionedScoreSdeVeScheduler.from_pretrained(str(tmp_path))


def test_figures_of_the_library() -> None:
    """Three steps with a linear network, of which diffusers' own test of the scheduler has the sums."""
    scheduler = PreconditionedScoreSdeVeScheduler(num_train_timesteps=2000, snr=0.15, sigma_min=0.01, sigma_max=1348)
    x = (torch.arange(768) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)
    scheduler.set_sigmas(3)
    scheduler.set_timesteps(3)
    generator = torch.manual_seed(0)
    for i, t in enumerate(scheduler.timesteps):
        network = lambda x, s=scheduler.sigmas[i]: x * s / (s + 1)
        x = scheduler.step_correct(network(x), x, generator).prev_sample
        x = scheduler.step_pred(network(x), t, x, generator).prev_sample
    assert x.abs().sum().item() == pytest.approx(14372758528.0, rel=1e-5)
    assert x.abs().mean().item() == pytest.approx(18714530.0, rel=1e-5)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers.pipelines.deprecated.score_sde_ve.pipeline_score_sde_ve import ScoreSdeVePipeline

    folder = save_ncsnpp(tmp_path_factory.mktemp("checkpoint"), steps=10, sigma_max=20.0)
    pipe = ScoreSdeVePipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def quiet(pipe: Any, M: Preconditioner | None, **options: Any) -> PreconditionedScoreSdeVePipeline:
    made = PreconditionedScoreSdeVePipeline.from_pipe(pipe, preconditioner=M, **options)
    made.set_progress_bar_config(disable=True)
    return made


def test_pipeline_with_the_identity_is_the_original(pipeline: Any) -> None:
    run = lambda pipe: torch.from_numpy(pipe(2, 3, torch.Generator().manual_seed(5), output_type="np").images)
    expected = run(pipeline)
    assert relative_rms(run(quiet(pipeline, None)), expected) < 1e-5
    assert relative_rms(run(quiet(pipeline, pds())), expected) > 1e-3


def test_pipeline_colours_its_start(pipeline: Any) -> None:
    M, seen = pds(), []
    ours = quiet(pipeline, M)
    network = lambda x, sigma, return_dict: (seen.append(x.clone()) or 0 * x,)
    ours.register_modules(unet=pipeline.unet)
    ours._score = lambda x, sigma: network(x, sigma, False)[0]  # type: ignore[method-assign]
    ours(2, 1, NoiseStream(3))
    expected = tdas_ops.noise(M, (2, *SHAPE), NoiseStream(3), 20.0)
    assert torch.equal(seen[0], expected)


def test_pipeline_gives_a_picture_again_alone_and_in_a_shard(pipeline: Any) -> None:
    ours = quiet(pipeline, pds())
    run = lambda n, first: ours(n, 3, NoiseStream(7, first_sample=first), output_type="pt").images
    whole = run(3, 0)
    assert torch.allclose(whole[1:], run(2, 1), atol=1e-5) and torch.allclose(whole[2:], run(1, 2), atol=1e-5)
    assert not torch.allclose(whole[:1], whole[1:2], atol=1e-2)


def test_pipeline_outputs_and_callback(pipeline: Any) -> None:
    ours, calls = quiet(pipeline, pds()), []

    def callback(pipe: Any, i: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append((i, float(t), tensors["sample"].shape))
        return {"sample_mean": torch.full_like(tensors["sample_mean"], 0.25)} if i == 2 else {}

    images = ours(2, 3, NoiseStream(0), callback_on_step_end=callback, return_dict=False)[0]
    assert [c[0] for c in calls] == [0, 1, 2] and calls[0][1:] == (1.0, (2, *SHAPE))
    assert images[0].size == (16, 16) and images[0].mode == "RGB" and set(images[0].tobytes()) == {64}
    with pytest.raises(ValueError, match="output_type: got 'latent'"):
        ours(2, 3, NoiseStream(0), output_type="latent")
    with pytest.raises(ValueError, match=r"got a filter of shape \(3, 8, 8\), expected \(3, 16, 16\)"):
        quiet(pipeline, pds((3, 8, 8)))
    with pytest.raises(TypeError, match="scheduler: got ScoreSdeVeScheduler, expected a Preconditioned"):
        PreconditionedScoreSdeVePipeline(pipeline.unet, pipeline.scheduler)


def test_pipeline_save_and_load(pipeline: Any, tmp_path: Path) -> None:
    ours = quiet(pipeline, pds(), norm="sample")
    ours.save_pretrained(tmp_path)
    again = PreconditionedScoreSdeVePipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    run = lambda pipe: pipe(1, 2, NoiseStream(7), output_type="pt").images
    assert again.scheduler.config.sigma_max == 20.0
    assert torch.allclose(run(again), run(ours), atol=1e-5)
    third = quiet(again, None)
    assert torch.allclose(run(third), run(ours), atol=1e-5)
    pipeline.save_pretrained(tmp_path / "original")
    M = again.scheduler.preconditioner
    fourth = PreconditionedScoreSdeVePipeline.from_pretrained(str(tmp_path / "original"), preconditioner=M)
    fourth.set_progress_bar_config(disable=True)
    assert torch.allclose(run(fourth), run(ours), atol=1e-5)
    with pytest.raises(ValueError, match=r"got a filter of shape \(3, 8, 8\), expected \(3, 16, 16\)"):
        make = PreconditionedScoreSdeVePipeline.from_pretrained
        make(str(tmp_path / "original"), preconditioner=pds((3, 8, 8)))


def test_pipeline_takes_seeds(pipeline: Any) -> None:
    ours = quiet(pipeline, pds())
    run = lambda n, generator: ours(n, 2, generator, output_type="pt").images
    assert torch.allclose(run(2, 7), run(2, NoiseStream(7)), atol=1e-5)
    assert torch.allclose(run(2, [7, 9])[1:], run(1, [9]), atol=1e-5)
    with pytest.raises(TypeError, match="noise: got str"):
        run(2, "7")
