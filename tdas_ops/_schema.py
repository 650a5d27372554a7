"""The schema of every op, with its fake kernel: the one place where an op's signature is written.

Each op writes into tensors that its caller allocated and returns nothing, so one schema serves the functional and the
in-place call, and the fake kernel has nothing to compute. Each backend is an overload of the same schema, for example
`torch.ops.tdas_ops.step.reference`; `_backends.py` says which one a call takes.

The arguments that several ops share:

- `freq`, `skew`: half spectra R and w, `[C, H, W // 2 + 1]`; `space`: A, `[C, H, W]`; absent means R = 1, w = 0, A = 1.
  `freq` may be `[C, C, H, W // 2 + 1]`, real or complex: R is a matrix at every frequency and mixes the channels.
- `filter_drift`: D = M M^T + S (method "pds"), else D = I (method "tdas").
- `d`, `d_tensor`: the drift scale, a number or (if given) a tensor with 1 or B elements; `n`, `n_tensor`: the noise
  scale, `sqrt(2 d)` when both are absent.
- `z`: the caller's own pixel noise; else `seeds`, `draw`, `first_sample` of a `NoiseStream`; the op adds 1 to `draw`.
- `cast`: receives `out` as well, rounded to nearest to its own dtype, in its own memory format.
"""

from __future__ import annotations

import torch
from torch import Tensor

BACKENDS = ("reference", "cpp", "triton", "cuda")

# What the backend cuda takes where there is no fused kernel: torch.fft around the noise of its own.
CUDA_FFT = "cuda_fft"

# Whatever is chosen at the call: for what is compiled while threads may have choices of their own. Being the first
# overload it is also what a call of the op without an overload, such as `torch.ops.tdas_ops.step(...)`, takes.
CHOSEN = "chosen"

_MASKS = "Tensor? freq, Tensor? space, Tensor? skew"
_NOISE = "Tensor? z, Tensor? seeds, Tensor({alias}!)? draw, SymInt first_sample"
_CAST = "Tensor(d!)? cast=None"

SCHEMAS = {
    # g[B, C, H, ceil(W / 2)], complex64, of the noise contract (docs/design.md), as pixel noise or as spectral noise
    # orders it; reads draw, does not advance it
    "normals": "(Tensor(a!) out, Tensor seeds, Tensor draw, SymInt first_sample, bool spectral) -> ()",
    # out = n M z
    "noise": "(Tensor(a!) out, Tensor? freq, Tensor? space, float n, Tensor? n_tensor, "
    + _NOISE.format(alias="b")
    + ") -> ()",
    # out = M v, M^T v or M M^T v
    "precondition": "(Tensor(a!) out, Tensor v, Tensor? freq, Tensor? space, str which) -> ()",
    # mean = x + d D v;  out = mean + n M z
    "step": f"(Tensor(a!) out, Tensor(b!)? mean, Tensor x, Tensor v, {_MASKS}, bool filter_drift, "
    f"float d, Tensor? d_tensor, float? n, Tensor? n_tensor, {_NOISE.format(alias='c')}, {_CAST}) -> ()",
    # the same with d = 2 alpha (snr |M z| / |D score|)^2 and n = sqrt(2 d)
    "langevin_step": f"(Tensor(a!) out, Tensor(b!)? mean, Tensor x, Tensor score, {_MASKS}, bool filter_drift, "
    f"float snr, float alpha, Tensor? alpha_tensor, bool per_sample, {_NOISE.format(alias='c')}, {_CAST}) -> ()",
}


def check_source(z: Tensor | None, seeds: Tensor | None, draw: Tensor | None, needed: bool = False) -> None:
    """Whether the noise of an op comes from the caller, from a whole stream or, unless it is `needed`, not at all."""
    if (seeds is None) != (draw is None):
        got, lacking = ("draw", "seeds") if seeds is None else ("seeds", "draw")
        raise ValueError(f"noise: got {got} without {lacking}, expected both or neither")
    if needed and z is None and seeds is None:
        raise ValueError("noise: got none, expected z, or seeds and draw")


def _fake(*args: object) -> None:
    """Nothing to allocate: every output is an argument."""
    devices = {argument.device for argument in args if isinstance(argument, Tensor)}
    if len(devices) > 1:  # on the device meta all would be left as it is, and nothing said
        raise ValueError(f"devices: got tensors on {' and '.join(sorted(map(str, devices)))}, expected one device")


def _refuse_conjugate(*args: object) -> None:
    raise ValueError("normals: `out` is a conjugate view; expected a tensor of its own.")


LIBRARY = torch.library.Library("tdas_ops", "DEF")

for _name, _schema in SCHEMAS.items():
    for _backend in BACKENDS if _name == "normals" else (CHOSEN, *BACKENDS, CUDA_FFT):
        LIBRARY.define(f"{_name}.{_backend}{_schema}", tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"tdas_ops::{_name}.{_backend}", _fake, lib=LIBRARY)

for _backend in BACKENDS:
    # torch's own handling of conjugate views writes to the results of an op, of which there are none here.
    LIBRARY.impl(f"normals.{_backend}", _refuse_conjugate, "Conjugate")
