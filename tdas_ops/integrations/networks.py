"""Score functions of the three families of Song et al., from networks as their public code bases define them.

Every adapter returns a score function `(x, level) -> score`: x `[B, C, H, W]` float32; `level` float32 `[B]` on the
device of x, sigma for NCSN, NCSNv2 and NCSN++, t in (0, 1] for DDPM++; the score has the shape of x. None waits for the
device. Two options are common to all:

- `autocast`: dtype in which `torch.autocast` runs a network whose weights are float32. It keeps what needs precision,
  such as Fourier features of the noise level, in float32; prefer it.
- `dtype`: dtype to which x is cast, for a network whose weights are in half precision.

Where an adapter divides, it does so in float32; else the score has the network's dtype, which the ops take as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from tdas_ops.samplers import ScoreFn
from tdas_ops.sde import VE, VP, Discrete, SubVP

Network = Callable[..., Tensor]


def ncsn(
    network: Network,
    sigmas: Sequence[float],
    *,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
) -> ScoreFn:
    """A network told the index of its noise level: `network(x, index) -> score`, index int64 `[B]`.

    Fits NCSN, and the published NCSNv2 classes, which look their sigma up and divide by themselves.

    Args:
        network: the network.
        sigmas: its noise levels in the order of their indices, in the units of x. A sigma between two levels goes
            to the nearer one on a logarithmic scale.
        dtype, autocast: see the module.

    Raises:
        ValueError: no levels, or some that are not positive.

    Source: Song and Ermon, arXiv 1907.05600, section 3.
    """
    nearest = _Nearest(sigmas)
    call = _caller(network, dtype, autocast)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return call(x, nearest(sigma))

    return score


def ncsnv2(
    network: Network,
    *,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
) -> ScoreFn:
    """A network that is not told its noise level: the score is `network(x) / sigma`.

    Args:
        network: the network.
        dtype, autocast: see the module.

    Source: Song and Ermon, arXiv 2006.09011, technique 3.
    """
    call = _caller(network, dtype, autocast)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return call(x).float() / sigma.reshape(-1, 1, 1, 1)

    return score


def ncsnpp(
    network: Network,
    *,
    log_sigma: bool = False,
    divide: bool = False,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
) -> ScoreFn:
    """A network of the continuous VE family, told sigma: `network(x, sigma)`.

    Args:
        network: the network.
        log_sigma: tell it log sigma instead.
        divide: the network does not divide by sigma itself (`scale_by_sigma` off): the score is its output / sigma.
        dtype, autocast: see the module.

    Source: Song et al., arXiv 2011.13456, appendix H.
    """
    call = _caller(network, dtype, autocast)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        output = call(x, sigma.log() if log_sigma else sigma)
        return output.float() / sigma.reshape(-1, 1, 1, 1) if divide else output

    return score


def ddpmpp(
    network: Network,
    sde: VP,
    *,
    label_scale: float = 999.0,
    alphas_cumprod: Tensor | None = None,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
) -> ScoreFn:
    """A noise-predicting network of the VP or sub-VP family: the score is `-network(x, label) / std(t)`.

    Args:
        network: the network.
        sde: `VP` or `SubVP`; gives std(t).
        label_scale: the label is `label_scale t`, float32 `[B]`.
        alphas_cumprod: for a network trained on discrete steps, its table of cumulated alphas `[N]`. The label is then
            `floor((N - 1) t)`, int64 `[B]`, and std the table's `sqrt(1 - alphas_cumprod[label])`, which differs from
            std(t) at the last few steps.
        dtype, autocast: see the module.

    Raises:
        ValueError: a table that is not `[N]` with values between 0 and 1, or one beside a sub-VP SDE.

    Source: Song et al., arXiv 2011.13456, appendices B and C; Ho et al., arXiv 2006.11239, equation 11.
    """
    call = _caller(network, dtype, autocast)
    if alphas_cumprod is None:
        scales = _scales(sde)

        def continuous(x: Tensor, t: Tensor) -> Tensor:
            return -call(x, t * label_scale).float() / scales(t)[1].reshape(-1, 1, 1, 1)

        return continuous

    table = _table(alphas_cumprod, sde)

    def discrete(x: Tensor, t: Tensor) -> Tensor:
        std = table.on(x.device)
        label = (t * (len(std) - 1)).long()
        return -call(x, label).float() / std[label].reshape(-1, 1, 1, 1)

    return discrete


def prediction(
    network: Network,
    sde: VE | VP | Discrete,
    kind: Literal["epsilon", "sample", "v_prediction"] = "epsilon",
    *,
    label: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
) -> ScoreFn:
    """A network that predicts something else than the score, of any SDE of the package: `network(x, label)`.

    With `x = m x0 + s z` at the level that it is told, the score is `-z / s`.

    Args:
        network: the network.
        sde: gives m and s.
        kind: what it predicts, in the names of diffusers: "epsilon" is the noise z, "sample" the denoised image x0 (for
            VE the denoiser of EDM and k-diffusion), "v_prediction" `m z - s x0`.
        label: what the network is told instead of sigma (VE), t (VP, sub-VP) or the label (`Discrete`; whole on the
            ladder "time", between labels elsewhere), made of that, `[B]` to `[B]`.
        dtype, autocast: see the module.

    Raises:
        ValueError: an unknown kind, or another SDE.

    Source: Salimans and Ho, arXiv 2202.00512, section 4, for the three parametrisations.
    """
    if kind not in ("epsilon", "sample", "v_prediction"):
        raise ValueError(f"kind: got {kind!r}, expected 'epsilon', 'sample' or 'v_prediction'")
    call, scales = _caller(network, dtype, autocast), _scales(sde)

    def score(x: Tensor, level: Tensor) -> Tensor:
        output = call(x, level if label is None else label(level)).to(level.dtype)
        m, s = (part.reshape(-1, 1, 1, 1) for part in scales(level))
        if kind == "epsilon":
            return -output / s
        if kind == "sample":
            return (m * output - x) / s**2
        return -(s * x + m * output) / (s * (m**2 + s**2))

    return score


def _scales(sde: VE | VP | Discrete) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Mean scale and std of what a network is told, `[B]` each."""
    if isinstance(sde, VE):
        return lambda sigma: (torch.ones_like(sigma), sigma)
    if isinstance(sde, VP):

        def continuous(t: Tensor) -> tuple[Tensor, Tensor]:
            log_mean: Tensor = sde.log_mean(t)  # type: ignore[arg-type, assignment]  # plain arithmetic, serves tensors
            variance = -torch.expm1(2 * log_mean)
            return log_mean.exp(), variance if isinstance(sde, SubVP) else variance.sqrt()

        return continuous
    if not isinstance(sde, Discrete):
        raise ValueError(f"sde: got {type(sde).__name__}, expected VE, VP, SubVP or Discrete")
    table = _Placed(torch.tensor([sde.sigma(n) for n in range(len(sde.alphas_cumprod))], dtype=torch.float64).log())

    def discrete(label: Tensor) -> tuple[Tensor, Tensor]:
        logs = table.on(label.device)
        below = label.long().clamp(0, len(logs) - 2)
        sigma = torch.lerp(logs[below], logs[below + 1], (label - below).double()).exp().to(label.dtype)
        m = (1 + sigma**2).rsqrt()
        return m, sigma * m

    return discrete


class _Placed:
    """A constant that is copied once to every device it is used on, so that later calls do not wait."""

    def __init__(self, value: Tensor) -> None:
        self._copies = {value.device: value}

    def on(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device]


class _Nearest:
    """Index of the noise level nearest to a sigma, int64 `[B]`."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        levels = torch.as_tensor(sigmas, dtype=torch.float32, device="cpu")
        if levels.dim() != 1 or len(levels) == 0 or not bool((levels.isfinite() & (levels > 0)).all()):
            raise ValueError(f"sigmas: got {sigmas!r}, expected one or more finite numbers above 0")
        self._log_levels = _Placed(levels.log())

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma.log()[:, None] - self._log_levels.on(sigma.device)).abs().argmin(dim=1)


def _table(alphas_cumprod: Tensor, sde: VP) -> _Placed:
    """The standard deviations of a table of cumulated alphas."""
    if isinstance(sde, SubVP):
        raise ValueError("alphas_cumprod: got a table beside a sub-VP SDE, expected a VP SDE or no table")
    values = alphas_cumprod.detach().double().cpu()
    if values.dim() != 1 or len(values) == 0 or not bool(((values > 0) & (values < 1)).all()):
        raise ValueError(f"alphas_cumprod: got shape {tuple(values.shape)}, expected [N] with values between 0 and 1")
    return _Placed((1 - values).sqrt().float())


def _caller(network: Network, dtype: torch.dtype | None, autocast: torch.dtype | None) -> Network:
    """The network with the precision options applied."""
    for name, value in (("dtype", dtype), ("autocast", autocast)):
        if value is not None and value not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"{name}: got {value}, expected torch.bfloat16, torch.float16 or torch.float32")

    def call(x: Tensor, *label: Tensor) -> Tensor:
        if dtype is not None:
            x = x.to(dtype)
        if autocast is None:
            return network(x, *label)
        with torch.autocast(x.device.type, autocast):
            return network(x, *label)

    return call
