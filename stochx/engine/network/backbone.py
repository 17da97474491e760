"""A network without its classifier: images -> feature maps, or the vectors that it makes of them itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from stochx.engine.network.classifier import Classifier
from stochx.engine.network.feature_maps import find_heads, find_maps
from stochx.engine.network.folding import folded
from stochx.engine.network.graph import UntraceableError, trace
from stochx.engine.network.header import Features
from stochx.engine.network.visits import LAYERS, evaluating, visits
from stochx.errors import InputError


class Backbone(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> feature maps (N, C, h, w), before pooling over positions.

    The last layer, or two heads side by side, are removed; a network that returns features is taken whole. Maps are the
    last value with positions, without class and register tokens. Where a layer joins the positions, the network's own
    vector, which enters the last layer, stands for them as 1x1 maps. So it does for the features `vectors`; and for
    `either` unless it is the mean over the positions, or all of their values. `features` is what it came to, `shape`
    (C, h, w) for images of the network's input size.
    """

    shape: tuple[int, int, int]

    def __init__(self, model: Classifier, features: Features | Literal["either"] = "maps") -> None:
        super().__init__()
        if isinstance(model.network, LAYERS):
            raise InputError(f"`{model.arch}` is a single layer", "use a network with more layers")
        self.model = model
        seen = visits(model)
        x = torch.rand(1, *model.input_shape, generator=torch.Generator().manual_seed(0)).to(model.mean)
        with evaluating(model), torch.inference_mode():
            self.heads = find_heads(model, seen)
            self.place = find_maps(model, seen, self.heads)
            for name in self.heads:
                parent, _, last = name.rpartition(".")
                setattr(model.network.get_submodule(parent), last, nn.Identity())
            ran = self._outputs(x, self.heads)
            self.heads = [name for name in self.heads if name in ran]  # timm's networks pass by heads that do nothing
            own = _as_maps(self._run(x, self.heads))
            if features == "vectors" or (features == "either" and not _is_pooled(own, self(x))):
                self.place = None
            channels, height, width = self(x).shape[1:]
        self.shape = channels, height, width

    @property
    def features(self) -> Features:
        """Whether the maps have positions, or are the network's own vectors."""
        return "vectors" if self.place is None else "maps"

    def forward(self, x: Tensor) -> Tensor:
        if self.place is None:
            vectors: Tensor = _as_maps(self._run(x, self.heads))
            return vectors
        (value,) = self._run(x, [self.place.module])
        maps: Tensor = self.place.layout.maps(value)
        return maps

    def _run(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Return the outputs of modules; of the network, if none is named."""
        outputs = self._outputs(x, names)
        return [outputs[name] for name in names] or [outputs[""]]

    def _outputs(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of the modules that run, by name, and that of the network under no name."""
        outputs: dict[str, Tensor] = {}
        handles = [
            self.model.network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: outputs.update({name: output})
            )
            for name in names
        ]
        try:
            outputs[""] = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        return outputs


def maps_graph(backbone: Backbone) -> fx.GraphModule:
    """Return the operations from normalised images to maps, frozen, with batch norms folded.

    Raises `InputError` for networks that cannot be traced.
    """
    network, place = backbone.model.network, backbone.place
    try:
        x = backbone.model.normalise(backbone.model.blank())
        traced = trace(network, x)
    except UntraceableError as error:
        raise InputError(f"`{backbone.model.arch}` cannot be traced: {error}", "use another backbone") from None
    output = next(node for node in traced.graph.nodes if node.op == "output")
    with traced.graph.inserting_before(output):
        if place is None:
            values = [_result_of(traced, name) for name in backbone.heads] or [output.args[0]]
            maps = _as_maps([fx.Proxy(value) for value in values])
        else:
            maps = place.layout.maps(fx.Proxy(_result_of(traced, place.module)), place.layout.rows)
    output.args = (maps.node,)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return folded(traced, x)


def _result_of(traced: fx.GraphModule, module: str) -> fx.Node:
    """Return the last operation of a module; raises `InputError` for one that the trace has lost."""
    inside: list[fx.Node] = [n for n in traced.graph.nodes if n.target == module or module in _modules_around(n)]
    if not inside:
        raise InputError(f"`{module}` cannot be traced to its maps", "use another backbone")
    return inside[-1]


def _modules_around(node: fx.Node) -> set[str]:
    """Return the names of the modules that contain an operation, at all levels."""
    stack = node.meta.get("nn_module_stack") or {}
    parts = [str(name).split(".") for name in stack]
    return {".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}


def _as_maps(values: Sequence[Any]) -> Any:
    """Return the mean of vectors (N, D), or (N, D, 1, 1), as 1x1 maps; they are tensors, or nodes of a graph."""
    total = values[0].flatten(1)
    for value in values[1:]:
        total = total + value.flatten(1)
    return (total if len(values) == 1 else total * (1 / len(values)))[:, :, None, None]


def _is_pooled(vectors: Tensor, maps: Tensor) -> bool:
    """Return true for vectors (N, D, 1, 1) that are the means of maps (N, C, h, w), or all their values."""
    means = maps.mean((2, 3), keepdim=True)
    pairs = [(vectors, means), (vectors.flatten().sort().values, maps.flatten().sort().values)]
    return any(
        one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
        for one, other in pairs
    )
