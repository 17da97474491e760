"""Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.engine.device import current, in_batches
from stochx.engine.network.fused import fused
from stochx.engine.network.graph import last_convolution, node_of
from stochx.engine.seeds import Key
from stochx.errors import InputError


@dataclass(frozen=True)
class GradCAM:
    """The last convolution's channels, weighted by their mean gradient (Selvaraju et al., 2017).

        relu(sum_k a_k mean_ij d logit / d a_k,ij), resized to the image

    The last convolution includes the norm, activation, residual sum or concatenation that follows it.
    """

    layer: str = ""  # module to use instead of the last convolution, e.g. layer3.1
    relu: bool = True  # keep only positive relevance

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        fast = fused(model, x)
        if fast.graph is None:
            raise InputError("the model's operations cannot be traced", "use `occlusion` or a gradient method")
        node = node_of(fast.graph, self.layer) if self.layer else last_convolution(fast.graph)
        if node is None:
            problem = f"no layer `{self.layer}` in the model" if self.layer else "the model has no convolution"
            raise InputError(problem, "list its layers with `stochx info`, or use a gradient method")
        graph, maps = fast.graph, list[Tensor]()

        def work(start: int, stop: int) -> None:
            recorder = _Recorder(graph, node)
            with torch.enable_grad(), current().autocast():
                logits = recorder.run(fast.normalise(x[start:stop]))
            activations = recorder.value
            if activations.dim() != 4:
                raise InputError(
                    f"`{node.name}` does not return maps (N, C, H, W)", "choose a convolution with `layer=`"
                )
            (slope,) = torch.autograd.grad(logits.gather(1, target[start:stop, None]).sum(), activations)
            cam = (slope.mean((2, 3), keepdim=True) * activations.detach()).sum(1, keepdim=True)
            maps.append(F.interpolate((cam.relu() if self.relu else cam).to(x.dtype), x.shape[2:], mode="bilinear"))

        in_batches(len(x), fast.rows(x), work)
        return Explanation(torch.cat(maps))


class _Recorder(fx.Interpreter):
    """Runs a traced network and records the value of one operation, as a leaf of the gradient."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(graph)
        self.node = node

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if n is not self.node:
            return out
        self.value: Tensor = out.detach().requires_grad_()
        return self.value.clone()  # the next operation may work in place
