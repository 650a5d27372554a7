"""What needs a CUDA device: every CUDA path against float64 and the CPU, graphs, streams, devices, memory.
`benchmarks/gpu.sh` runs these."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import make_problem, relative_rms
from torch import Tensor

import tdas_ops
from tdas_ops import NoiseStream
from tests.noise_contract import SHAPES, contract, signed

missing = tdas_ops.backend_info()["missing"]
reason = missing.get("cuda", "")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(reason), reason=reason)]

DEVICES = torch.cuda.device_count()
MEMORY = 0 if reason else torch.cuda.mem_get_info()[1]  # bytes

PLANES = list(itertools.product((32, 64, 128), repeat=2))  # those with a kernel from pixels to pixels
COMPOSED = [(2, 6, 5), (1, 48, 40), (2, 9, 10)]
BATCH, CHANNELS = 3, 3  # nine planes: one more than blocks of eight, four or two hold
FUSED = [(CHANNELS, height, width) for height, width in PLANES]
# Planes that pass through memory: every width and every height once.
LARGE = [(CHANNELS, 65536 // width, width) for width in (32, 64, 128, 256, 512, 1024, 2048)]
MASKS = ["R", "RA", "Rw", "RAw", "A", "Aw", "w", ""]
CASES = [(method, masks) for method in ("pds", "tdas") for masks in MASKS if method == "pds" or "w" not in masks]
# Drawn noise comes from the special function unit, whose last bits are not those of float64.
GIVEN, DRAWN = 1e-6, 2e-6


def only_where(possible: bool) -> Callable[[Any], Any]:
    """Leaves a test out on a machine that cannot run it. A skip would say that something is missing."""
    return lambda test: test if possible else None


def counters(value: int | list[int]) -> Tensor:
    return torch.tensor(value if isinstance(value, list) else [value], dtype=torch.int64, device="cuda")


def normals(shape, seeds=7, draw=0, first_sample=0, spectral=False) -> Tensor:
    out = torch.full(shape, complex("nan+nanj"), dtype=torch.complex64, device="cuda")
    torch.ops.tdas_ops.normals.cuda(out, counters(seeds), counters(draw), first_sample, spectral)
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectral", [False, True])
def test_noise_follows_the_contract(shape, spectral):
    seed, draw = 0x9E3779B97F4A7C15, 0x0000000300000002
    got = normals(shape, signed(seed), draw, 5, spectral).cpu()
    assert (got - contract(shape, seed, draw, 5, spectral)).abs().max() < 1e-5


def test_noise_agrees_with_the_cpu_on_millions_of_normals():
    shape = (4, 3, 512, 512)
    on_cpu = torch.empty(shape, dtype=torch.complex64)
    torch.ops.tdas_ops.normals.cpp(on_cpu, torch.tensor([1]), torch.tensor([2]), 0, False)
    assert (normals(shape, 1, draw=2).cpu() - on_cpu).abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectral", [False, True])
def test_triton_noise_follows_the_contract(shape, spectral):
    seed, draw = 0x9E3779B97F4A7C15, 0x0000000300000002
    got = torch.full(shape, complex("nan+nanj"), dtype=torch.complex64, device="cuda")
    torch.ops.tdas_ops.normals.triton(got, counters(signed(seed)), counters(signed(draw)), 5, spectral)
    assert (got.cpu() - contract(shape, seed, draw, 5, spectral)).abs().max() < 1e-5


def test_one_seed_a_pair():
    seeds = [3, -1, 1 << 40]
    for plane, seed in zip(normals((3, 2, 4, 6), seeds, draw=9), seeds, strict=True):
        assert torch.equal(plane, normals((1, 2, 4, 6), seed, draw=9)[0])


@pytest.mark.parametrize("spectral", [False, True])
def test_splitting_the_samples_changes_no_bit(spectral):
    whole = normals((7, 3, 9, 33), 11, spectral=spectral)
    parts = [normals((n, 3, 9, 33), 11, 0, first, spectral) for first, n in ((0, 1), (1, 4), (5, 2))]
    assert torch.equal(whole, torch.cat(parts))


def test_more_samples_than_the_grid_has_rows():
    got = normals((70000, 1, 1, 2), 5).cpu()
    assert (got[69999] - contract((1, 1, 1, 2), 5, first_sample=69999)[0]).abs().max() < 1e-5
    assert not torch.view_as_real(got).isnan().any()


def test_a_replayed_graph_reads_the_draw_anew():
    shape, draw, seeds = (2, 1, 16, 16), counters(0), counters(7)
    out = torch.zeros(shape, dtype=torch.complex64, device="cuda")
    torch.ops.tdas_ops.normals.cuda(out, seeds, draw, 0, False)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.tdas_ops.normals.cuda(out, seeds, draw, 0, False)
        draw.add_(1)
    for number in range(3):
        graph.replay()
        assert torch.equal(out, normals(shape, 7, draw=number))
    assert draw.item() == 3


def test_a_stream_of_its_own():
    """The kernel joins the current stream: behind a long queue there, it still sees the draw written before it."""
    stream, shape = torch.cuda.Stream(), (2, 3, 64, 64)
    draw, seeds = counters(0), counters(7)
    out = torch.empty(shape, dtype=torch.complex64, device="cuda")
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        draw.fill_(4)
        torch.ops.tdas_ops.normals.cuda(out, seeds, draw, 0, False)
    stream.synchronize()
    assert torch.equal(out, normals(shape, 7, draw=4))


# Parity


def problem(shape, method="pds", masks="RA", batch=BATCH):
    return make_problem(batch, shape, method, "R" in masks, "A" in masks, "w" in masks)


def single(shape, masks="RA", batch=BATCH, method="pds"):
    """M, x and v on the device, float32."""
    p = problem(shape, method, masks, batch)
    return p.M.to("cuda"), p.x.float().cuda(), p.v.float().cuda()


def stream(device=None) -> NoiseStream:
    return NoiseStream(5, first_sample=7, draw=2, device=device)


LAYOUTS = ["plain", "last", "spread", "unaligned", "turned", "apart", "gaps"]
DENSE = ["plain", "last", "unaligned"]  # what an output may be


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same values in another storage, NaN between them."""
    c, h, w = t.shape[1:]
    strides, offset = {
        "plain": ((c * h * w, h * w, w, 1), 0),
        "last": ((h * w * c, 1, w * c, c), 0),
        "spread": ((c * h * w * 2, h * w * 2, w * 2, 2), 1),
        "unaligned": ((c * h * w, h * w, w, 1), 1),
        "turned": ((c * h * w, h * w, 1, h), 0),
        "apart": ((2 * c * h * w, h * w, w, 1), 4),
        "gaps": ((c * h * w + 2, h * w, w, 1), 0),
    }[layout]
    room = t.new_full((2 * t.numel() + 8,), math.nan)
    return room.as_strided(t.shape, strides, offset).copy_(t)


def scale(kind: str, batch: int, value: float):
    each = value * torch.linspace(0.5, 1.5, batch)
    return {
        "number": value,
        "one": torch.tensor([value]),
        "each": each,
        "half": torch.tensor([value], dtype=torch.bfloat16),
        "narrow": each.half(),
        "column": each.double().reshape(-1, 1, 1, 1),
    }[kind]


SCALES = ["number", "one", "each", "half", "narrow", "column"]


def on_device(value):
    return value.cuda() if isinstance(value, Tensor) else value


def noise_of(kind: str | None, x: Tensor):
    """Noise for the state x: the same every time."""
    if kind == "stream":
        return stream()
    if kind == "seeds":
        return NoiseStream(seeds=list(range(3, 3 + len(x))))
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3)) if kind == "tensor" else None


def check_update(p, M, op: str, kind: str | None, mean: bool, rng: random.Random) -> None:
    """One update against float64 on the CPU; what the test does not name is drawn at random."""
    dtype = rng.choice([torch.float32, torch.bfloat16, torch.float16])
    layout_x, layout_v, layout_z = (rng.choice(LAYOUTS) for _ in range(3))
    out_layout = rng.choice([*DENSE, None])
    in_place = layout_x in DENSE and rng.random() < 0.5
    x, v, noise = p.x.float(), p.v.to(dtype), noise_of(kind, p.x)
    if op == "step":
        n = 0.0 if kind is None else rng.choice([None, scale(rng.choice(SCALES), len(x), 0.4)])
        options = {"step_size": scale(rng.choice(SCALES), len(x), 0.2), "noise_scale": n}
        run = tdas_ops.step
    else:
        options = {
            "snr": 0.16,
            "alpha": scale(rng.choice(SCALES), len(x), 0.7),
            "norm": rng.choice(["batch", "sample"]),
        }
        run = tdas_ops.langevin_step
    wide = noise.double() if isinstance(noise, Tensor) else noise
    expected = run(x.double(), v.double(), p.M, noise=wide, return_mean=mean, **options)

    device_x, device_v = laid_out(x.cuda(), layout_x), laid_out(v.cuda(), layout_v)
    device_noise = laid_out(noise.cuda(), layout_z) if isinstance(noise, Tensor) else noise_of(kind, p.x)
    device_options = {key: on_device(value) for key, value in options.items()}
    nothing = torch.full_like(x, math.nan, device="cuda")
    out = device_x if in_place else None if out_layout is None else laid_out(nothing, out_layout)
    got = run(device_x, device_v, M, noise=device_noise, out=out, return_mean=mean, **device_options)
    case = (op, kind, mean, dtype, layout_x, layout_v, layout_z, out_layout, in_place, options)
    pairs = list(zip(got, expected, strict=True)) if mean else [(got, expected)]
    for i, (a, b) in enumerate(pairs):
        exact = (i == 1 and op == "step") or kind in ("tensor", None)
        assert a.dtype is torch.float32 and a.is_cuda
        assert relative_rms(a.cpu(), b) < (GIVEN if exact else DRAWN), case
    assert out is None or pairs[0][0] is out
    assert in_place or torch.equal(device_x.cpu(), x), case
    assert torch.equal(device_v.cpu(), v), case
    if isinstance(noise, NoiseStream):
        assert device_noise.state_dict() == noise.state_dict()


@pytest.mark.parametrize(("method", "masks"), CASES)
@pytest.mark.parametrize("shape", FUSED + LARGE + COMPOSED, ids=str)
def test_updates_agree_with_float64(shape, method, masks, poisoned):
    p, rng = problem(shape, method, masks), random.Random(f"{shape} {method} {masks}")
    M = p.M.to("cuda")
    for kind, mean in itertools.product(("stream", "seeds", "tensor", None), (False, True)):
        for _ in range(1 if shape in LARGE else 3):
            check_update(p, M, "step", kind, mean, rng)
        if kind is not None:
            check_update(p, M, "langevin_step", kind, mean, rng)


@pytest.mark.parametrize("masks", [m for m in MASKS if "w" not in m])
@pytest.mark.parametrize("shape", FUSED + LARGE + COMPOSED, ids=str)
def test_filters_and_noise_agree_with_float64(shape, masks, poisoned):
    p = problem(shape, masks=masks)
    M = p.M.to("cuda")
    bounds = {torch.float32: GIVEN, torch.bfloat16: 4e-3, torch.float16: 6e-4}
    for which, (dtype, bound) in itertools.product(("M", "Mt", "MMt"), bounds.items()):
        v = p.v.to(dtype)
        expected = tdas_ops.precondition(v.double(), p.M, which)
        for layout in LAYOUTS:
            got = tdas_ops.precondition(laid_out(v.cuda(), layout), M, which)
            assert got.dtype is dtype
            assert relative_rms(got.cpu(), expected) < bound, (which, layout, dtype)
    for kind, n in itertools.product(("stream", "seeds", "tensor"), SCALES):
        noise, n = noise_of(kind, p.x), scale(n, BATCH, 3.0)
        wide = noise.double() if isinstance(noise, Tensor) else noise
        expected = tdas_ops.noise(p.M, p.x.shape, wide, n, dtype=torch.float64)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            given = on_device(noise_of(kind, p.x))
            got = tdas_ops.noise(M, p.x.shape, given, on_device(n), memory_format=memory_format)
            assert got.is_contiguous(memory_format=memory_format)
            assert relative_rms(got.cpu(), expected) < (GIVEN if kind == "tensor" else DRAWN)


@pytest.mark.parametrize("shape", FUSED + LARGE, ids=str)
def test_the_bounds_reject_a_wrong_filter(shape):
    """One column of R off by 2e-5, a draw too many, a sample shifted by one, a plane that is another's."""
    p = problem(shape, masks="R")
    z = noise_of("tensor", p.x)
    expected = tdas_ops.noise(p.M, p.x.shape, z.double(), dtype=torch.float64)
    R = p.R.clone()
    R[..., 1] *= 1 + 2e-5 * shape[2] / 32
    R[..., -1] *= 1 + 2e-5 * shape[2] / 32
    wrong = tdas_ops.Preconditioner.from_masks(R, None, None, shape=shape).to("cuda")
    assert relative_rms(tdas_ops.noise(wrong, p.x.shape, z.cuda()).cpu(), expected) > GIVEN
    right = tdas_ops.noise(p.M.to("cuda"), p.x.shape, z.cuda()).cpu()
    assert relative_rms(right, expected) < GIVEN < relative_rms(right.roll(1, 0), expected)
    drawn = tdas_ops.noise(p.M, p.x.shape, stream(), dtype=torch.float64)
    for other in (NoiseStream(5, first_sample=7, draw=3), NoiseStream(5, first_sample=8, draw=2)):
        assert relative_rms(tdas_ops.noise(p.M.to("cuda"), p.x.shape, other).cpu(), drawn) > 0.1


@pytest.mark.parametrize("masks", ["R", "A"])
@pytest.mark.parametrize("shape", FUSED + LARGE + COMPOSED, ids=str)
def test_coloured_noise_is_that_of_the_cpu_kernels(shape, masks):
    """To 1e-5 of every unit normal, in frequencies or in pixels, wherever they are drawn."""
    p = problem(shape, masks=masks)
    shape = p.x.shape
    wrong = tdas_ops.noise(p.M.to("cuda"), shape, stream()).cpu() - tdas_ops.noise(p.M, shape, stream())
    if masks == "R":
        wrong = math.sqrt(2) * torch.fft.rfft2(wrong.double(), norm="ortho") / p.M.freq
    else:
        wrong = wrong / p.M.space
    assert wrong.abs().max() < 1e-5


# Planes in passes


@pytest.fixture
def chunks():
    """Sets how many bytes of scratch the passes take at once."""
    limit = tdas_ops._extension.load().limit_scratch
    yield limit
    limit(0)


UPDATES = {
    "step": lambda x, v, M, noise, **o: tdas_ops.step(x, v, M, 0.1, noise=noise, **o),
    "langevin_step": lambda x, v, M, noise, **o: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, **o),
}
each_update = pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())


@each_update
@pytest.mark.parametrize(("method", "masks"), CASES)
@pytest.mark.parametrize("size", [1024, 2048])
def test_the_largest_planes_agree_with_float64(size, method, masks, update):
    p = problem((1, size, size), method, masks, batch=1)
    v = p.v.bfloat16()
    expected = update(p.x, v.double(), p.M, stream(), return_mean=True)
    got = update(p.x.float().cuda(), v.cuda(), p.M.to("cuda"), stream(), return_mean=True)
    for a, b in zip(got, expected, strict=True):
        assert relative_rms(a.cpu(), b) < DRAWN


@pytest.mark.parametrize("size", [1024, 2048])
@pytest.mark.parametrize("masks", ["R", "RA"])
def test_noise_and_filters_of_the_largest_planes(size, masks):
    p = problem((1, size, size), masks=masks, batch=1)
    M = p.M.to("cuda")
    expected = tdas_ops.noise(p.M, p.x.shape, stream(), dtype=torch.float64)
    assert relative_rms(tdas_ops.noise(M, p.x.shape, stream()).cpu(), expected) < DRAWN
    for which in ("M", "Mt", "MMt"):
        got = tdas_ops.precondition(p.v.float().cuda(), M, which)
        assert relative_rms(got.cpu(), tdas_ops.precondition(p.v.float().double(), p.M, which)) < GIVEN


def every_output(M, x, v) -> list[Tensor]:
    """What the ops that have no snr rule return, and those that have one where it is a kernel's."""
    outputs = [*tdas_ops.step(x, v, M, 0.1, noise=stream(), return_mean=True)]
    outputs.append(tdas_ops.step(x, v.bfloat16(), M, 0.1, noise_scale=0.0))
    if M.skew is None:
        outputs += [tdas_ops.precondition(v, M, which) for which in ("M", "Mt", "MMt")]
        outputs += [tdas_ops.noise(M, x.shape, noise) for noise in (stream(), v)]
    if M.skew is None or M.space is None:
        outputs += [
            tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, norm=norm)
            for noise, norm in itertools.product((stream(), v.flip(0)), ("batch", "sample"))
        ]
    return outputs


@pytest.mark.parametrize("masks", ["R", "RA", "Rw", "RAw"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_neither_runs_nor_chunks_change_a_bit(shape, masks, chunks):
    """The scratch holds all planes, the same once more, one plane, four of them."""
    M, x, v = single(shape, masks)
    plane = 4 * (shape[1] + 1) * shape[2]  # bytes
    expected = every_output(M, x, v)
    for most in (0, 1, 4 * plane):
        chunks(most)
        assert all(torch.equal(a, b) for a, b in zip(every_output(M, x, v), expected, strict=True)), most


def crowd(shape: tuple[int, int, int]) -> int:
    """A batch whose blocks fill the machine more than four times, and the last of which are not full."""
    of_once = 2 * torch.cuda.get_device_properties(0).multi_processor_count * 256 * 64  # elements
    return 4 * of_once // math.prod(shape) + 3


@each_update
@pytest.mark.parametrize("masks", ["R", "RA", "Rw"])
@pytest.mark.parametrize("shape", [(3, 32, 64), (1, 256, 256), (1, 2048, 32), (1, 64, 2048), (1, 1024, 1024)], ids=str)
def test_many_blocks_in_flight(shape, masks, update, chunks):
    M, x, v = single(shape, masks, batch=crowd(shape))
    expected = update(x.cpu().double(), v.cpu().double(), problem(shape, masks=masks, batch=1).M, stream())
    got = update(x, v, M, stream())
    assert relative_rms(got.cpu(), expected) < DRAWN
    for most in (0, 1 << 30):
        chunks(most)
        for _ in range(5):
            assert torch.equal(update(x, v, M, stream()), got)


@pytest.mark.parametrize("masks", ["R", "RA", "Rw"])
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_the_scratch_is_what_was_allowed(shape, masks, chunks):
    M, x, v = single(shape, masks)
    out, noise = torch.empty_like(x), NoiseStream(7, device="cuda")
    plane = 4 * (shape[1] + 1) * shape[2]  # bytes
    for planes in (1, 2, 5):
        chunks(planes * plane)
        tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
        used = torch.cuda.max_memory_allocated() - before
        assert planes * plane <= used <= planes * plane + 1024


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_the_other_backends_agree_with_float64(backend):
    p = problem((2, 32, 16))
    expected = tdas_ops.step(p.x, p.v, p.M, 0.1, noise=stream())
    with tdas_ops.use_backend(backend):
        got = tdas_ops.step(p.x.float().cuda(), p.v.float().cuda(), p.M.to("cuda"), 0.1, noise=stream())
    assert relative_rms(got.cpu(), expected) < DRAWN


def test_what_runs_is_what_backend_info_says():
    info = tdas_ops.backend_info()
    assert "cuda" in info["available"] and info["chosen"] == "automatic"
    paths = info["paths"]["cuda"]
    assert all("fused" in paths[op] for op in ("step", "langevin_step", "noise", "precondition"))
    assert "torch.fft" in paths["step"] and "torch.fft" in paths["langevin_step"]
    with tdas_ops.use_backend("cuda"):
        assert tdas_ops.backend_info()["chosen"] == "cuda"
        assert tdas_ops.backend_info()["paths"]["cuda"] == paths


# Samples apart

RUNS = {
    "step": lambda M, x, v, noise, **o: tdas_ops.step(x, v, M, 0.1, noise=noise, **o),
    "noise": lambda M, x, v, noise, **o: tdas_ops.noise(M, x.shape, noise, **o),
    "precondition": lambda M, x, v, noise, **o: tdas_ops.precondition(v, M, "MMt", **o),
}
each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
each_plane = pytest.mark.parametrize("shape", FUSED + LARGE, ids=str)


@each_run
@each_plane
@pytest.mark.parametrize("masks", ["R", "RAw", "A"])
def test_a_sample_never_depends_on_its_batch(run, shape, masks):
    M, x, v = single(shape, masks, 5)
    whole = run(M, x, v, NoiseStream(5, first_sample=7))
    parts = [run(M, x[a:b], v[a:b], NoiseStream(5, first_sample=7 + a)) for a, b in ((0, 1), (1, 4), (4, 5))]
    assert torch.equal(torch.cat(parts), whole)
    seeds = [4, 9, 4, 2, 1]
    whole = run(M, x, v, NoiseStream(seeds=seeds))
    parts = [run(M, x[b : b + 1], v[b : b + 1], NoiseStream(seeds=seeds[b : b + 1])) for b in range(5)]
    assert torch.equal(torch.cat(parts), whole)


@each_run
@each_plane
@pytest.mark.parametrize("masks", ["R", "RAw", "A"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_sample(run, shape, masks, bad):
    M, x, v = single(shape, masks, 4)
    expected = run(M, x, v, stream())
    v[2, -1, 3, 5] = bad
    got = run(M, x, v, stream())
    others = [0, 1, 3] if run is not RUNS["noise"] else [0, 1, 2, 3]
    assert torch.equal(got[others], expected[others])
    assert run is RUNS["noise"] or not got[2, -1].isfinite().all()


@each_plane
def test_in_place_and_apart_give_the_same_bits(shape):
    M, x, v = single(shape)
    expected = tdas_ops.step(x, v, M, 0.1, noise=stream())
    state = x.clone()
    assert torch.equal(tdas_ops.step(state, v, M, 0.1, noise=stream(), out=state), expected)
    one = tdas_ops.step(x[:1].expand_as(x), v[..., :1].expand_as(v), M, 0.1, noise=stream())
    plain = tdas_ops.step(x[:1].repeat(len(x), 1, 1, 1), v[..., :1].repeat(1, 1, 1, shape[2]), M, 0.1, noise=stream())
    assert relative_rms(one, plain) < GIVEN


# Graphs, streams, devices

SOME = [(3, 32, 32), (3, 64, 64), (3, 128, 128), (2, 256, 256), (2, 48, 40)]


@pytest.mark.parametrize("op", ["step", "langevin_step", "noise"])
@pytest.mark.parametrize("masks", ["R", "RA", "A"])
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_replayed_graph_draws_fresh_noise(shape, masks, op):
    """Every replay equals the eager call with the same draw, and the counter is where it would be."""
    M, x, v = single(shape, masks)
    out, noise = torch.empty_like(x), NoiseStream(5, device="cuda")
    calls = {
        "step": lambda noise, out: tdas_ops.step(x, v, M, 0.1, noise=noise, out=out),
        "langevin_step": lambda noise, out: tdas_ops.langevin_step(x, v, M, 0.16, noise=noise, out=out),
        "noise": lambda noise, out: tdas_ops.noise(M, x.shape, noise, out=out),
    }
    run = calls[op]
    side = torch.cuda.Stream()  # a first call may load kernels and plan transforms, which a capture must not
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(noise, out)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(noise, out)
    assert noise.state_dict()["draw"] == 1
    for number in range(1, 4):
        graph.replay()
        expected = run(NoiseStream(5, draw=number, device="cuda"), torch.empty_like(x))
        assert torch.equal(out, expected), number
        assert noise.state_dict()["draw"] == number + 1
    noise.load_state_dict(NoiseStream(6, draw=9).state_dict())  # a captured graph follows
    graph.replay()
    assert torch.equal(out, run(NoiseStream(6, draw=9, device="cuda"), torch.empty_like(x)))


@pytest.mark.parametrize("masks", ["R", "RA", "A"])
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_step_joins_the_current_stream(shape, masks):
    """Behind a long queue there, it still sees what was written before it."""
    M, x, v = single(shape, masks)
    expected = tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(5, draw=4))
    noise, late, out = NoiseStream(5, device="cuda"), torch.zeros_like(x), torch.empty_like(x)
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    own = torch.cuda.Stream()
    with torch.cuda.stream(own):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        late.copy_(x)
        noise.draw.fill_(4)
        tdas_ops.step(late, v, M, 0.1, noise=noise, out=out)
    own.synchronize()
    assert torch.equal(out, expected)
    assert noise.state_dict()["draw"] == 5


@pytest.mark.parametrize("shape", SOME, ids=str)
@pytest.mark.parametrize("backend", ["cuda", "triton", "reference"])
def test_nothing_waits_for_the_device(backend, shape):
    M, x, score = single(shape)
    scales, noise = torch.rand(BATCH).cuda(), NoiseStream(seed=3, device="cuda")

    def every_op():
        y, _ = tdas_ops.step(x, score, M, scales, noise=noise, return_mean=True)
        y = tdas_ops.langevin_step(y, score.bfloat16(), M, 0.16, noise=noise, alpha=scales)
        return tdas_ops.precondition(y, M, "MMt") + tdas_ops.noise(M, x.shape, noise, 2.0)

    with tdas_ops.use_backend(backend):
        every_op()  # the first call may load kernels and plan transforms
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            every_op()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert noise.state_dict()["draw"] == 6


@pytest.mark.parametrize(("method", "masks"), [case for case in CASES if "R" in case[1] or "w" not in case[1]])
@pytest.mark.parametrize("shape", FUSED, ids=str)
def test_an_op_with_an_output_allocates_nothing(shape, method, masks):
    M, x, v = single(shape, masks, method=method)
    out, z, each = torch.empty_like(x), torch.randn_like(x), torch.rand(BATCH, device="cuda")
    last, narrow = x.contiguous(memory_format=torch.channels_last), v.bfloat16()
    noise, seeds = NoiseStream(7, device="cuda"), NoiseStream(seeds=[1, 2, 3], device="cuda")

    def every_call():
        tdas_ops.step(x, v, M, 0.1, noise=noise, out=out)
        tdas_ops.step(last, narrow, M, each, noise=seeds, noise_scale=each, out=last)
        tdas_ops.step(x, v, M, each, noise=z, out=out)
        tdas_ops.step(x, v, M, 0.1, noise_scale=0.0, out=out)
        if "w" not in masks:
            tdas_ops.noise(M, x.shape, noise, each, out=out)
            for which in ("M", "Mt", "MMt"):
                tdas_ops.precondition(v, M, which, out=out)

    every_call()
    counted = lambda: torch.cuda.memory_stats()["allocation.all.allocated"]
    before = counted()
    every_call()
    assert counted() == before


@only_where(DEVICES > 1)
@pytest.mark.parametrize("masks", ["R", "RA", "A"])
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_device_that_is_not_the_current_one(shape, masks):
    p = problem(shape, masks=masks)
    expected = tdas_ops.step(p.x, p.v, p.M, 0.1, noise=stream())
    assert torch.cuda.current_device() == 0
    x, v = (t.float().to("cuda:1") for t in (p.x, p.v))
    got = tdas_ops.step(x, v, p.M.to("cuda:1"), 0.1, noise=stream())
    assert got.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
    assert relative_rms(got.cpu(), expected) < DRAWN
    with pytest.raises(ValueError, match=r"cuda:0.*expected.*cuda:1"):
        tdas_ops.step(x, v, p.M.to("cuda:1"), 0.1, noise=stream("cuda:0"))


# More than 2^31 elements, of which some samples on both sides of every boundary of 32 bits are looked at
MANY = (1 << 31) // (128 * 128) + 3
LOOKED_AT = [0, MANY // 4 - 1, MANY // 2 - 1, MANY - 5, MANY - 2]


@only_where(MEMORY > 26 << 30)
@pytest.mark.parametrize("masks", ["R", "RA", "A"])
def test_more_elements_than_32_bits_count(masks):
    p = problem((1, 128, 128), masks=masks, batch=1)
    M = p.M.to("cuda")
    x = torch.empty(MANY, 1, 128, 128, device="cuda").normal_()
    v = torch.empty(x.shape, dtype=torch.bfloat16, device="cuda").normal_()
    before = [(x[b : b + 2].cpu(), v[b : b + 2].cpu()) for b in LOOKED_AT]
    tdas_ops.step(x, v, M, 0.1, noise=NoiseStream(5), out=x)
    for b, (old, score) in zip(LOOKED_AT, before, strict=True):
        expected = tdas_ops.step(old.double(), score.double(), p.M, 0.1, noise=NoiseStream(5, first_sample=b))
        assert relative_rms(x[b : b + 2].cpu(), expected) < DRAWN, b
    tdas_ops.noise(M, x.shape, NoiseStream(6), out=x)
    for b in LOOKED_AT:
        noise = NoiseStream(6, first_sample=b)
        expected = tdas_ops.noise(p.M, (2, 1, 128, 128), noise, dtype=torch.float64)
        assert relative_rms(x[b : b + 2].cpu(), expected) < DRAWN, b
    del x, v
    torch.cuda.empty_cache()


# Dispatch


def arguments(op: str, M, x: Tensor, v: Tensor, own_noise: bool) -> dict[str, Any]:
    """The arguments of an overload, by the names of its schema."""
    freq, space, skew = M.masks(torch.float32)
    noise = NoiseStream(1, device="cuda")
    drawn = (
        {"z": v, "seeds": None, "draw": None} if own_noise else {"z": None, "seeds": noise.seeds, "draw": noise.draw}
    )
    drawn["first_sample"] = 0 if own_noise else 1
    each = torch.rand(len(x)).cuda()
    out = torch.zeros_like(x)
    mean = torch.zeros_like(x) if own_noise else None
    update = {"out": out, "mean": mean, "x": x}
    masks = {"freq": freq, "space": space, "skew": skew, "filter_drift": True}
    snr = {"snr": 0.16, "alpha": 1.0, "alpha_tensor": each, "per_sample": False}
    scales = {"d": 0.1, "d_tensor": each, "n": None, "n_tensor": None}
    return {
        "noise": {"out": out, "freq": freq, "space": space, "n": 0.5, "n_tensor": each, **drawn},
        "precondition": {"out": out, "v": v, "freq": freq, "space": space, "which": "MMt"},
        "step": {**update, "v": v, **masks, **scales, **drawn},
        "langevin_step": {**update, "score": v, **masks, **snr, **drawn},
    }[op]


@pytest.mark.parametrize("op", ["noise", "precondition", "step", "langevin_step"])
@pytest.mark.parametrize("own_noise", [False, True])
def test_opcheck(op, own_noise):
    M, x, v = single((2, 32, 32), "RAw")
    overload = getattr(torch.ops.tdas_ops, op).cuda
    torch.library.opcheck(overload, tuple(arguments(op, M, x, v, own_noise).values()))


ELSEWHERE = [("noise", ("freq", "space", "n_tensor", "seeds", "draw")), ("precondition", ("v", "freq", "space"))]
ELSEWHERE += [("step", ("x", "v", "freq", "space", "skew", "d_tensor", "seeds", "draw"))]


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, names in ELSEWHERE for name in names])
def test_an_op_refuses_tensors_of_another_device(op, name):
    """One sentence that names the argument, and nothing is written."""
    M, x, v = single((2, 32, 32), "RAw")
    given = arguments(op, M, x, v, own_noise=False)
    draw = given.get("draw")
    given[name] = given[name].cpu()
    with pytest.raises((ValueError, RuntimeError)) as caught:
        getattr(torch.ops.tdas_ops, op).cuda(**given)
    text = str(caught.value)
    assert f"`{name}`" in text and "cpu" in text and "expected" in text and "\n" not in text.strip()
    torch.cuda.synchronize()
    assert not given["out"].any()
    assert draw is None or draw.item() == 0


def test_the_public_functions_refuse_tensors_of_another_device():
    M, x, v = single((2, 32, 32))
    step = partial(tdas_ops.step, noise=stream("cuda"))
    mistakes = [
        (lambda: step(x, v.cpu(), M, 0.1), "v: got a tensor on cpu, expected cuda:0"),
        (lambda: step(x.cpu(), v, M, 0.1), "M: got a preconditioner on cuda:0, expected one on cpu"),
        (lambda: step(x, v, M, torch.ones(1)), "step_size: got a tensor on cpu, expected cuda:0"),
        (lambda: step(x, v, M, 0.1, out=torch.empty(x.shape)), "out: got a tensor on cpu, expected cuda:0"),
        (lambda: step(x, v, M, 0.1, noise=stream("cpu")), "noise: got a stream on cpu, expected one on cuda:0"),
        (lambda: step(x, v, M, 0.1, noise=torch.zeros(x.shape)), "noise: got a tensor on cpu, expected cuda:0"),
    ]
    for call, message in mistakes:
        with pytest.raises(ValueError, match=message):
            call()


def test_normals_refuse_tensors_of_another_device():
    out = torch.zeros(1, 1, 2, 2, dtype=torch.complex64, device="cuda")
    with pytest.raises(ValueError, match="`draw` is on cpu; expected the device of `out`, cuda:0"):
        torch.ops.tdas_ops.normals.cuda(out, counters(7), torch.tensor([0]), 0, False)
    assert not out.any()


# Samplers


def score(x: Tensor, level: Tensor) -> Tensor:
    return torch.tanh(x.float().roll(1, -1) - 1.3 * x) / (0.3 + level.reshape(-1, 1, 1, 1))


def sampled(shape: tuple[int, int, int], sampler: str = "pc", network: Any = score, **options) -> Tensor:
    M = options.pop("M", None) or problem(shape, masks="RA").M.to("cuda")
    options = {"noise": NoiseStream(5), "progress": False, **options}
    if sampler == "pc":
        return tdas_ops.samplers.pc(network, (BATCH, *shape), tdas_ops.sde.VE(0.01, 8.0), M, iterations=6, **options)
    sigmas = [4.0, 2.0, 1.0, 0.7, 0.6, 0.5]
    return tdas_ops.samplers.annealed_langevin(
        network, (BATCH, *shape), sigmas, M, step_size=1e-3, steps=2, hook=options.pop("hook", None), **options
    )


def held(shape: tuple[int, int, int]) -> tdas_ops.samplers.Hook:
    known = torch.linspace(0, 1, math.prod(shape)).reshape(shape).cuda()
    return tdas_ops.samplers.inpaint(known, known > 0.5)


def several(shape: tuple[int, int, int]) -> list[tdas_ops.Preconditioner]:
    return [make_problem(1, shape, seed=i).M.to("cuda") for i in range(6)]


VARIANTS: dict[str, Callable[[tuple[int, int, int]], dict[str, Any]]] = {
    "plain": lambda shape: {},
    "filters": lambda shape: {"M": several(shape)},
    "hook": lambda shape: {"hook": held(shape)},
    "bfloat16": lambda shape: {"network_dtype": torch.bfloat16, "channels_last": True},
    "seeds": lambda shape: {"noise": NoiseStream(seeds=[4, 5, 6])},
}


@pytest.mark.parametrize("sampler", ["pc", "annealed_langevin"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SOME, ids=str)
def test_a_captured_run_has_the_bits_of_the_eager_run(shape, variant, sampler):
    kept: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    samples = {}
    for graph in (False, True):
        options = VARIANTS[variant](shape)
        note = lambda state, graph=graph: kept[graph].append(state.state_dict())
        samples[graph] = sampled(shape, sampler, cuda_graph=graph, callback=note, **options)
    assert torch.equal(samples[True], samples[False]) and samples[True].isfinite().all()
    for captured, eager in zip(kept[True], kept[False], strict=True):
        assert torch.equal(captured["x"], eager["x"]) and torch.equal(captured["x_mean"], eager["x_mean"])
        assert captured["noise"] == eager["noise"]
    options = {**VARIANTS[variant](shape), "noise": NoiseStream(99)}
    assert torch.equal(sampled(shape, sampler, cuda_graph=True, resume=kept[False][2], **options), samples[False])


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("sampler", ["pc", "annealed_langevin"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_sampling_loop_waits_for_the_device(variant, sampler, graph):
    """From the first iteration, which loads kernels or captures, to the last."""
    calls: list[int] = []

    def watch(state: tdas_ops.samplers.State) -> None:
        calls.append(state.iteration)
        torch.cuda.set_sync_debug_mode("default" if state.iteration == state.iterations else "error")

    try:
        sampled((3, 32, 32), sampler, cuda_graph=graph, callback=watch, **VARIANTS[variant]((3, 32, 32)))
        assert len(calls) == 6
        with pytest.raises(RuntimeError, match="synchron"):
            sampled((3, 32, 32), sampler, lambda x, level: score(x, level) * x.sum().sign().item(), callback=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_network_that_cannot_be_captured_is_one_sentence():
    network = lambda x, level: score(x, level) * x.sum().sign().item()
    noise, stream = NoiseStream(5), torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match=r"^cuda_graph: got a score function or hook that cannot be captured") as e:
        sampled((3, 32, 32), network=network, noise=noise, cuda_graph=True)
    assert "\n" not in str(e.value) and e.value.__cause__ is not None
    assert torch.cuda.current_stream() == stream
    assert noise.state_dict() == NoiseStream(5).state_dict()
    assert torch.equal(sampled((3, 32, 32), noise=noise, cuda_graph=True), sampled((3, 32, 32)))
