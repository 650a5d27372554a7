"""Filters, streams and states in the checkpoints of torch, and a filter as part of a model."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from conftest import make_problem

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, PreconditionerModule, Spectrum, samplers, sde
from tdas_ops.prior import Prior
from tests.unit.test_coloured import matrices

SHAPE = (2, 8, 6)


def through_a_file(value, **options):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True, **options)


def same(M: Preconditioner, other: Preconditioner) -> bool:
    masks = zip((M.freq, M.space, M.skew), (other.freq, other.space, other.skew), strict=True)
    about = (M.shape, M.method, M.provenance, M.device) == (other.shape, other.method, other.provenance, other.device)
    return about and all((a is None and b is None) or torch.equal(a, b) for a, b in masks)


FILTERS = {
    "pds": lambda: make_problem(1, SHAPE, space=False, skew=True).M,
    "both": lambda: make_problem(1, SHAPE, method="tdas").M,
    "matrices": matrices,
    "identity": lambda: Preconditioner.identity(SHAPE),
    "noise": lambda: Preconditioner.radial(lambda k: (k > 0.2).double(), SHAPE, "noise"),
}


@pytest.mark.parametrize("make", FILTERS.values(), ids=FILTERS)
def test_filters_load_without_pickle(make):
    M = make()
    for made in (
        through_a_file({"M": M})["M"],
        through_a_file(M, map_location="cpu"),
        Preconditioner.from_state_dict(through_a_file(M.state_dict())),
        pickle.loads(pickle.dumps(M)),
        copy.deepcopy(M),
    ):
        assert same(M, made)
        x = torch.zeros(1, *M.shape)
        assert torch.equal(tdas_ops.noise(made, x.shape, 3), tdas_ops.noise(M, x.shape, 3))


def test_streams_spectra_and_priors_load_without_pickle():
    z = NoiseStream(seeds=[(1 << 64) - 1, 3])
    z.randn((2, 3))
    images = torch.rand(16, *SHAPE)
    got = through_a_file({"z": z, "S": Spectrum.from_images(images), "prior": Prior.from_images(images, basis="pca")})
    assert torch.equal(got["z"].randn((2, 3)), z.randn((2, 3)))
    assert torch.equal(got["S"].matrices, Spectrum.from_images(images).matrices)
    start = lambda prior: prior.start(1.0, (2, *SHAPE), NoiseStream(0))
    assert torch.equal(start(got["prior"]), start(Prior.from_images(images, basis="pca")))


def test_the_state_of_a_run_loads_without_pickle():
    states = []
    run = lambda **o: samplers.dpmpp(
        lambda x, s: -x / (1 + s.reshape(-1, 1, 1, 1) ** 2),
        (2, *SHAPE), sde.VE(0.1, 5.0), noise=NoiseStream((1 << 64) - 1), evaluations=5, eta=1.0, progress=False, **o,
    )  # fmt: skip
    whole = run(callback=lambda state: states.append(state.state_dict()))
    assert torch.equal(run(resume=through_a_file(states[2])), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("freq"), "state: got the keys"),
        (lambda s: s.update(more=1), "state: got the keys"),
        (lambda s: s.update(method="colour"), "method: got 'colour', expected"),
        (lambda s: s.update(freq=s["freq"][:1]), "freq: got shape (1, 8, 4), expected (2, 8, 4)"),
        (lambda s: s.update(freq=-s["freq"]), "freq: got values down to"),
    ],
)
def test_a_state_that_makes_no_filter_is_refused(change, message):
    state = FILTERS["pds"]().state_dict()
    change(state)
    with pytest.raises(ValueError) as error:
        Preconditioner.from_state_dict(state)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="state: got list, expected a dict of"):
        Preconditioner.from_state_dict([])


def test_a_loaded_filter_is_checked():
    """A file is not believed: what it says goes through the constructor."""
    M = FILTERS["pds"]()
    M.freq.neg_()
    with pytest.raises(ValueError, match="freq: got values down to"):
        through_a_file(M)


def test_half_a_file_is_an_error():
    file = io.BytesIO()
    torch.save(FILTERS["pds"](), file)
    with pytest.raises(RuntimeError):
        torch.load(io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2]), weights_only=True)


@pytest.mark.parametrize("make", FILTERS.values(), ids=FILTERS)
def test_a_module_keeps_its_filter_in_checkpoints(make):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), PreconditionerModule(make()))
    state = through_a_file(model.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = torch.nn.Sequential(torch.nn.Linear(2, 2), PreconditionerModule(Preconditioner.identity((1, 4, 4))))
    other.load_state_dict(state)
    assert same(other[1].M, make())
    assert set(other.state_dict()) == set(state)
    assert same(copy.deepcopy(other)[1].M, make())


def test_a_module_follows_devices_and_no_dtype():
    module = PreconditionerModule(FILTERS["pds"]())
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), module).half()
    assert (
        model[0].weight.dtype is torch.float16
        and module.freq.dtype is torch.float64
        and module.about.dtype is torch.uint8
    )
    model.to("meta")
    assert module.freq.device.type == module.skew.device.type == module.M.device.type == "meta"
    model.to_empty(device="cpu")
    assert same(module.M, FILTERS["pds"]()) and torch.equal(module.freq, FILTERS["pds"]().freq)
    assert [name for name, _ in model.named_buffers()] == ["1.about", "1.freq", "1.skew"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("about"), 'Missing key(s) in state_dict: "about"'),
        (lambda s: s.update(about=torch.zeros(3, dtype=torch.uint8)), "about: got a state that makes no filter"),
        (lambda s: s.update(freq=s["freq"][:1]), "freq: got shape (1, 8, 4), expected (2, 8, 4)"),
    ],
)
def test_a_module_refuses_broken_states(change, message):
    module = PreconditionerModule(FILTERS["pds"]())
    state = dict(module.state_dict())
    change(state)
    with pytest.raises(RuntimeError) as error:
        module.load_state_dict(state)
    assert message in str(error.value)
    assert same(module.M, FILTERS["pds"]())


def test_a_module_takes_filters_alone():
    with pytest.raises(TypeError, match="M: got int, expected a Preconditioner"):
        PreconditionerModule(3)
    with pytest.raises(ValueError, match="M: got a provenance of other values"):
        PreconditionerModule(Preconditioner(SHAPE, provenance={"x": object()}))


def test_a_filter_that_is_put_into_a_module_is_the_one_it_saves() -> None:
    module, M = PreconditionerModule(Preconditioner.identity((3, 8, 8))), Preconditioner.identity((1, 2, 2), "tdas")
    module.M = M
    other = PreconditionerModule(Preconditioner.identity((3, 8, 8)))
    other.load_state_dict(module.state_dict())
    assert (other.M.shape, other.M.method) == (M.shape, M.method)
    with pytest.raises(TypeError, match="M: got int, expected a Preconditioner"):
        module.M = 3  # type: ignore[assignment]
    assert module.M is M


def test_a_strict_module_refuses_a_state_with_more() -> None:
    model = torch.nn.Sequential(PreconditionerModule(Preconditioner.identity((3, 8, 8))))
    more = {**model.state_dict(), "0.other": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0\.other"'):
        model.load_state_dict(more)
    assert model.load_state_dict(more, strict=False).unexpected_keys == ["0.other"]
