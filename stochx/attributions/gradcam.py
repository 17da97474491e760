"""Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.engine.device import in_batches
from stochx.engine.gradients import slope_of
from stochx.engine.graph import cut, last_convolution, node_of
from stochx.engine.seeds import Key
from stochx.engine.twin import twin
from stochx.errors import InputError


@dataclass(frozen=True)
class GradCAM:
    """The last convolution's channels, weighted by their mean gradient (Selvaraju et al., 2017).

        relu(sum_k a_k mean_ij d logit / d a_k,ij), enlarged to the image

    The last convolution is taken with the norm, activation, residual sum or concatenation that follows it.
    """

    layer: str = ""  # a module's name instead of the last convolution, e.g. layer3.1
    relu: bool = True  # keep only what speaks for the class

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        fast = twin(model)
        if fast.graph is None:
            raise InputError("the model's operations cannot be traced", "use `occlusion` or a gradient method")
        node = node_of(fast.graph, self.layer) if self.layer else last_convolution(fast.graph)
        if node is None:
            known = f"no layer `{self.layer}` in the model" if self.layer else "the model has no convolution"
            raise InputError(known, "`stochx info` names what it has; use a gradient method otherwise")
        parts = cut(fast.graph, node)
        if parts is None:
            raise InputError(f"not everything passes through `{node.name}`", "choose another one with `layer=`")
        head, tail = parts
        maps: list[Tensor] = []

        def work(start: int, stop: int) -> None:
            with torch.no_grad():
                seen = head(fast.normalise(x[start:stop]))
            if seen.dim() != 4:
                raise InputError(f"`{node.name}` gives no (N, C, H, W) maps", "choose a convolution with `layer=`")
            weights = slope_of(tail, seen, target[start:stop]).mean((2, 3), keepdim=True)
            cam = (weights * seen).sum(1, keepdim=True)
            maps.append(F.interpolate(cam.relu() if self.relu else cam, x.shape[2:], mode="bilinear"))

        in_batches(len(x), fast.rows(x), work)
        return Explanation(torch.cat(maps))
