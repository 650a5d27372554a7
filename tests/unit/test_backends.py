"""Which backend serves an op: choices, what a GPU takes whole, what is refused or said when something is missing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import tdas_ops
from tdas_ops import _backends, _extension, _remedy, _schema


def test_backend_choice():
    info = tdas_ops.backend_info()
    assert "reference" in info["available"]
    assert info["paths"]["cpu"].keys() == set(_schema.SCHEMAS)
    with tdas_ops.use_backend("reference"):
        assert tdas_ops.backend_info()["paths"]["cpu"]["normals"] == "reference"
        assert tdas_ops.backend_info()["chosen"] == "reference"
    assert tdas_ops.backend_info() == info
    with (
        pytest.raises(ValueError, match="got 'turbo', expected one of reference, cpp, triton, cuda"),
        tdas_ops.use_backend("turbo"),
    ):
        pass
    if "cuda" not in info["available"]:
        with (
            pytest.raises(ValueError, match="got 'cuda', expected a backend that is available here"),
            tdas_ops.use_backend("cuda"),
        ):
            pass
    assert tdas_ops.backend_info() == info
    if "triton" in info["available"]:
        meta = torch.empty(1, device="meta")
        with (
            tdas_ops.use_backend("triton"),
            pytest.raises(ValueError, match="'triton' was chosen explicitly and does not run on device type 'meta'"),
        ):
            tdas_ops._backends.kernel("step", meta, None)


@pytest.fixture
def gpu(monkeypatch):
    """Tensors on a GPU that is not there, for which the extension has kernels."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(_backends, "_INSTALLED", _schema.BACKENDS)
    monkeypatch.setattr(_backends, "_triton_failure", lambda: None)
    _backends._fill()
    with FakeTensorMode():
        yield lambda height, width: torch.empty(2, 3, height, width, device="cuda")
    monkeypatch.undo()
    _backends._fill()


def test_a_gpu_takes_its_fused_kernels_by_masks_and_size(gpu):
    chosen = lambda op, x, *masks: _backends.kernel(op, x, *masks).name()
    mask = torch.empty(1)
    for op in ("noise", "precondition", "step", "langevin_step"):
        fused, composed, norms = f"tdas_ops::{op}.cuda", f"tdas_ops::{op}.triton", op == "langevin_step"
        assert chosen(op, gpu(64, 128), mask) == fused
        assert chosen(op, gpu(32, 2048), mask) == fused
        assert chosen(op, gpu(64, 128), mask, None, mask) == fused
        assert chosen(op, gpu(64, 128), mask, mask, mask) == (composed if norms else fused)
        assert chosen(op, gpu(7, 5), None, mask) == fused
        assert chosen(op, gpu(64, 128), None, None, mask) == composed
        assert chosen(op, gpu(48, 64), mask) == composed
        assert chosen(op, gpu(64, 4096), mask) == composed
    assert chosen("normals", gpu(64, 64), None) == "tdas_ops::normals.cuda"


def test_backend_info_says_which_planes_a_gpu_takes_whole(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    paths = tdas_ops.backend_info()["paths"]["cuda"]
    fused = "fused for H and W powers of two from 32 to 2048"
    others = "; pixels alone without a frequency mask; torch.fft, triton kernels otherwise; torch.fft"
    assert paths["step"] == f"{fused}{others}, triton noise for R as matrices"
    in_one = ", in one launch where H = W up to 128, R is the one mask and the device holds all planes"
    assert paths["langevin_step"] == f"{fused}{in_one}{others}, triton noise for R as matrices"
    assert paths["precondition"] == f"{fused}{others} for R as matrices"
    assert paths["normals"] == "cuda"


@pytest.mark.filterwarnings("ignore::tdas_ops.SlowPathWarning")  # tests/unit/test_installation.py has its words
def test_a_gpu_without_a_fused_kernel_takes_triton_where_it_works(gpu, monkeypatch):
    chosen = lambda op, x, *masks: _backends.kernel(op, x, *masks).name().split(".")[1]
    mask, x, ops = torch.empty(1), gpu(48, 64), ("noise", "precondition", "step", "langevin_step")
    assert {chosen(op, x, mask) for op in ops} == {"triton"}
    assert {chosen(op, torch.empty(1, 1, 1 << 15, 1 << 16, device="cuda"), mask) for op in ops} == {"cuda_fft"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with tdas_ops.use_backend("triton"):
        assert {chosen(op, y, mask) for op in ops for y in (x, gpu(64, 64))} == {"triton"}
    monkeypatch.setattr(_backends, "_check", lambda backend, source: None)
    with tdas_ops.use_backend("cuda"):
        assert {chosen(op, x, mask) for op in ops} == {"cuda_fft"}
    monkeypatch.setattr(_backends, "_triton_failure", lambda: "no compiler")
    assert {chosen(op, x, mask) for op in ops} == {"cuda_fft"}
    assert chosen("step", gpu(64, 64), mask) == "cuda"
    info = tdas_ops.backend_info()
    assert info["missing"]["triton"] == "no compiler"
    assert info["paths"]["cuda"]["step"].endswith("torch.fft, cuda noise otherwise")
    monkeypatch.setattr(_backends, "_INSTALLED", ("reference", "triton"))  # the package without its extension
    _backends._fill()
    assert {chosen(op, y, mask) for op in ops for y in (x, gpu(64, 64))} == {"reference"}
    monkeypatch.setattr(_backends, "_triton_failure", lambda: None)
    assert {chosen(op, y, mask) for op in ops for y in (x, gpu(64, 64))} == {"triton"}


def test_a_triton_that_is_too_old_or_broken_is_named_in_one_sentence(monkeypatch):
    triton = pytest.importorskip("triton")
    failure = _backends._triton_failure.__wrapped__
    assert failure() is None or not _backends._INTERPRETED
    monkeypatch.setattr(triton, "__version__", "3.5.1+git")
    old = failure()
    monkeypatch.setattr(triton, "__version__", "3.10.0")
    monkeypatch.setattr(_backends, "_INTERPRETED", False)
    broken = failure()
    if not torch.cuda.is_available():
        assert broken.startswith("Triton does not work here (")
    assert old == (
        "Triton 3.5.1+git is too old; without it, sizes that no CUDA kernel takes run torch compositions that pass over"
        f" memory more often ({_remedy.install('triton>=3.6')})"
    )


def test_an_op_without_an_overload_looks_at_the_call():
    x, v, z = torch.randn(3, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    freq = tdas_ops.Preconditioner.radial(lambda k: 1 / (1 + k), (1, 32, 32)).masks(torch.float32)[0]
    arguments = (x, v, freq, None, None, True, 0.1, None, None, None, z, None, None, 0)

    def bits(op) -> torch.Tensor:
        out = torch.empty_like(x)
        op(out, None, *arguments)
        return out

    op = torch.ops.tdas_ops.step
    for backend in tdas_ops.backend_info()["available"]:
        if backend in ("reference", "cpp"):
            with tdas_ops.use_backend(backend):
                assert torch.equal(bits(op), bits(getattr(op, backend)))
    if "cpp" in tdas_ops.backend_info()["available"]:
        assert not torch.equal(bits(op.cpp), bits(op.reference)) and torch.equal(bits(op), bits(op.cpp))


@pytest.mark.parametrize(("torchs", "there"), [("12.8", False), ("13.0", True), ("14.1", True), (None, True)])
def test_kernels_of_a_newer_cuda_than_torchs_are_left_alone(monkeypatch, torchs, there):
    """One library serves every torch, but not every driver."""
    extension = SimpleNamespace(build_info=lambda: {"cuda": "13.0"})
    monkeypatch.setattr(_extension, "_load", lambda: (extension, None))
    monkeypatch.setattr(torch.version, "cuda", torchs)
    assert _backends._installed("cpp") and _backends._installed("cuda") == there
    said = _backends._missing("cuda")
    assert (said is None) == there
    if not there:
        assert said.startswith(
            f"the CUDA kernels are of CUDA 13.0 and torch {torch.__version__} of CUDA 12.8, whose driver"
        )
