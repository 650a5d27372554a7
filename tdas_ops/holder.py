"""`PreconditionerModule`: a filter as part of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tdas_ops.preconditioner import Preconditioner

_MASKS = ("freq", "space", "skew")


class PreconditionerModule(torch.nn.Module):
    """Holds a `Preconditioner`, `module.M`, that follows the model it is a part of: its device, and its checkpoints.

    Its state consists of tensors alone: the masks in float64, which no change of the model's dtype touches, and shape,
    method and provenance as the bytes of JSON. A state loads into a module that held any other filter.

    Args:
        M: the filter, with a provenance that JSON knows.

    Raises:
        TypeError, ValueError: M is none, or its provenance has other values.
    """

    def __init__(self, M: Preconditioner) -> None:
        super().__init__()
        if not isinstance(M, Preconditioner):
            raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
        self._hold(M)

    def _hold(self, M: Preconditioner) -> None:
        about = {name: value for name, value in M.state_dict().items() if name not in _MASKS}
        try:
            text = json.dumps(about).encode()
        except (TypeError, ValueError, RecursionError):
            raise ValueError("M: got a provenance of other values, expected values that JSON knows") from None
        self._held = M
        self.register_buffer("about", torch.frombuffer(bytearray(text), dtype=torch.uint8).to(M.device))
        for name in _MASKS:
            mask = getattr(M, name)
            self.register_buffer(name, None if mask is None else mask.to(M.device))

    @property
    def M(self) -> Preconditioner:
        return self._held

    @M.setter
    def M(self, M: Preconditioner) -> None:
        if not isinstance(M, Preconditioner):
            raise TypeError(f"M: got {type(M).__name__}, expected a Preconditioner")
        self._hold(M)  # its state too: a checkpoint has the filter that is in use

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreconditionerModule:
        self._hold(self.M.to(fn(torch.empty(0, device=self.M.device)).device))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Makes a filter of what the state has, checked as any other."""
        known = {prefix + name for name in ("about", *_MASKS)}
        if strict:
            unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in known]
        if prefix + "about" not in state_dict:
            missing_keys.append(prefix + "about")
            return
        masks = {name: state_dict.get(prefix + name) for name in _MASKS}
        try:
            about = json.loads(bytes(state_dict[prefix + "about"].tolist()))
            self._hold(Preconditioner.from_state_dict({**about, **masks}, self.M.device))
        except (TypeError, ValueError, AttributeError) as error:
            error_msgs.append(f"{prefix}about: got a state that makes no filter ({error}), expected a saved one")

    def extra_repr(self) -> str:
        return repr(self.M)
