"""Moving average of a network's weights, which often generalises better than the last weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """a <- d a + (1 - d) w after every step, d = min(decay, (1 + t) / (10 + t)), over weights and running statistics.

    (Polyak & Juditsky, 1992; Tarvainen & Valpola, 2017.) With a decay of 0 the average is the network itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = tensors_of(model) if decay else {}
        self._raw: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after step `step`, from 0."""
        if not self.decay:
            return
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        now = self.model.state_dict()
        moving = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[name] for name in moving], [now[name] for name in moving], share)
        for name in now.keys() - {*moving}:
            self.values[name].copy_(now[name])

    def show(self) -> None:
        """Put the averaged weights into the network, until `hide`."""
        self._raw = tensors_of(self.model) if self.decay else {}
        put(self.model, self.values)

    def hide(self) -> None:
        """Restore the network's own weights, with which training continues."""
        put(self.model, self._raw)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy a network's weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def put(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Overwrite a network's tensors of these names in place."""
    own = model.state_dict()
    for name, value in values.items():
        own[name].copy_(value)
