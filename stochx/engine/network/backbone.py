"""A classifier without its last layer: images -> feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from stochx.engine.network.classifier import Classifier
from stochx.engine.network.folding import folded
from stochx.engine.network.graph import UntraceableError, trace
from stochx.engine.network.sites import LAYERS, evaluating
from stochx.errors import InputError


class Backbone(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> feature maps (N, C, h, w), before pooling over positions.

    The last layer with weights is removed. The maps are the last module output with more than one position after the
    second-to-last layer; without one, the input of the last layer, as 1x1 maps. `shape` is (C, h, w) for images of the
    network's input size.
    """

    shape: tuple[int, int, int]

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        layers = [name for name, m in model.network.named_modules() if isinstance(m, LAYERS)]
        if not layers or not layers[-1]:
            raise InputError(f"`{model.arch}` is a single layer", "use a network with more layers")
        self.model = model
        x = model.blank()
        with evaluating(model), torch.inference_mode():
            names = _maps_before(model, layers[-1], x)
            self.cut = names[-1] if names else ""
            parent, _, last = layers[-1].rpartition(".")
            setattr(model.network.get_submodule(parent), last, nn.Identity())
            channels, height, width = self(x).shape[1:]
        self.shape = channels, height, width

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        source = self.model.network.get_submodule(self.cut)
        handle = source.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self.model(x)
        finally:
            handle.remove()
        maps = outputs[-1]
        return maps if maps.dim() == 4 else maps.flatten(1)[:, :, None, None]


def maps_graph(backbone: Backbone) -> fx.GraphModule:
    """Return the operations from normalised images to maps, frozen, with batch norms folded.

    Raises `InputError` for networks that cannot be traced, and where no module returns the maps.
    """
    network, cut = backbone.model.network, backbone.cut
    try:
        traced = trace(network)
    except UntraceableError as error:
        raise InputError(f"`{backbone.model.arch}` cannot be traced: {error}", "use a convolutional backbone") from None
    if not cut:
        raise InputError(f"`{backbone.model.arch}` cannot be traced to its maps", "use a convolutional backbone")
    inside = [node for node in traced.graph.nodes if cut in _modules_around(node)]
    output = next(node for node in traced.graph.nodes if node.op == "output")
    output.args = (inside[-1],)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return folded(traced)


def _modules_around(node: fx.Node) -> set[str]:
    """Return the names of the modules that contain an operation, at all levels."""
    stack = node.meta.get("nn_module_stack") or {}
    parts = [str(name).split(".") for name in stack]
    return {".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}


def _maps_before(model: Classifier, last: str, x: Tensor) -> list[str]:
    """Return the modules between the last two layers with weights that output maps (1, C, H, W) with positions."""
    names: list[str] = []
    over = False

    def note(name: str, output: Any) -> None:
        if not over and isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
            names.append(name)

    def enter(name: str) -> None:
        nonlocal over
        over = over or name == last
        if not over:
            names.clear()

    handles = []
    for name, module in model.network.named_modules():
        if name:
            handles.append(module.register_forward_hook(lambda _, i, output, name=name: note(name, output)))
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: enter(name)))
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return names
