"""The layer that Grad-CAM explains a class by: the last one whose value has positions that matter."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.network.graph import SUMS
from stochx.engine.network.linearised import Norm, Secant
from stochx.engine.network.positions import LAST_NORMS, Recorder, axis_of, batch_axes, to_maps
from stochx.engine.network.stochastic import NormalSum

RESIDUAL = SUMS | {"add", "add_"}  # with the methods of tensors
CONVOLUTIONS = {F.conv2d, torch.conv2d}
# What may follow a convolution: norms, activations, gates and layer scales, residual sums, concatenations.
KEEPS_PLACES = RESIDUAL | {torch.cat, torch.mul, F.dropout, F.relu, F.relu6, F.gelu, F.silu, F.mish, F.hardswish}
KEEPS_PLACES |= {
    torch.relu,
    F.leaky_relu,
    F.elu,
    F.batch_norm,
    "relu",
    "mul",
    "mul_",
    "contiguous",
    operator.mul,
    operator.imul,
}
MODULES = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    NormalSum,
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SiLU,
    nn.GELU,
    nn.Mish,
    nn.Hardswish,
    Secant,
)


def late_layer(graph: fx.GraphModule, x: Tensor, target: Tensor) -> tuple[fx.Node, bool] | None:
    """Return the operation whose value a class is explained by, and whether it is the last convolution's; else None.

    For convolutional networks it is what follows the last convolution. Where residual sums come after that, it is the
    last one of them, or norm before them, that a logit of x (1, C, H, W) depends on through its positions: with a class
    token, what the last block mixes positions from. Where sums are made in windows, it is the maps made of them.
    """
    nodes = list[fx.Node](graph.graph.nodes)
    recorder = Recorder(graph, None)
    with torch.enable_grad():
        logits = recorder.run(x.detach().clone().requires_grad_())
    values, axes = recorder.values, batch_axes(graph, x)
    places = {node: _has_places(graph, node, values, x, axes) for node in nodes}
    sums = [node for node in nodes if _is_residual(node, values) and places[node] is not None]
    convolution = _after_convolution(graph, nodes, places)
    last = next((node for node in reversed(sums) if places[node]), None)
    if last is None or (convolution is not None and nodes.index(convolution) >= nodes.index(sums[-1])):
        return None if convolution is None else (convolution, True)
    candidates = [n for n in nodes[: nodes.index(last) + 1] if places[n] and (n in sums or _is_norm(graph, n))]
    if sums[-1] is not last:
        after = nodes[nodes.index(sums[-1]) + 1 :]
        candidates += [n for n in after if places[n] and any(axis_of(graph, user) == "second" for user in n.users)][:1]
    score = logits.gather(1, target[:1, None]).sum()
    slopes = torch.autograd.grad(score, [values[n] for n in candidates], allow_unused=True)
    for node, slope in reversed(list(zip(candidates, slopes, strict=True))):
        maps = None if slope is None else to_maps(graph, node, slope.movedim(axes[node.name], 0), values)
        if maps is not None and maps.abs().max() > 0:
            return node, node is convolution
    return candidates[-1], candidates[-1] is convolution  # a last layer of zeros has no slopes


def _has_places(
    graph: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], x: Tensor, axes: dict[str, int]
) -> bool | None:
    """Return True for values with the positions of the image, False for other maps, and None for other values."""
    value = values.get(node)
    if not isinstance(value, Tensor) or not value.requires_grad:
        return None
    axis = axes[node.name]
    if value.shape[axis : axis + 1] != (len(x),):
        return None
    maps = to_maps(graph, node, value.movedim(axis, 0), values)
    if maps is None:
        return None
    (height, width), (h, w) = x.shape[2:], maps.shape[2:]
    return h * w > 1 and abs(h * width - w * height) <= max(height, width)  # windows have other proportions


def _after_convolution(
    graph: fx.GraphModule, nodes: list[fx.Node], places: dict[fx.Node, bool | None]
) -> fx.Node | None:
    """Return the last convolution's norm, activation, gate, residual sum or concatenation: the last that follows."""
    convolutions = [n for n in nodes if places[n] is not None and _is_convolution(graph, n)]
    if not convolutions:
        return None
    node = next((n for n in reversed(convolutions) if places[n]), convolutions[-1])
    while True:
        following = [n for n in node.users if places[n] == places[node]]
        if len(following) != 1 or not _keeps_places(graph, following[0]):
            return node
        node = following[0]


def _is_convolution(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), nn.Conv2d)
    return node.target in CONVOLUTIONS


def _keeps_places(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), MODULES)
    return node.target in KEEPS_PLACES


def _is_norm(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return isinstance(module.module if isinstance(module, Norm) else module, nn.LayerNorm | nn.RMSNorm)
    return node.target in LAST_NORMS


def _is_residual(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Return True for a sum of two values of one shape that depend on the image."""
    parts = [values.get(n) for n in node.all_input_nodes]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.requires_grad]
    return node.target in RESIDUAL and len(tensors) == 2 and tensors[0].shape == tensors[1].shape
