"""The scripts of examples/: short, run with the real libraries, the library's own result with the identity."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import libraries
import pytest
import score_sde_interface
import torch
from conftest import relative_rms, save_ncsnpp
from torch import Tensor

from tdas_ops import ColouredNoise, NoiseStream, Preconditioner, models

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("with_*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_lines(source: str) -> int:
    """Lines of code: statements as one writes them, without the docstring and comments."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return len({node.lineno for node in statements[1:]})


@pytest.mark.parametrize("script", SCRIPTS, ids=[s.stem for s in SCRIPTS])
def test_scripts_are_short(script: Path) -> None:
    assert 0 < code_lines(script.read_text()) <= 12


@pytest.fixture(scope="module")
def model() -> models.Model:
    return models.load("digits")


def identity(model: models.Model) -> Preconditioner:
    return Preconditioner.identity(model.shape)


def reproducible(draw: Callable[[int, NoiseStream], Tensor]) -> None:
    """A picture is the same alone, in a batch and in a shard; networks of the CPU leave 1e-5 of the batch."""
    whole = draw(3, NoiseStream(7, first_sample=0))
    assert relative_rms(draw(2, NoiseStream(7, first_sample=1)), whole[1:]) < 1e-4
    assert relative_rms(draw(1, NoiseStream(7, first_sample=2)), whole[2:]) < 1e-4
    assert relative_rms(whole[:1], whole[1:2]) > 0.1


def test_with_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is missing; `pip install diffusers` provides it")
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(str(save_ncsnpp(tmp_path, steps=10, sigma_max=20.0)))
    example = load("with_diffusers")
    arrays = lambda images: torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in images])
    own = example.sample(pipe, Preconditioner.identity((3, 16, 16)), torch.Generator().manual_seed(3), 2, 4)
    plain = pipe(2, 4, torch.Generator().manual_seed(3)).images
    assert (arrays(own).int() - arrays(plain).int()).abs().max() <= 1


def test_with_diffusers_few_steps() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is missing; `pip install diffusers` provides it")
    from tdas_ops.integrations.diffusers import from_pipeline

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
    unet = diffusers.UNet2DModel(sample_size=8, layers_per_block=1, **blocks)
    loaded = from_pipeline(diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()))
    example = load("with_diffusers_few_steps")
    images = example.sample(loaded, NoiseStream(0, first_sample=0), 2, 3)
    assert images.shape == (2, 3, 8, 8) and bool(((images >= 0) & (images <= 1)).all())
    assert relative_rms(example.sample(loaded, NoiseStream(0, first_sample=1), 1, 3), images[1:]) < 1e-4


def test_with_k_diffusion(model: models.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = libraries.k_diffusion()
    example = load("with_k_diffusion")
    got = example.sample(identity(model), 5, 2, 6)
    stream = NoiseStream(5)
    sigmas = sampling.get_sigmas_karras(6, model.sde.sigma_min, model.sde.sigma_max)
    x = sigmas[0] * stream.randn((2, *model.shape))
    noise = lambda *_: stream.randn((2, *model.shape))
    expected = sampling.sample_euler_ancestral(example.denoise, x, sigmas, noise_sampler=noise, disable=True)
    assert relative_rms(got, expected) < 1e-5
    reproducible(lambda count, noise: example.sample(model.preconditioner("pds"), noise, count, 4))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "with_k_diffusion.py"), run_name="__main__")
    assert torch.load(tmp_path / "samples.pt").shape == (4, *model.shape)


def edm_sampler(
    net: Any,
    latents: Tensor,
    class_labels: Any = None,
    randn_like: Any = torch.randn_like,
    num_steps: int = 6,
    sigma_min: float = 0.002,
    sigma_max: float = 80,
    rho: float = 7,
    S_churn: float = 0,
) -> Tensor:
    """Algorithm 2 of Karras et al., arXiv 2206.00364, as their code calls it; a stand-in, since it has no package."""
    low, high = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    u = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    levels = net.round_sigma((high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho)
    levels = torch.cat([levels, levels.new_zeros(1)])
    x = latents.double() * levels[0]
    for t, after in pairwise(levels):
        up = net.round_sigma(t * (1 + min(S_churn / num_steps, 2**0.5 - 1)))
        x = x + (up**2 - t**2).sqrt() * randn_like(x)
        slope = (x - net(x, up, class_labels).double()) / up
        ahead = x + (after - up) * slope
        if after > 0:
            slope = 0.5 * (slope + (ahead - net(ahead, after, class_labels).double()) / after)
        x = x + (after - up) * slope
    return x


def test_with_edm(model: models.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("generate")
    module.edm_sampler = edm_sampler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "generate", module)
    example = load("with_edm")
    got = example.sample(identity(model), 5, 2, S_churn=10)
    stream = NoiseStream(5)
    latents = stream.randn((2, *model.shape))
    expected = edm_sampler(example.denoise, latents, randn_like=stream.randn_like, S_churn=10)
    assert relative_rms(got, expected) < 1e-5
    reproducible(lambda count, noise: example.sample(model.preconditioner("pds"), noise, count, S_churn=10))


def test_with_comfyui(tmp_path: Path) -> None:
    M = Preconditioner.radial(lambda k: (k + 0.05) ** -0.5, (4, 8, 8))
    M.save(tmp_path / "filter.safetensors")
    node = load("with_comfyui").NODE_CLASS_MAPPINGS["TDAS coloured noise"]
    assert set(node.INPUT_TYPES()["required"]) == {"filter", "noise_seed"}
    (noise,) = getattr(node(), node.FUNCTION)(str(tmp_path / "filter.safetensors"), 9)
    assert noise.seed == 9
    latent = {"samples": torch.zeros(3, 4, 8, 8)}
    whole = noise.generate_noise(latent)
    alone = noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]})
    assert torch.equal(whole[2:], alone) and torch.equal(whole, noise.generate_noise(latent))
    assert torch.equal(whole, ColouredNoise(M.unit_variance(), 9).generate_noise(latent))


def test_with_score_sde(model: models.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sampling", score_sde_interface)
    monkeypatch.setitem(sys.modules, "sde_lib", score_sde_interface)
    example = load("with_score_sde")
    draw = lambda count, noise: example.sample(
        model.network, model.preconditioner("pds"), noise, (count, *model.shape), 8
    )
    reproducible(draw)
    stream = NoiseStream(5)
    got = example.sample(model.network, None, NoiseStream(5), (2, *model.shape), 8)
    monkeypatch.setattr(torch, "randn_like", stream.randn_like)
    sde = score_sde_interface.VESDE(0.01, 16.0, 8)
    sde.prior_sampling = lambda shape: 16.0 * stream.randn(shape)  # type: ignore[method-assign]
    parts = score_sde_interface.PlainReverseDiffusion, score_sde_interface.PlainLangevin
    run = score_sde_interface.get_pc_sampler(
        sde, (2, *model.shape), *parts, lambda x: x, 0.16, continuous=True, eps=1e-5, device="cpu"
    )
    assert relative_rms(got, run(model.network)[0]) < 1e-5
    for name in ("tdas_reverse_diffusion", "tdas_langevin", "tdas_ald"):
        score_sde_interface._PREDICTORS.pop(name, None)
        score_sde_interface._CORRECTORS.pop(name, None)


def test_with_deepinv(model: models.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    deepinv = libraries.deepinv()
    example = load("with_deepinv")
    mask = (torch.rand(model.shape, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    y = (mask * model.statistics.mean.float()).expand(3, -1, -1, -1)
    operator = deepinv.physics.Inpainting(model.shape, mask)
    got = example.restore(y, operator, identity(model), 5, iterations=12)[0]
    stream = NoiseStream(5)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn_like", stream.randn_like)
        iterator = deepinv.sampling.ULAIterator({"step_size": 1e-2, "alpha": 1.0, "sigma": 0.2})
        chain = deepinv.sampling.BaseSampling(iterator, deepinv.optim.L2(sigma=0.1), example.prior, max_iter=12)
        expected = chain.sample(y, operator)[0]
    assert relative_rms(got, expected) < 1e-5
    M = Preconditioner.from_masks(space=(mask / 0.01 + 25).rsqrt() * 5)
    draw = lambda count, noise: example.restore(y[:count], operator, M, noise, iterations=12)[0]
    reproducible(draw)


def test_with_azula(model: models.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azula = libraries.azula()
    example = load("with_azula")
    from tdas_ops.integrations.azula import PreconditionedSampler

    def draw(M: Preconditioner, noise: Any, count: int) -> Tensor:
        made = PreconditionedSampler(example.Digits(), M, noise, eta=1.0, steps=6, silent=True)
        x: Tensor = made(made.init((count, *model.shape)))
        return x

    got, stream = draw(identity(model), 5, 2), NoiseStream(5)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn_like", stream.randn_like)
        original = azula.DDPMSampler(example.Digits(), steps=6, silent=True)
        expected = original(original.init((2, *model.shape)))
    assert relative_rms(got, expected) < 1e-5
    reproducible(lambda count, noise: draw(model.preconditioner("pds"), noise, count))


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


def test_with_torchrun_and_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = load("with_torchrun").sample(tmp_path / "torchrun", 3, 2)
    assert [file.name for file in files] == ["000000000.png", "000000001.png", "000000002.png"]
    pytest.importorskip("accelerate", reason="accelerate is missing; `pip install --no-deps accelerate` provides it")
    load("with_accelerate").sample(tmp_path / "accelerate", 3, 2)
    assert pictures(tmp_path / "accelerate") == pictures(tmp_path / "torchrun")


def test_with_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in of its three functions: what it starts gets the environment of torchrun."""
    seen: list[tuple[object, ...]] = []
    remote = lambda function: SimpleNamespace(remote=lambda *given: seen.append((function, *given)))
    ray = SimpleNamespace(
        remote=lambda num_gpus: remote, get=list, util=SimpleNamespace(get_node_ip_address=lambda: "host")
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = load("with_ray")
    example.launch(str(tmp_path), 2)
    assert [(rank, size, address) for _, rank, size, address, _ in seen] == [(0, 2, "host"), (1, 2, "host")]
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(example, "sample", lambda folder: seen.append((folder,)))
    function: Any = seen[1][0]
    function(1, 2, "host", "folder")
    assert os.environ == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "host",
        "MASTER_PORT": "29500",
    }
    assert seen[-1] == ("folder",)


def test_with_slurm_is_a_script_of_bash() -> None:
    script = EXAMPLES / "with_slurm.sh"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(
        re.findall(r"\b([A-Z_]+)=", script.read_text())
    )
