"""Batch norms folded into the convolutions before them: the same function of a frozen network, in fewer operations."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stochx.engine.network.graph import calls


def folded(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a copy in eval mode, without gradients of weights, with batch norms folded into convolutions."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in graph.parameters()}
    graph = copy.deepcopy(graph, shared).eval()  # weights without a folded norm are not copied
    _norms_as_modules(graph)
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        conv_node = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if conv_node is None or not calls(node, modules, nn.BatchNorm2d) or len(conv_node.users) > 1:
            continue
        conv, norm = modules.get(str(conv_node.target)), modules[str(node.target)]
        if conv_node.op != "call_module" or not isinstance(conv, nn.Conv2d) or norm.running_mean is None:
            continue
        if _times_called(graph, conv_node) > 1:  # one convolution under two different norms
            continue
        _replace(graph, str(conv_node.target), fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(conv_node)
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        if node.op == "call_method" and node.target == "view":  # channels-last tensors have no such view
            node.target = "reshape"
    graph.graph.lint()
    graph.recompile()
    return graph


def _norms_as_modules(graph: fx.GraphModule) -> None:
    """Make modules of calls of `batch_norm` with constant statistics, as subclasses of `BatchNorm2d` trace to.

    Assertions about shapes, which hold by now, go: they read the values of convolutions too.
    """
    for node in reversed(list(graph.graph.nodes)):
        if node.target is torch._assert:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    for node in list(graph.graph.nodes):
        if node.target is not nn.functional.batch_norm:
            continue
        given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
        tensors = {name: _constant(graph, given.get(name)) for name in names[1:5]}
        mean, var = tensors["running_mean"], tensors["running_var"]
        if (
            given.get("training")
            or mean is None
            or var is None
            or (tensors["weight"] is None) != (tensors["bias"] is None)
        ):
            continue
        norm = nn.BatchNorm2d(
            len(mean), eps=given.get("eps", 1e-5), affine=tensors["weight"] is not None, device="meta"
        )
        norm.running_mean, norm.running_var = mean, var
        if (weight := tensors["weight"]) is not None and (bias := tensors["bias"]) is not None:
            norm.weight = nn.Parameter(weight, requires_grad=False)
            norm.bias = nn.Parameter(bias, requires_grad=False)
        name = f"norm_of_{node.name}"
        graph.add_submodule(name, norm.eval())
        with graph.graph.inserting_before(node):
            call = graph.graph.call_module(name, (given["input"],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _constant(graph: fx.GraphModule, node: object) -> torch.Tensor | None:
    """Return the tensor that a node reads from the network; None for other values."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(graph)
    return value if isinstance(value, torch.Tensor) else None


def _times_called(graph: fx.GraphModule, node: fx.Node) -> int:
    return sum(n.op == "call_module" and n.target == node.target for n in graph.graph.nodes)


def _replace(graph: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(graph.get_submodule(parent), last, module)
