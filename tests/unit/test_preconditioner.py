"""Where masks come from, what is refused, and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import even, make_problem, relative_rms

import tdas_ops
from benchmarks import published
from tdas_ops import Preconditioner


def images(n: int = 20, shape=(2, 6, 7)) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def formula(x: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised statistics m_f (full spectrum) and m_a, as docs/mathematics.md writes them."""
    f = torch.log(1 + (published.dft(x).abs() ** 2).mean(0))
    a = (x**2).mean(0)
    return tuple((m / m.max() + alpha - 1) / alpha for m in (f, a))


@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("alpha", [1.2, 5.0])
def test_from_images_is_the_formula(method, alpha):
    x = images()
    M = Preconditioner.from_images(x, alpha=alpha, method=method)
    m_f, m_a = formula(x, alpha)
    R, A = (1 / m_f, 1 / m_a) if method == "pds" else (m_f, m_a)
    assert torch.allclose(M.freq, R[..., :4], rtol=1e-12)
    assert torch.allclose(M.space, A, rtol=1e-12)
    low, high = (1, alpha / (alpha - 1)) if method == "pds" else ((alpha - 1) / alpha, 1)
    for mask in (M.freq, M.space):
        assert low - 1e-12 <= mask.min() and mask.max() <= high + 1e-12
    v = torch.randn(3, 2, 6, 7, dtype=torch.float64)
    assert relative_rms(tdas_ops.precondition(v, M), published.apply_m(v, R, A)) < 1e-13


def test_tensor_batches_and_folder_agree(tmp_path):
    from PIL import Image

    bytes_ = (images(9, (3, 5, 8)) * 255).round().to(torch.uint8)
    (tmp_path / "sub").mkdir()
    for i, picture in enumerate(bytes_):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / ("sub" if i > 5 else ".") / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    whole = Preconditioner.from_images(bytes_.double() / 255)
    for other in (
        Preconditioner.from_images((b.double() / 255 for b in bytes_.split(4)), progress=False),
        Preconditioner.from_images(tmp_path, progress=False),
        Preconditioner.from_images(str(tmp_path), progress=False),
    ):
        assert torch.allclose(other.freq, whole.freq, rtol=1e-10)
        assert torch.allclose(other.space, whole.space, rtol=1e-10)
        assert other.provenance["images"] == 9
    assert Preconditioner.from_images(tmp_path, size=(4, 6), grey=True, progress=False).shape == (1, 4, 6)


def test_one_mask_only():
    x = images()
    assert Preconditioner.from_images(x, space=False).space is None
    assert Preconditioner.from_images(x, freq=False).freq is None


def test_npy_files_hold_raw_statistics(tmp_path):
    x = images()
    raw_f, raw_a = torch.log1p(published.dft(x).abs().square().mean(0)), x.square().mean(0)
    np.save(tmp_path / "f.npy", raw_f.numpy().astype(np.float32))
    np.save(tmp_path / "a.npy", raw_a.numpy().astype(np.float32))
    M = Preconditioner.from_masks(tmp_path / "f.npy", str(tmp_path / "a.npy"), alpha=3.0)
    expected = Preconditioner.from_images(x, alpha=3.0)
    assert torch.allclose(M.freq, expected.freq, rtol=1e-5)
    assert torch.allclose(M.space, expected.space, rtol=1e-5)
    assert M.provenance == {"source": "masks", "files": {"freq": "f.npy", "space": "a.npy"}, "alpha": 3.0}


@pytest.mark.parametrize("width", [6, 7])
def test_full_and_half_spectrum_are_the_same_mask(width):
    R = even(torch.rand(2, 5, width) + 0.5)
    half = R[..., : width // 2 + 1]
    full = Preconditioner.from_masks(R)
    assert full.shape == (2, 5, width)
    assert torch.equal(full.freq, Preconditioner.from_masks(half, shape=(2, 5, width)).freq)
    assert torch.equal(full.freq, Preconditioner.from_masks(half, torch.ones(2, 5, width)).freq)
    one = Preconditioner.from_masks(R[0].numpy(), shape=(2, 5, width))
    assert torch.equal(one.freq[0], one.freq[1])


def test_radial_colours_the_noise():
    M = Preconditioner.radial(lambda k: (k + 0.05) ** -1, (1, 16, 16))
    z = tdas_ops.noise(M, (500, 1, 16, 16), tdas_ops.NoiseStream(2)).double()
    power = torch.fft.fft2(z, norm="ortho").abs().square().mean((0, 1))
    k = torch.hypot(torch.fft.fftfreq(16)[:, None], torch.fft.fftfreq(16)[None])
    assert ((power / (k + 0.05) ** -2 - 1).abs() < 5 * (2 / 500) ** 0.5).all()
    band = Preconditioner.radial(lambda k: ((k > 0.1) & (k < 0.2)).double(), (1, 16, 16), method=None)
    assert (tdas_ops.noise(band, (1, 1, 16, 16), tdas_ops.NoiseStream(2)).mean().abs()) < 1e-6


def test_save_and_load(tmp_path):
    M = make_problem(skew=True).M
    M.save(tmp_path / "m.safetensors")
    other = Preconditioner.load(tmp_path / "m.safetensors")
    for name in ("freq", "space", "skew"):
        assert torch.equal(getattr(M, name), getattr(other, name))
    assert (other.shape, other.method, other.provenance) == (M.shape, M.method, M.provenance)
    made = Preconditioner.from_images(images(), alpha=2.0, method="tdas", space=False)
    made.save(tmp_path / "n.safetensors")
    again = Preconditioner.load(tmp_path / "n.safetensors")
    assert again.method == "tdas" and again.space is None
    assert again.provenance == {"source": "images", "images": 20, "alpha": 2.0}
    plain = Preconditioner.identity((1, 4, 4), method=None)
    plain.save(tmp_path / "p.safetensors")
    assert Preconditioner.load(tmp_path / "p.safetensors").method is None


def test_picture(tmp_path):
    from PIL import Image

    Preconditioner.from_images(images()).picture(tmp_path / "m.png")
    sheet = np.asarray(Image.open(tmp_path / "m.png"))
    assert sheet.min() == 0 and sheet.max() == 255 and sheet.shape[0] > 2 * 192
    Preconditioner.identity((1, 4, 4)).picture(tmp_path / "i.png")


def test_to_and_device():
    M = make_problem().M
    assert M.to("cpu") is M
    meta = M.to("meta")
    assert meta.device.type == "meta" and M.device.type == "cpu"
    assert all(m.device.type == "meta" for m in meta.masks(torch.float32)[:2])
    assert torch.equal(meta.freq, M.freq)


def test_masks_are_copied():
    A = torch.ones(1, 4, 4)
    M = Preconditioner.from_masks(space=A)
    A.zero_()
    assert (M.space == 1).all()


ONES = torch.ones(1, 4, 6)
ASYMMETRIC = ONES.clone()
ASYMMETRIC[0, 1, 2] = 2.0
HALF_ASYMMETRIC = torch.ones(1, 4, 4)
HALF_ASYMMETRIC[0, 1, 0] = 2.0
NEGATIVE = -ONES
INFINITE = ONES * torch.inf
BAD = {
    "no mask": (ValueError, "from_masks: got no mask", lambda: Preconditioner.from_masks()),
    "no profile": (TypeError, "profile: got int, expected a function of radii", lambda: Preconditioner.radial(3, (1, 4, 6))),
    "asymmetric full": (ValueError, r"freq: got a mask that misses R\(-k\) = R\(k\) by 1", lambda: Preconditioner.from_masks(ASYMMETRIC)),
    "asymmetric half": (ValueError, "freq: got a mask that misses", lambda: Preconditioner.from_masks(HALF_ASYMMETRIC, shape=(1, 4, 6))),
    "even skew": (ValueError, r"skew: got a mask that misses w\(-k\) = -w\(k\)", lambda: Preconditioner.from_masks(ONES, skew=ONES)),
    "skew with tdas": (ValueError, "skew: got a skew part with method 'tdas'", lambda: Preconditioner.from_masks(ONES, skew=ONES * 0, method="tdas")),
    "negative freq": (ValueError, "freq: got values down to -1", lambda: Preconditioner.from_masks(NEGATIVE)),
    "negative space": (ValueError, "space: got values down to -1", lambda: Preconditioner.from_masks(space=NEGATIVE, method="tdas")),
    "infinite": (ValueError, "space: got non-finite", lambda: Preconditioner.from_masks(space=INFINITE, method=None)),
    "integers": (TypeError, "freq: got torch.int64", lambda: Preconditioner.from_masks(ONES.long())),
    "a list": (TypeError, "freq: got list", lambda: Preconditioner.from_masks([1.0], shape=(1, 1, 1))),
    "sizes differ": (ValueError, r"freq: got shape \(1, 4, 6\), expected \(1, 4, 5\)", lambda: Preconditioner.from_masks(ONES, torch.ones(1, 4, 8))),
    "shape of two": (ValueError, r"shape: got \(4, 6\)", lambda: Preconditioner.identity((4, 6))),
    "shape with zero": (ValueError, r"shape: got \(1, 0, 6\)", lambda: Preconditioner.identity((1, 0, 6))),
    "method": (ValueError, "method: got 'pda'", lambda: Preconditioner.identity((1, 4, 4), method="pda")),
    "alpha 1": (ValueError, "alpha: got 1.0", lambda: Preconditioner.from_images(images(), alpha=1.0)),
    "alpha NaN": (ValueError, "alpha: got nan", lambda: Preconditioner.from_images(images(), alpha=float("nan"))),
    "range": (ValueError, r"images: got values from 0 to 255, expected \[0, 1\]", lambda: Preconditioner.from_images(torch.tensor([0.0, 255.0]).reshape(1, 1, 1, 2))),
    "integers as images": (TypeError, "images: got torch.int64", lambda: Preconditioner.from_images(torch.zeros(1, 1, 2, 2, dtype=torch.int64))),
    "NaN images": (ValueError, "images: got values from nan", lambda: Preconditioner.from_images(torch.full((1, 1, 2, 2), torch.nan))),
    "rank": (ValueError, r"images: got shape \(2, 6, 7\)", lambda: Preconditioner.from_images(images()[0])),
    "no images": (ValueError, "images: got none", lambda: Preconditioner.from_images(iter([]), progress=False)),
    "black images": (ValueError, "statistics: got values from 0 to 0", lambda: Preconditioner.from_images(torch.zeros(1, 1, 2, 2))),
    "mixed sizes": (ValueError, r"images: got \(1, 2, 3\) after \(1, 2, 2\)", lambda: Preconditioner.from_images([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 3)], progress=False)),
    "no folder": (ValueError, "images: got nowhere, expected a folder", lambda: Preconditioner.from_images("nowhere")),
    "no mask wanted": (ValueError, "from_images: got freq=False and space=False", lambda: Preconditioner.from_images(images(), freq=False, space=False)),
    "profile": (ValueError, "profile: got a result of shape", lambda: Preconditioner.radial(lambda k: k.sum(), (1, 4, 4))),
    "radial zero": (ValueError, "freq: got values down to 0", lambda: Preconditioner.radial(lambda k: k, (1, 4, 4))),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    error, message, call = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


def test_files_that_are_not_filters(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a saved Preconditioner"):
        Preconditioner.load(tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="without pictures"):
        Preconditioner.from_images(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png, which cannot be read"):
        Preconditioner.from_images(tmp_path / "broken", progress=False)
