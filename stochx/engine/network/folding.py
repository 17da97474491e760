"""A frozen network in fewer operations: batch norms folded into layers, and noise added in one operation."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from stochx.engine.network.graph import arguments, calls, reads_values
from stochx.engine.network.positions import Recorder
from stochx.engine.network.stochastic import NormalSum

SHAPED_LIKE = frozenset({"reshape_as", "view_as", "expand_as"})  # read no more than the shape of their second argument
IDLE = (nn.Identity, nn.modules.dropout._DropoutNd)  # do nothing in a frozen network


def folded(graph: fx.GraphModule, x: torch.Tensor | None = None) -> fx.GraphModule:
    """Return a copy in eval mode, without gradients of weights, with batch norms folded into the layers before them.

    Normal noise between the two, whose strength is fixed, is scaled as the batch norm scales it. Images `x`
    (N, C, H, W) tell vectors, whose norm belongs to a linear layer, from tokens, whose norm does not.
    """
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in graph.parameters()}
    graph = copy.deepcopy(graph, shared).eval()  # weights without a folded norm are not copied
    _norms_as_modules(graph)
    _noises_as_sums(graph)
    modules = dict(graph.named_modules())
    vectors = _norms_of_vectors(graph, modules, x)
    for node in list(graph.graph.nodes):
        place = _layer_before(node, modules)
        if place is None or _times_called(graph, place) > 1:  # one layer under two norms
            continue
        layer: Any = graph.get_submodule(str(place.target))
        if isinstance(layer, nn.Linear) and node not in vectors:
            continue
        before, norm = node.all_input_nodes[0], _scaling(modules[str(node.target)])
        noise = modules[str(before.target)] if calls(before, modules, NormalSum) else None
        fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        _replace(graph, str(place.target), fuse(layer, norm))
        if isinstance(noise, NormalSum):
            slope = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
            noise.std = (noise.std * slope.view(-1, *[1] * (layer.weight.dim() - 2))).detach()
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        if node.op == "call_method" and node.target == "view":  # channels-last tensors have no such view
            node.target = "reshape"
    graph.graph.lint()
    graph.recompile()
    return graph


def _layer_before(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """Return the layer whose channels a batch norm at `node` rescales, if nothing else reads its values; else None.

    Between them is nothing but noise, and operations that leave the axis of channels where it is.
    """
    if not calls(node, modules, _BatchNorm) or modules[str(node.target)].running_mean is None:
        return None
    source, joins = _only_source(node), False
    if source is not None and calls(source, modules, NormalSum):
        source = _only_source(source)
    while source is not None and (calls(source, modules, IDLE) or _joins_rows(source)):
        joins = joins or _joins_rows(source)
        source = _only_source(source)
    if source is None or source.op != "call_module":
        return None
    layer = modules[str(source.target)]
    if isinstance(layer, nn.Linear):
        fits = layer.out_features == modules[str(node.target)].num_features
        return source if fits and "weight" in layer._parameters else None
    return source if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not joins else None


def _norms_of_vectors(graph: fx.GraphModule, modules: dict[str, nn.Module], x: torch.Tensor | None) -> set[fx.Node]:
    """Return the batch norms behind linear layers of vectors (N, C); those of tokens (N, T, C) work on the second axis.

    None are known without images `x`.
    """
    places = {node: _layer_before(node, modules) for node in graph.graph.nodes}
    found = {node for node, place in places.items() if place is not None and calls(place, modules, nn.Linear)}
    if not found or x is None:
        return set()
    recorder = Recorder(graph, None)
    with torch.no_grad(), torch.random.fork_rng():
        recorder.run(x[:1])
    return {node for node in found if recorder.values[node].dim() == 2}


def _scaling(norm: Any) -> Any:
    """Return a batch norm with weights and biases, which are 1 and 0 where it has none."""
    if norm.weight is not None:
        return norm
    norm = copy.copy(norm)
    norm._parameters = {
        name: nn.Parameter(fill(norm.running_mean), requires_grad=False)
        for name, fill in (("weight", torch.ones_like), ("bias", torch.zeros_like))
    }
    return norm


def _joins_rows(node: fx.Node) -> bool:
    """Return True for `x.flatten(0, 1)`, which makes one batch of the tokens of all images."""
    if node.target not in ("flatten", torch.flatten):
        return False
    given = arguments(node, "input", "start_dim", "end_dim")
    return (given.get("start_dim", 0), given.get("end_dim", -1)) == (0, 1)


def _only_source(node: fx.Node) -> fx.Node | None:
    """Return the node of the first argument, if nothing else reads its values."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    others = [n for n in source.users if n is not node and reads_values(n)]
    shaped = all(n.target in SHAPED_LIKE and n.args[0] is not source for n in others)
    return source if shaped else None


def _noises_as_sums(graph: fx.GraphModule) -> None:
    """Replace `z + scale * noise(z)` by one module where the noise is normal, of a strength that is fixed now."""
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        z, noise = node.args if node.target is torch.add and len(node.args) == 2 else (None, None)
        if not isinstance(z, fx.Node) or not isinstance(noise, fx.Node) or noise.args != (z,) or len(noise.users) > 1:
            continue
        (scale,) = node.kwargs.values() or (1,)
        module: Any = modules.get(str(noise.target)) if noise.op == "call_module" else None
        std = module.fixed_std() if hasattr(module, "fixed_std") else None
        if std is None:
            continue
        alone = calls(z, modules, nn.Conv2d) and len(z.users) == 2
        name = f"sum_of_{noise.name}"
        graph.add_submodule(name, NormalSum(scale * std, module.share, inplace=alone))
        with graph.graph.inserting_before(node):
            call = graph.graph.call_module(name, (z,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
        graph.graph.erase_node(noise)


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
        given = arguments(node, *names)
        tensors = {name: _constant(graph, given.get(name)) for name in names[1:5]}
        mean, var = tensors["running_mean"], tensors["running_var"]
        if (
            given.get("training")
            or mean is None
            or var is None
            or (tensors["weight"] is None) != (tensors["bias"] is None)
        ):
            continue
        norm = _Norm(len(mean), eps=given.get("eps", 1e-5), affine=tensors["weight"] is not None, device="meta")
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


class _Norm(nn.BatchNorm2d):
    """A batch norm that takes what the function takes: values of any number of axes."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        return


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
