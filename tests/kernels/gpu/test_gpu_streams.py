"""What code of others takes from a stream, on a CUDA device: the values of the CPU, in every dtype."""

from __future__ import annotations

import io

import pytest
import torch

import tdas_ops
from tdas_ops import (
    ColouredNoise,
    NoiseStream,
    PreconditionedDenoiser,
    Preconditioner,
    PreconditionerModule,
    RadialTable,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

SHAPE = (3, 4, 32, 32)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TABLE = RadialTable([0.1, 10.0], [0.0, 0.1, 0.5], [[1, 1, 1], [0, 1, 4]])


def coloured(method="noise") -> Preconditioner:
    return Preconditioner.radial(lambda k: (k + 0.1) ** -0.7, SHAPE[1:], method).unit_variance()


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    assert got.is_cuda and got.dtype is expected.dtype
    step = max(torch.finfo(got.dtype).eps, 1e-6)  # a value may be rounded the other way
    return bool((got.cpu().double() - expected.double()).abs().max() < 10 * step)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [SHAPE, (3, 2, 4, 8, 5), (3, 7)], ids=str)
def test_white_noise(dtype, shape):
    expected = NoiseStream(3).randn(shape, dtype=dtype)
    assert close(NoiseStream(3).randn(shape, dtype=dtype, device="cuda"), expected)
    assert close(NoiseStream(3).randn_like(torch.empty(shape, dtype=dtype, device="cuda")), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transform", [None, lambda sigma: sigma**-2])
def test_paths(dtype, transform):
    w, ours = (NoiseStream(3).brownian(SHAPE, dtype=dtype, device=d, transform=transform) for d in ("cpu", "cuda"))
    assert close(ours(3.0, 0.7), w(3.0, 0.7))
    assert close(ours(torch.tensor(3.0, device="cuda"), 0.7), w(3.0, 0.7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 2, 32, 32), (3, 2, 4, 32, 32)], ids=str)
@pytest.mark.parametrize("M", [coloured, lambda: TABLE], ids=["mask", "table"])
def test_coloured_noise(dtype, shape, M):
    x = torch.empty(shape, dtype=dtype)
    assert close(ColouredNoise(M(), 3).randn_like(x.cuda(), 1.0), ColouredNoise(M(), 3).randn_like(x, 1.0))
    assert close(ColouredNoise(M(), 3).generate_noise(x.cuda(), 1.0), ColouredNoise(M(), 3).generate_noise(x, 1.0))
    paths = [ColouredNoise(M(), NoiseStream(3).brownian(shape, device=d)) for d in ("cuda", "cpu")]
    assert close(paths[0](3.0, 1.0), paths[1](3.0, 1.0))


@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 2, 32, 32)], ids=str)
def test_the_denoiser(shape):
    denoiser = PreconditionedDenoiser(lambda x, sigma: x / (1 + sigma**2), coloured("pds"))
    x = NoiseStream(3).randn(shape)
    expected = denoiser(x, 2.0)
    assert close(denoiser(x.cuda(), 2.0), expected)
    assert denoiser(x.cuda().double(), 2.0).dtype is torch.float64


@pytest.mark.parametrize("mixing", [False, True])
def test_filters_for_noise_alone(mixing):
    matrices = torch.zeros(32, 17, 4, 4, dtype=torch.float64)
    matrices[:, 1:9] = torch.rand(8, 4, 4, dtype=torch.float64)
    radial = Preconditioner.radial(lambda k: torch.where(k > 0.3, -1.0, (k > 0.1).double()), SHAPE[1:], "noise")
    M = Preconditioner(SHAPE[1:], matrices, method="noise") if mixing else radial
    x, v = NoiseStream(1).randn(SHAPE), NoiseStream(2).randn(SHAPE)
    for update in (
        lambda x, v, M: tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(3)),
        lambda x, v, M: tdas_ops.langevin_step(x, v, M, 0.2, noise=NoiseStream(3), norm="sample"),
    ):
        assert close(update(x.cuda(), v.cuda(), M.to("cuda")), update(x, v, M))


def test_generators_streams_and_checkpoints_keep_their_device():
    stream = NoiseStream.of(torch.Generator("cuda").manual_seed(0))
    assert stream.seeds.is_cuda
    with pytest.raises(ValueError, match="noise: got a stream on cuda:0, expected one on cpu"):
        stream.randn((2, 3), device="cpu")
    file = io.BytesIO()
    torch.save(coloured().to("cuda"), file)
    for place in ("cpu", "cuda:0"):
        file.seek(0)
        assert str(torch.load(file, weights_only=True, map_location=place).device) == place
    module = PreconditionerModule(coloured()).cuda()
    assert module.freq.is_cuda and module.M.device.type == "cuda"
    assert module.cpu().M.device.type == "cpu"
