"""Samplers whose iterations are captured in a graph (a fake one: `fake_cuda_graph.py`), what the network receives, and
that no sampling loop waits for the device."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import make_problem
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, samplers
from tdas_ops.samplers import _run
from tdas_ops.sde import VE, VP, SubVP
from tests.unit import fake_cuda_graph

# Random masks reach further than a network would bear, which pc says; tests/unit/test_filter_check.py has its words.
pytestmark = pytest.mark.filterwarnings("ignore:M. got a 'pds' filter that takes a predictor step:RuntimeWarning")

SHAPE = (3, 2, 4, 5)
VES, VPS = VE(0.01, 8.0), VP(native_iterations=40)


def score(x: Tensor, level: Tensor) -> Tensor:
    s = level.reshape(-1, 1, 1, 1)
    return torch.tanh(x.roll(1, -1) - 1.3 * x) / (0.3 + s) - 0.1 * x


def filters(length: int, **options) -> list[Preconditioner]:
    return [make_problem(1, SHAPE[1:], seed=i, **options).M for i in range(length)]


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(_run, "_check_device", lambda device: None)
    return fake_cuda_graph.install(monkeypatch)


def held() -> samplers.Hook:
    mask = torch.zeros(SHAPE[1:])
    mask[..., :2] = 1
    return samplers.inpaint(torch.linspace(0, 1, 40).reshape(2, 4, 5), mask)


def pc(sde=VES, iterations=8, M=None, **options) -> Tensor:
    defaults = {"noise": NoiseStream(5), "progress": False}
    M = filters(1)[0] if M is None else M
    return samplers.pc(options.pop("network", score), SHAPE, sde, M, iterations=iterations, **(defaults | options))


def langevin(M=None, sigmas=(4.0, 2.0, 1.0, 0.5), **options) -> Tensor:
    defaults = {"noise": NoiseStream(5), "step_size": 1e-3, "steps": 2, "progress": False}
    M = filters(1)[0] if M is None else M
    return samplers.annealed_langevin(options.pop("network", score), SHAPE, sigmas, M, **(defaults | options))


def few(sampler, sde=VES, evaluations=5, M=None, **options) -> Tensor:
    defaults = {"noise": NoiseStream(5), "progress": False}
    M = filters(1)[0] if M is None else M
    return sampler(options.pop("network", score), SHAPE, sde, M, evaluations=evaluations, **(defaults | options))


def ancestral(**options) -> Tensor:
    return few(samplers.ancestral, **options)


def dpmpp(**options) -> Tensor:
    return few(samplers.dpmpp, **{"order": 3, "eta": 0.5} | options)


def heun(**options) -> Tensor:
    return few(samplers.heun, **{"evaluations": 9, "s_churn": 2.0} | options)


def flow(**options) -> Tensor:
    return few(samplers.probability_flow, **options)


SAMPLERS = [pc, langevin, ancestral, dpmpp, heun, flow]

RUNS = {
    "VE": lambda **o: pc(**o),
    "VP": lambda **o: pc(VPS, 25, **o),
    "sub-VP": lambda **o: pc(SubVP(), 25, predictor="euler_maruyama", norm="sample", **o),
    "correctors alone": lambda **o: pc(predictor=None, corrector_steps=2, **o),
    "predictors alone": lambda **o: pc(corrector_steps=0, denoise=False, **o),
    "tdas": lambda **o: pc(M=filters(1, method="tdas", space=False)[0], **o),
    "a filter for each iteration": lambda **o: pc(M=filters(8), **o),
    "the same filter for some": lambda **o: pc(M=[*filters(2), *filters(2), *filters(1) * 4], **o),
    "inpainting": lambda **o: pc(hook=held(), **o),
    "inpainting, VP": lambda **o: pc(VPS, 25, hook=held(), corrector_steps=2, network_dtype=torch.bfloat16, **o),
    "bfloat16": lambda **o: pc(network_dtype=torch.bfloat16, channels_last=True, **o),
    "seeds": lambda **o: pc(**o | {"noise": NoiseStream(seeds=[3, 1, 2])}),
    "start": lambda **o: pc(start=torch.ones(SHAPE).contiguous(memory_format=torch.channels_last), **o),
    "Langevin": lambda **o: langevin(**o),
    "Langevin, ncsn": lambda **o: langevin(rule="ncsn", M=filters(4), **o),
    "Langevin, inpainting": lambda **o: langevin(hook=held(), network_dtype=torch.float16, **o),
    "correctors of the noise level": lambda **o: pc(VPS, 25, corrector="ald", predictor="ancestral", **o),
    "ancestral": ancestral,
    "ancestral, VP": lambda **o: ancestral(sde=VPS, M=filters(5), **o),
    "dpmpp": dpmpp,
    "dpmpp, ODE, sub-VP": lambda **o: dpmpp(sde=SubVP(), eta=0.0, hook=held(), network_dtype=torch.bfloat16, **o),
    "dpmpp, order 1": lambda **o: dpmpp(order=1, ladder=[4.0, 2.0, 1.0], evaluations=None, **o),
    "heun": heun,
    "heun, VP, inpainting": lambda **o: heun(sde=VPS, hook=held(), channels_last=True, **o),
    "heun, to sigma_min": lambda **o: heun(ladder=[4.0, 1.0, 0.5], evaluations=None, network_dtype=torch.bfloat16, **o),
    "flow": flow,
    "flow, churn": lambda **o: flow(s_churn=3.0, **o | {"noise": NoiseStream(seeds=[3, 1, 2])}),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_a_graph_gives_the_bits_of_the_eager_run(graphs, run):
    """Samples, every state on the way, and where the stream stands."""
    seen: dict[bool, list] = {False: [], True: []}
    samples = {
        graph: run(cuda_graph=graph, callback=lambda s, graph=graph: seen[graph].append(s.state_dict()))
        for graph in (False, True)
    }
    assert torch.equal(samples[True], samples[False]) and samples[True].isfinite().all()
    # Heun's last step to 0 is of another kind, and eager.
    assert len(graphs) == 1 and len(seen[True]) - graphs[0].replays in (0, 1) and len(seen[True]) == len(seen[False])
    for captured, eager in zip(seen[True], seen[False], strict=True):
        assert torch.equal(captured.pop("x"), eager.pop("x"))
        assert torch.equal(captured.pop("x_mean"), eager.pop("x_mean"))
        assert all(map(torch.equal, captured.pop("history"), eager.pop("history")))
        assert captured == eager


def test_what_reads_python_numbers_is_wrong_in_a_graph(graphs):
    """The fake graph shows what a real one would do to a number that differs between iterations."""
    counter = iter(range(100))
    stale = lambda x, level: score(x, level) + 0.01 * next(counter)
    assert not torch.equal(pc(network=stale, cuda_graph=True), pc(network=stale))
    hook = lambda x, x_mean, level, noise: (x + 0 * level.std, x_mean)
    assert torch.equal(pc(hook=hook, cuda_graph=True), pc(hook=hook))
    hook = lambda x, x_mean, level, noise: (x + 0.01 * next(counter), x_mean)
    assert not torch.equal(pc(hook=hook, cuda_graph=True), pc(hook=hook))


def test_a_graph_that_keeps_its_first_coefficients_is_wrong(graphs, monkeypatch):
    expected = pc()
    monkeypatch.setattr(_run.Captured, "__call__", lambda self, *a: self._graph.replay() or self._x_mean)
    assert not torch.equal(pc(cuda_graph=True), expected)


@pytest.mark.parametrize("run", SAMPLERS)
@pytest.mark.parametrize("stop", [1, 3])
def test_runs_are_resumed_with_and_without_a_graph(graphs, run, stop):
    for first, second in ((True, False), (False, True), (True, True)):
        states: list[dict] = []
        expected = run(cuda_graph=first, callback=lambda s, states=states: states.append(s.state_dict()))
        noise = NoiseStream(99)
        assert torch.equal(run(cuda_graph=second, resume=states[stop - 1], noise=noise), expected)
        assert torch.equal(run(cuda_graph=second, resume=states[-1], noise=noise), expected)
        assert noise.state_dict() == states[-1]["noise"]


def test_a_network_with_dropout_draws_anew_in_every_replay(graphs):
    dropout = torch.nn.Dropout(0.5)
    results = []
    for graph in (False, True):
        torch.manual_seed(1)
        results.append(pc(network=lambda x, level: dropout(score(x, level)), cuda_graph=graph))
    assert torch.equal(*results)


def test_check_finite_names_the_iteration_in_a_graph(graphs):
    broken = lambda x, level: score(x, level) * torch.where(level > 1, 1.0, math.nan).reshape(-1, 1, 1, 1)
    messages = []
    for graph in (False, True):
        with pytest.raises(FloatingPointError) as caught:
            pc(network=broken, cuda_graph=graph, check_finite=True)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and messages[0].startswith("iteration 4 of 8: got non-finite values")


CANNOT = {
    "a read": lambda x, level: score(x, level) * x.sum().sign().item(),
    "a branch": lambda x, level: score(x, level) if x.sum() > 0 else -x,
}


@pytest.mark.parametrize("network", CANNOT.values(), ids=CANNOT.keys())
@pytest.mark.parametrize("start", [None, torch.ones(SHAPE)], ids=["drawn", "given"])
def test_what_cannot_be_captured_is_one_sentence_and_changes_nothing(graphs, network, start):
    noise, stream = NoiseStream(5), torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match=r"^cuda_graph: got a score function or hook that cannot be captured "
                       r"\(operation not permitted when stream is capturing\), expected one") as caught:  # fmt: skip
        pc(network=network, start=start, noise=noise, cuda_graph=True)
    assert "\n" not in str(caught.value) and str(caught.value.__cause__).startswith("operation not permitted")
    assert torch.cuda.current_stream() is stream
    assert noise.state_dict() == NoiseStream(5).state_dict()
    assert torch.equal(pc(network=network, start=start, noise=noise), pc(network=network, start=start))


def test_an_error_of_the_network_stays_what_it_is(graphs):
    noise, stream = NoiseStream(5), torch.cuda.current_stream()
    with pytest.raises(ZeroDivisionError):
        pc(network=lambda x, level: 1 / 0, noise=noise, cuda_graph=True)
    assert torch.cuda.current_stream() is stream
    assert noise.state_dict() == NoiseStream(5).state_dict()


def test_where_there_are_no_graphs():
    calls: list[int] = []
    for run in SAMPLERS:
        with pytest.raises(ValueError, match=r"^cuda_graph: got True with M on cpu, expected M on a CUDA device"):
            run(network=lambda x, level: calls.append(1), cuda_graph=True)
    assert not calls


def test_filters_with_different_masks_absent_cannot_share_a_graph(graphs):
    M = [*filters(7), *filters(1, space=False)]
    with pytest.raises(ValueError, match=r"^M: got preconditioners with masks of different kinds, expected the same"):
        pc(M=M, cuda_graph=True)
    assert pc(M=M).isfinite().all()


# What the network receives


@pytest.mark.parametrize("run", SAMPLERS)
@pytest.mark.parametrize("hook", [None, held()], ids=["plain", "hook"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_the_network_receives_x_rounded_by_the_update(run, dtype, channels_last, hook, monkeypatch):
    """The same bits as a network that rounds x itself; no pass of the sampler's own does it, but for a hook's x."""
    given: list[Tensor] = []

    def watched(x, level):
        assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert level.dtype is torch.float32
        given.append(x)
        return score(x.float(), level).contiguous()

    casts: list[bool] = []
    real = tdas_ops.ops.step
    monkeypatch.setattr(tdas_ops.ops, "step", lambda *a, **k: casts.append(k["cast"] is not None) or real(*a, **k))
    options: dict = {"network_dtype": dtype, "channels_last": channels_last, "hook": hook}
    got = run(network=watched, **options)
    rounded = lambda x, level: score(x.to(dtype or x.dtype).float(), level)
    assert torch.equal(got, run(network=rounded, hook=hook))
    own = dtype in (torch.bfloat16, torch.float16) or channels_last
    assert {x.dtype for x in given} == {dtype or torch.float32}
    assert len({x.data_ptr() for x in given}) == 1
    # Heun looks at a point between two steps, which no hook sees.
    assert set(casts[: len(casts) // 2]) == {own and hook is None} | ({own} if run is heun else set())


def test_a_network_that_reads_whole_numbers_is_refused():
    with pytest.raises(TypeError, match=r"^network_dtype: got torch.int32, expected float32, bfloat16 or float16"):
        pc(network_dtype=torch.int32)


def test_a_float64_run_with_a_network_in_bfloat16():
    start = torch.ones(SHAPE, dtype=torch.float64)
    got = pc(start=start, network_dtype=torch.bfloat16, network=lambda x, level: score(x.double(), level))
    assert got.dtype is torch.float64
    assert torch.equal(got, pc(start=start, network=lambda x, level: score(x.bfloat16().double(), level)))


# No loop waits for the device


class Apart(TorchDispatchMode):
    """Refuses copies between devices, which wait for the one they come from."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        copies = op._schema.name in ("aten::_to_copy", "aten::copy_")
        if len({t.device for t in fake_cuda_graph.tensors((args, kwargs, result)) if copies or t.dim()}) > 1:
            raise AssertionError(f"{op} waits for the device")
        return result


@pytest.fixture
def nowhere(monkeypatch):
    """Runs on the device meta, where a tensor has no values to read."""
    real = _run.Run.loop

    def loop(*args):
        with Apart():
            real(*args)

    monkeypatch.setattr(_run.Run, "loop", loop)
    return {"M": filters(1)[0].to("meta"), "noise": NoiseStream(5, device="meta")}


@pytest.mark.parametrize(
    "run",
    [
        *("VE", "VP", "sub-VP", "correctors alone", "bfloat16", "Langevin", "correctors of the noise level"),
        *("ancestral", "dpmpp", "heun", "flow", "flow, churn"),
    ],
)
@pytest.mark.parametrize("hook", [False, True])
def test_no_loop_waits_for_the_device(nowhere, run, hook):
    if hook:
        nowhere["hook"] = samplers.inpaint(*torch.ones(2, *SHAPE[1:], device="meta"))
    states = []
    x = RUNS[run](**nowhere, callback=states.append)
    assert x.device.type == "meta" and len(states) > 3


MISTAKES = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "float": lambda x: float(x.sum()),
    "tolist": lambda x: x.flatten().tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: torch.tensor(1.0).to(x.device),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "numpy": lambda x: x.numpy(),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_planted_waits_are_found(nowhere, mistake, monkeypatch):
    real = _run.Run.hooked

    def hooked(self, x_mean, level):
        mistake(self.x)
        return real(self, x_mean, level)

    monkeypatch.setattr(_run.Run, "hooked", hooked)
    for run in SAMPLERS:
        with pytest.raises((RuntimeError, TypeError, AssertionError), match=r"meta|waits for the device"):
            run(**nowhere)


def test_check_finite_is_the_wait_that_was_asked_for(nowhere):
    with pytest.raises(RuntimeError, match="meta"):
        pc(**nowhere, check_finite=True)
