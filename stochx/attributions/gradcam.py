"""Grad-CAM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.engine.device import current, in_batches
from stochx.engine.gradients import prepared, target_slope
from stochx.engine.network.graph import node_of
from stochx.engine.network.late_layer import late_layer
from stochx.engine.network.positions import Recorder, batch_axes, maps_or_error, name_of
from stochx.engine.seeds import Key
from stochx.errors import InputError

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class GradCAM:
    """The channels of a late layer, weighted by their mean gradient (Selvaraju et al., 2017).

        relu(sum_k a_k mean_ij d logit / d a_k,ij), resized to the image

    The layer is the last convolution with the norm, activation, gate, residual sum or concatenation that follows it.
    Where residual sums of tokens or channels-last maps come later, it is the last of them, or norm before them, whose
    positions the logit depends on: with a class token the norm before the last attention. Tokens without a position,
    such as class and register tokens, are left out.
    """

    layer: str = ""  # module to use instead of the last convolution, e.g. layer3.1
    relu: bool = True  # keep only positive relevance
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        fast = prepared(model, x, self.backward, "use `occlusion` or a gradient method")
        assert fast.graph is not None
        graph, maps = fast.graph, list[Tensor]()
        node = node_of(graph, self.layer) if self.layer else _usual_layer(graph, fast.normalise(x[:1]), target)
        if node is None:
            missing = f"layer `{self.layer}` in the model" if self.layer else "layer with positions in the model"
            raise InputError(f"no {missing}", "list its layers with `stochx info`, or use a gradient method")

        def work(start: int, stop: int) -> None:
            recorder = Recorder(graph, node)
            with torch.enable_grad(), current().autocast():
                logits = recorder.run(fast.normalise(x[start:stop]))
            activations = recorder.values[node]
            if not isinstance(activations, Tensor):
                raise InputError(f"`{self.layer}` returns several values", "choose another layer with `layer=`")
            axis = batch_axes(graph, fast.normalise(x[:1]))[node.name]
            slope, values = (
                maps_or_error(graph, node, value.movedim(axis, 0), recorder.values)
                for value in (target_slope(logits, target[start:stop], activations), activations.detach())
            )
            cam = (slope.mean((2, 3), keepdim=True) * values).sum(1, keepdim=True)
            maps.append(F.interpolate((cam.relu() if self.relu else cam).to(x.dtype), x.shape[2:], mode="bilinear"))

        in_batches(len(x), fast.rows(x), work)
        return Explanation(torch.cat(maps))


_layers: WeakKeyDictionary[fx.GraphModule, str] = WeakKeyDictionary()  # names, as a node keeps its graph alive


def _usual_layer(graph: fx.GraphModule, x: Tensor, target: Tensor) -> fx.Node | None:
    """Return the late layer of a network, which is chosen on the first image, and named where it is no convolution."""
    if graph not in _layers:
        found = late_layer(graph, x, target)
        if found is None:
            return None
        node, is_convolution = found
        _layers[graph] = node.name
        if not is_convolution:
            log.warning("gradcam explains the layer `%s`; `gradcam:layer=NAME` takes another", name_of(node))
    layer: fx.Node = next(node for node in graph.graph.nodes if node.name == _layers[graph])
    return layer
