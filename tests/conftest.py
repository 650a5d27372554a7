"""Shared pieces of the tests: small random problems, the noise of a stream worked out independently, and what all run
under: one thread a worker, warnings that are errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
if "tests" not in sys.modules:  # this folder is no package: one of that name that is installed would win over it
    sys.modules["tests"] = ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).parent)]
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start: all cores have a worker already

import tdas_ops
from tests.kernels.simt_library import SANITIZE_ADDRESSES, SANITIZE_THREADS, has_sanitizer

torch.set_num_threads(1)
# The last that fits counts. What a library says of its own future is not ours; what it says of our calls is. Files that
# are left open show when garbage is collected, which is in any test.
OWN = "(tdas_ops|experiments|benchmarks|tests|test_)"
WARNINGS = (
    "error",
    *(f"ignore::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")),
    *(f"error::{kind}:{OWN}" for kind in ("DeprecationWarning", "FutureWarning")),
    "ignore::ResourceWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    if not torch.cuda.is_available():  # minutes on a GPU are not lost to a warning
        for line in WARNINGS:
            config.addinivalue_line("filterwarnings", line)


class Problem(NamedTuple):
    """A preconditioner with its full masks (ones where absent), a state and a score; all float64."""

    M: tdas_ops.Preconditioner
    R: Tensor
    A: Tensor
    w: Tensor
    x: Tensor
    v: Tensor


def even(mask: Tensor) -> Tensor:
    """The even part of a full spectrum."""
    return 0.5 * (mask + mirrored(mask))


def odd(mask: Tensor) -> Tensor:
    return 0.5 * (mask - mirrored(mask))


def mirrored(mask: Tensor) -> Tensor:
    return torch.roll(torch.flip(mask, (-2, -1)), (1, 1), (-2, -1))


def make_problem(
    batch: int = 3,
    shape: tuple[int, int, int] = (2, 6, 5),
    method: str | None = "pds",
    freq: bool = True,
    space: bool = True,
    skew: bool = False,
    seed: int = 0,
) -> Problem:
    g = torch.Generator().manual_seed(seed)
    full = lambda: torch.rand(shape, generator=g, dtype=torch.float64) + 0.5
    R = even(full()) if freq else torch.ones(shape, dtype=torch.float64)
    A = full() if space else torch.ones(shape, dtype=torch.float64)
    w = odd(full()) if skew else torch.zeros(shape, dtype=torch.float64)
    if freq or space or skew:
        M = tdas_ops.Preconditioner.from_masks(
            R if freq else None, A if space else None, w if skew else None, shape=shape, method=method
        )
    else:
        M = tdas_ops.Preconditioner.identity(shape, method=method)
    x, v = (torch.randn(batch, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    return Problem(M, R, A, w, x, v)


def relative_rms(got: Tensor, expected: Tensor) -> float:
    """RMS of the error over RMS of the reference; NaN anywhere gives NaN, which passes no bound."""
    expected = expected.double()
    return float((got.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def stream_noise(seed: int, samples: list[int], draw: int, shape: tuple[int, int, int], spectral: bool) -> Tensor:
    """z[B, C, H, W] (float64) that the contract gives these samples of a seed, worked out without the package."""
    from tests.noise_contract import contract, white_noise

    size = (1, *shape[:2], (shape[2] + 1) // 2)
    g = torch.cat([contract(size, seed, draw, sample, spectral) for sample in samples])
    return white_noise(g, shape[2], spectral)


@pytest.fixture(params=["reference", "cpp"])
def backend(request: pytest.FixtureRequest):
    """Runs a test once with every backend of a CPU; tests/kernels/test_triton_ops.py runs it with Triton's."""
    if request.param not in tdas_ops.backend_info()["available"]:
        pytest.skip(f"{request.param}: {tdas_ops.backend_info()['missing'][request.param]}")
    with tdas_ops.use_backend(request.param):
        yield request.param


@pytest.fixture
def poisoned():
    """Fills every tensor from torch.empty with NaN, so that an output that is not fully written shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def save_ncsnpp(folder: Path, steps: int, sigma_max: float) -> Path:
    """A small NCSN++ checkpoint as diffusers saves it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 32),
        layers_per_block=1,
        time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        attention_head_dim=8,
    )
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=steps, sigma_max=sigma_max)
    diffusers.ScoreSdeVePipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def address_sanitizer() -> None:
    if not has_sanitizer(*SANITIZE_ADDRESSES):
        pytest.skip("no address sanitizer here")


@pytest.fixture(scope="session")
def thread_sanitizer() -> None:
    if not has_sanitizer(*SANITIZE_THREADS):
        pytest.skip("no thread sanitizer here")
