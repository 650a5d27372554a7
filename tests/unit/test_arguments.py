"""Arrays and numbers of other libraries, and files that hold something else: taken right or refused in one sentence."""

from __future__ import annotations

import io
import json
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import even, make_problem
from safetensors.torch import save_file

import tdas_ops
from tdas_ops import NoiseStream, Preconditioner, sde

SHAPE = (2, 5, 6)
R = even(torch.rand(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5)
WAVES = torch.hypot(torch.fft.fftfreq(5)[:, None], torch.fft.fftfreq(6)[None]).double()
STATISTIC = torch.exp(-3 * WAVES).repeat(2, 1, 1)  # as that of images: largest at frequency zero


def refused(message: str, call, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and "expected" in text and text.isprintable()


# Whole numbers, shapes, devices


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor, np.array, lambda n: np.array([n], dtype=object)[0]])
def test_whole_numbers_of_any_library(kind):
    stream = NoiseStream(kind(3), first_sample=kind(1), draw=kind(2))
    assert stream.state_dict() == {"seeds": [3], "per_sample": False, "first_sample": 1, "named": True, "draw": 2}
    assert json.loads(json.dumps(stream.state_dict())) == stream.state_dict()
    assert NoiseStream(seeds=[kind(3), kind(4)]).state_dict()["seeds"] == [3, 4]
    M = Preconditioner.identity([kind(2), kind(5), kind(6)])
    assert M.shape == SHAPE and all(type(n) is int for n in M.shape)
    assert tdas_ops.noise(M, [kind(3), *map(kind, SHAPE)], stream).shape == (3, *SHAPE)
    assert sde.VE().levels(kind(7)) == sde.VE().levels(7)


@pytest.mark.parametrize("seeds", [np.array([3, 4]), torch.tensor([3, 4]), range(3, 5), (s for s in (3, 4))])
def test_sequences_of_whole_numbers(seeds):
    assert NoiseStream(seeds=seeds).state_dict()["seeds"] == [3, 4]


def test_seeds_of_64_bits_keep_them():
    assert NoiseStream(np.uint64((1 << 64) - 1)).state_dict()["seeds"] == [(1 << 64) - 1]


def test_a_shape_of_numpy_serves_every_op():
    assert Preconditioner.identity(np.array(SHAPE)).shape == SHAPE
    assert Preconditioner.radial(lambda k: 1 / (k + 1), np.array(SHAPE)).shape == SHAPE


@pytest.mark.parametrize("value", [1.5, "1", True, np.True_, torch.tensor(True), np.zeros((2, 40)), [3], 1j], ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    refused("seed: got", lambda: NoiseStream(value))
    refused("seed: got|seeds: got", lambda: NoiseStream(seeds=[value]))
    refused("draw: got", lambda: NoiseStream(1, draw=value))
    refused("iterations: got", lambda: sde.VP().levels(value))
    refused("shape: got", lambda: Preconditioner.identity((1, value, 4)))
    refused("shape: got", lambda: tdas_ops.noise(make_problem().M, (value, 2, 6, 5), NoiseStream(1)))


def test_whole_numbers_of_more_digits_than_python_prints():
    refused("seed: got int", lambda: NoiseStream(10**5000))
    refused("shape: got", lambda: Preconditioner.identity((1, 10**5000, 4)))


@pytest.mark.parametrize("shape", [3, None, "345", (), (2, 5), (2, 0, 6), (1, 1 << 20, 1 << 20)], ids=str)
def test_what_is_no_shape_is_refused(shape):
    refused("shape: got", lambda: Preconditioner.identity(shape))
    refused("shape: got", lambda: tdas_ops.noise(make_problem().M, shape, NoiseStream(1)))


def test_sdes_compute_in_float64_whatever_they_are_given():
    given = sde.VE(np.float32(0.01), np.float32(50), np.int32(1000), np.float64(1e-5))
    assert given.levels(10) == sde.VE(float(np.float32(0.01))).levels(10)
    assert all(type(n) is float for n in (given.sigma_min, given.sigma_max, *given.levels(10)[3].reverse))
    refused("sigma_max: got str", lambda: sde.VE(sigma_max="50"), TypeError)
    refused("end_time: got list", lambda: sde.VP().levels(100, [1e-3]), TypeError)
    refused(r"native_iterations: got 0.5", lambda: sde.VP(native_iterations=0.5))


@pytest.mark.parametrize("device", ["nope", "cuda:99", 3.5])
def test_devices_that_are_not_there(device):
    error = TypeError if device == 3.5 else ValueError
    for call in (
        lambda: NoiseStream(1, device=device),
        lambda: Preconditioner.identity(SHAPE).to(device),
        lambda: Preconditioner(SHAPE, device=device),
    ):
        refused("device: got", call, error)


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {"seeds": [1]},
        {"seeds": [], "per_sample": False, "first_sample": 0, "draw": 0},
        {"seeds": 3, "per_sample": True, "first_sample": 0, "draw": 0},
        {"seeds": [1, 2], "per_sample": False, "first_sample": 0, "draw": 0},
        {"seeds": [1], "per_sample": "no", "first_sample": 0, "draw": 0},
        {"seeds": [1], "per_sample": False, "first_sample": 0, "draw": None},
    ],
    ids=str,
)
def test_states_that_are_none_change_no_stream(state):
    stream = NoiseStream(5, draw=3)
    before = stream.state_dict()
    refused("got", lambda: stream.load_state_dict(state))
    assert stream.state_dict() == before


def test_a_refused_batch_leaves_the_stream_as_it_was():
    stream = NoiseStream(seeds=[1, 2])
    refused("2 seeds", lambda: stream.arguments(3, torch.device("meta")))
    assert stream.seeds.device.type == "cpu"
    assert stream.arguments(2, torch.device("cpu"))[0] is stream.seeds


# Masks and statistics


def wide(mask: torch.Tensor) -> np.ndarray:
    return np.repeat(mask.numpy(), 2, axis=-1)[..., ::2]


LAYOUTS = {
    "Fortran": lambda m: np.asfortranarray(m.numpy()),
    "transposed": lambda m: m.mT.contiguous().mT,
    "expanded": lambda m: m[:1].expand(2, -1, -1),
    "reversed": lambda m: m.flip(-1).numpy()[..., ::-1],
    "strided": wide,
    "big-endian": lambda m: m.numpy().astype(">f8"),
    "long double": lambda m: m.numpy().astype(np.longdouble),
    "negated view": lambda m: torch._neg_view(-m),
    "parameter": torch.nn.Parameter,
    "channels last": lambda m: m[None].contiguous(memory_format=torch.channels_last),
    "[1, C, H, W]": lambda m: m.numpy()[None],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_of_any_layout_are_the_same_mask(layout, tmp_path):
    mask = R[:1].repeat(2, 1, 1)
    given = LAYOUTS[layout](mask)
    for M in (Preconditioner.from_masks(given, given), Preconditioner.from_masks(freq=given, shape=SHAPE)):
        assert torch.equal(M.freq, mask[..., :4])
        assert M.freq.is_contiguous() and all(m is None or m.is_contiguous() for m in M.masks(torch.float32))
        v = torch.randn(2, *SHAPE)
        expected = Preconditioner.from_masks(mask, None if M.space is None else mask)
        assert torch.equal(tdas_ops.precondition(v, M), tdas_ops.precondition(v, expected))
        assert tdas_ops.precondition(v.double(), M).isfinite().all()
        M.save(tmp_path / "m.safetensors")
        assert torch.equal(Preconditioner.load(tmp_path / "m.safetensors").freq, M.freq)


@pytest.mark.parametrize("given", [np.ones(SHAPE), torch.ones(SHAPE, dtype=torch.float64)], ids=["array", "tensor"])
def test_masks_share_no_memory_with_what_they_were_made_of(given):
    M, plain = Preconditioner.from_masks(given, given), Preconditioner(SHAPE, space=given)
    given *= 5
    assert (M.freq == 1).all() and (M.space == 1).all() and (plain.space == 1).all()
    assert (M.masks(torch.float32)[1] == 1).all()


def test_read_only_arrays_are_taken_without_a_warning(recwarn):
    mask = np.ones(SHAPE)
    mask.flags.writeable = False
    assert (Preconditioner.from_masks(mask).freq == 1).all()
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [np.float32, ">f4", np.int32, np.uint8])
def test_statistics_may_be_arrays_of_any_real_dtype(dtype, tmp_path):
    statistic = (200 * STATISTIC).numpy().astype(dtype)
    expected = Preconditioner.from_statistics(torch.from_numpy(statistic.astype(np.float64)), None)
    np.save(tmp_path / "f.npy", statistic)
    np.save(tmp_path / "pds.npy", statistic[None])  # as PDS writes them
    for M in (
        Preconditioner.from_statistics(statistic, None),
        Preconditioner.from_statistics(statistic[None], None),
        Preconditioner.from_masks(tmp_path / "f.npy"),
        Preconditioner.from_masks(tmp_path / "pds.npy"),
    ):
        assert torch.equal(M.freq, expected.freq)


def test_alpha_of_numpy_can_be_saved(tmp_path):
    Preconditioner.from_statistics(STATISTIC, None, np.float32(5)).save(tmp_path / "m.safetensors")
    assert Preconditioner.load(tmp_path / "m.safetensors").provenance == {"alpha": 5.0}


BAD_VALUES = {
    "complex tensor": (TypeError, "freq: got torch.complex128", R + 0j),
    "complex array": (TypeError, "freq: got complex128", R.numpy() + 0j),
    "truth values": (TypeError, "freq: got torch.bool", R > 1),
    "text": (TypeError, "freq: got <U1", np.array(["a"])),
    "objects": (TypeError, "freq: got object", np.array([{}])),
    "masked": (TypeError, "freq: got an array with masked values", np.ma.masked_less(R.numpy(), 1)),
    "sparse": (TypeError, "freq: got a tensor of layout torch.sparse_coo", R.to_sparse()),
    "no values": (TypeError, "freq: got a tensor of layout torch.strided on meta", R.to("meta")),
    "a list": (TypeError, "freq: got list", [[1.0]]),
    "a number": (TypeError, "freq: got float", 1.0),
    "scalar": (ValueError, r"got .*\(\)", np.float64(1)),
    "row": (ValueError, "got", np.ones(6)),
    "empty": (ValueError, r"got .*\(0, 5, 6\)", np.ones((0, 5, 6))),
    "too many axes": (ValueError, "got", np.ones((2, *SHAPE))),
    "NaN": (ValueError, "got", R * torch.nan),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_what_is_no_array_of_numbers_is_refused(case):
    error, message, values = BAD_VALUES[case]
    refused(message, lambda: Preconditioner.from_statistics(values, None), error)
    refused(message, lambda: Preconditioner.from_masks(values, shape=SHAPE), error)
    refused(message, lambda: Preconditioner.from_masks(values), error)
    refused(message.replace("freq", "space"), lambda: Preconditioner(SHAPE, space=values), error)
    refused(message.replace("freq", "profile|freq"), lambda: Preconditioner.radial(lambda k: values, SHAPE), error)


def test_masks_are_checked_in_the_dtype_that_uses_them():
    stream, x = NoiseStream(1), torch.zeros(1, *SHAPE)
    for factor, bad in ((1e39, True), (1e-60, True), (1e30, False), (1e-30, False)):
        M = Preconditioner.from_masks(R * factor)
        double = tdas_ops.noise(M, x.shape, NoiseStream(1), dtype=torch.float64)
        assert double.isfinite().all() and double.abs().max() > 1e-3 * factor
        if not bad:
            assert tdas_ops.noise(M, x.shape, stream).isfinite().all()
            continue
        before, out, generator = stream.state_dict(), torch.full_like(x, 7.0), torch.Generator().manual_seed(1)
        rule = r"M: got freq with values from .* expected 1.18e-38 to 3.4e\+38 for float32 \(float64 holds more\)"
        refused(rule, lambda M=M, out=out: tdas_ops.step(x, x, M, 0.1, noise=stream, out=out))
        refused(rule, lambda M=M: tdas_ops.noise(M, x.shape, generator))  # noqa: B023
        refused(rule, lambda M=M: tdas_ops.precondition(x, M))
        assert stream.state_dict() == before and (out == 7.0).all()
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())
    fading = Preconditioner.from_masks(R * 1e-60, method=None)  # a filter may have zeros
    assert (tdas_ops.noise(fading, x.shape, stream) == 0).all()


# A statistic whose frequency zero is elsewhere


def test_shifted_statistics_are_refused(tmp_path):
    shifted = torch.fft.fftshift(STATISTIC, dim=(-2, -1))
    np.save(tmp_path / "f.npy", shifted.numpy())
    rule = r"largest value is at \(2, 3\) .* expected it at frequency zero, \(0, 0\) \(numpy.fft.ifftshift\(f, axes="
    refused(rule, lambda: Preconditioner.from_statistics(shifted, None))
    refused(rule, lambda: Preconditioner.from_masks(tmp_path / "f.npy"))
    undone = np.fft.ifftshift(shifted.numpy(), axes=(-2, -1))
    assert torch.equal(
        Preconditioner.from_statistics(undone, None).freq, Preconditioner.from_statistics(STATISTIC, None).freq
    )


def test_a_statistic_without_a_mean_has_its_largest_value_elsewhere(tmp_path):
    """Of centred data, which only the convention of files excludes."""
    centred = STATISTIC.clone()
    centred[:, 0, 0] = 0.1
    assert Preconditioner.from_statistics(centred, None).freq is not None
    np.save(tmp_path / "f.npy", centred.numpy())
    refused(r"largest value is at \(0, 1\)", lambda: Preconditioner.from_masks(tmp_path / "f.npy"))


# Files


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def other_files() -> dict[str, bytes]:
    archive, pickled = io.BytesIO(), io.BytesIO()
    np.savez(archive, R.numpy())
    torch.save(R, pickled)
    return {
        "empty": b"",
        "text": b"0.1 0.2\n0.3",
        "html": b"<!DOCTYPE html>\n<p>404</p>",
        "npz": archive.getvalue(),
        "pt": pickled.getvalue(),
        "pickle": b"\x80\x04K\x01.",
        "truncated": npy(R.numpy())[:-8],
        "header alone": npy(R.numpy())[:40],
        "huge": npy(R.numpy()).replace(b"(2, 5, 6)", b"(2, 5, 9" + b"9" * 12 + b")"),
        "complex": npy(R.numpy() + 0j),
        "objects": npy(np.array([{}], dtype=object)),
        "text array": npy(np.array(["a"])),
        "terminal": b"\x1b[31m",
    }


@pytest.mark.parametrize("kind", other_files())
def test_files_that_are_no_statistic(kind, tmp_path):
    path = tmp_path / "a\x1b[2J.npy"
    path.write_bytes(other_files()[kind])
    refused(r"freq: got '.*a\\x1b\[2J.npy' \(.*\), expected a .npy file", lambda: Preconditioner.from_masks(path))
    assert path.read_bytes() == other_files()[kind]


def test_paths_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "pipe", "a\0b"):
        refused("freq: got .* which is no file", lambda path=path: Preconditioner.from_masks(path))
        refused("path: got .* which is no file", lambda path=path: Preconditioner.load(path))
    refused("path: got int", lambda: Preconditioner.load(3), TypeError)


ABOUT = {"format": "tdas_ops.Preconditioner/1", "shape": "[2, 5, 6]", "method": '"pds"', "provenance": "{}"}
BAD_METADATA = [
    {"format": "other"}, {"format": None}, {"shape": None}, {"shape": "[2, 5]"}, {"shape": "3"}, {"shape": '"abc"'},
    {"shape": "[2, 5, 6.0]"}, {"shape": "[2, 5, 7]"}, {"shape": "[2, 5, true]"}, {"shape": "[2, 5, -6]"},
    {"shape": "{}"}, {"shape": "["}, {"shape": "[" * 100_000}, {"shape": f"[2, 5, {'9' * 5000}]"}, {"method": None},
    {"method": "[]"}, {"method": '"best"'}, {"provenance": "3"}, {"provenance": None}, {"provenance": "[" * 100_000},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD_METADATA, ids=lambda change: str(change)[:30])
def test_metadata_of_no_preconditioner(change, tmp_path):
    about = {name: value for name, value in (ABOUT | change).items() if value is not None}
    save_file({"space": torch.ones(SHAPE)}, tmp_path / "m.safetensors", metadata=about)
    refused("expected a saved Preconditioner", lambda: Preconditioner.load(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    "tensors",
    [
        {"space": torch.ones(2, 5, 7)},
        {"space": -torch.ones(SHAPE)},
        {"space": torch.ones(SHAPE).long()},
        {"freq": torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))},
        {"spaces": torch.ones(SHAPE)},
        {"self": torch.ones(SHAPE)},
        {"device": torch.ones(SHAPE)},
    ],
    ids=["other width", "negative", "whole", "asymmetric", "spaces", "self", "device"],
)
def test_tensors_of_no_preconditioner(tensors, tmp_path):
    save_file(tensors, tmp_path / "m.safetensors", metadata=ABOUT)
    refused("expected a saved Preconditioner", lambda: Preconditioner.load(tmp_path / "m.safetensors"))


def test_broken_files_of_a_preconditioner(tmp_path):
    make_problem().M.save(tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    path = tmp_path / "broken"
    for content in (b"", whole[:4], whole[:40], whole[:-1], b"\xff" * 8 + whole[8:], *other_files().values()):
        path.write_bytes(content)
        refused("expected a saved Preconditioner", lambda: Preconditioner.load(path))


def test_a_provenance_that_json_does_not_know(tmp_path):
    M = Preconditioner(SHAPE, provenance={"images": {1, 2}})
    refused("provenance: got {'images': {1, 2}}", lambda: M.save(tmp_path / "m.safetensors"))
    assert not (tmp_path / "m.safetensors").exists()


def test_strengths_of_any_library():
    for alpha in (Fraction(5), np.float64(5), torch.tensor(5.0), 5):
        M = Preconditioner.from_statistics(STATISTIC, None, alpha)
        assert torch.equal(M.freq, Preconditioner.from_statistics(STATISTIC, None, 5.0).freq)
    for alpha in ("5", 5j, [5], None, True, np.array([5.0])):
        refused("alpha: got", lambda alpha=alpha: Preconditioner.from_statistics(STATISTIC, None, alpha), TypeError)
    refused("alpha: got inf", lambda: Preconditioner.from_statistics(STATISTIC, None, 10**400))
