"""A network as a graph of operations: traced, folded, split in two.

Frozen networks benefit twice: batch norms are folded into the convolutions before them, and the affine first
convolution can be moved out of a loop over many points. Networks that cannot be traced are used as they are. So are
those whose trace would be another function, or the same function with another gradient: `trace` refuses what is known
to get lost, such as a backward of the user's own, and `fused` compares both on an image.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from stochx.engine.network.bpda import StandIn
from stochx.engine.network.opening import opened
from stochx.engine.network.recording import UnrecordableError, random_states, restored
from stochx.engine.network.replay import record
from stochx.engine.network.stochastic import Noisy
from stochx.engine.network.wrappers import traceable, unwrapped
from stochx.errors import first_line


class UntraceableError(Exception):
    """A network that has to be used as it is, and the reason."""


def trace(network: nn.Module, x: torch.Tensor | None = None, symbols: bool = True) -> fx.GraphModule:
    """Trace the operations of `network`, sharing its weights; attention is traced in plain operations.

    A network that asks for the size of its input, or for anything else that symbols cannot answer, is run on images of
    the shape of `x` (N, C, H, W) instead, if given: its trace holds for this size, and any batch size (`is_recorded`).
    Without `symbols` every network is.

    Raises `UntraceableError` for control flow that depends on data, and for everything that the trace would lose:
    hooks, parametrised weights, a backward of the user's own, parts that run without gradients or under autocast, and
    random draws that do not depend on the input.
    """
    if _global_hooks() or any(any(hooks_of(module)) for module in network.modules()):
        raise UntraceableError("it has hooks")
    if any(is_parametrized(module) for module in network.modules()):
        raise UntraceableError("it has parametrised weights")
    network = opened(unwrapped(network))
    with torch.random.fork_rng(), traceable(network):
        if symbols or x is None:
            try:
                with restored(network):
                    return _symbolic(network)
            except UntraceableError:
                if x is None:
                    raise
        with restored(network):
            return _recorded(network, x)


def _symbolic(network: nn.Module) -> fx.GraphModule:
    before = random_states()
    try:
        traced = fx.GraphModule(network, _Tracer().trace(network))
    except UntraceableError:
        raise
    except Exception as error:  # tracing runs the user's forward on symbols, which can raise anything
        raise UntraceableError(f"it fails on symbols of images, with: {first_line(error)}") from None
    if any(not torch.equal(a, b) for a, b in zip(before, random_states(), strict=True)):
        raise UntraceableError("it draws random numbers, which a trace would turn into constants")
    return traced


def _recorded(network: nn.Module, x: torch.Tensor) -> fx.GraphModule:
    tracer = _Tracer()
    tracer.note(network)
    try:
        graph = record(network, x, tracer.is_leaf_module, _contexts)
    except UnrecordableError as error:
        raise UntraceableError(str(error)) from None
    except Exception as error:  # the user's forward, on images drawn at random
        raise UntraceableError(f"it fails on random images, with: {first_line(error)}") from None
    graph.meta["recorded"] = True
    return graph


def is_recorded(graph: fx.GraphModule) -> bool:
    """Return True if the graph holds for one size of images."""
    return bool(graph.meta.get("recorded"))


def _contexts() -> tuple[bool, ...]:
    """Return the contexts that change how operations run, which a trace does not record.

    The forward of a `torch.autograd.Function` runs without gradients too.
    """
    kinds = ("cpu", "cuda")
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *map(torch.is_autocast_enabled, kinds))


class _Tracer(fx.Tracer):
    """Refuses what a trace loses; noise layers are leaves: every forward pass computes new draws and statistics.

    So are layers with a backward stand-in, whose gradient would be lost.
    """

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Bind all arguments but the first to their defaults: the network is called with images alone."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        parameters = list(inspect.signature(root_fn).parameters.values())[: len(args)]
        for place, parameter in enumerate(parameters[2:], 2):
            if parameter.default is not parameter.empty:
                self.graph.erase_node(args[place].node)
                args[place] = parameter.default
        return function, args

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _contexts() != self._outside:
            raise UntraceableError("a part of it has a backward of its own, runs without gradients or under autocast")
        return super().create_node(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, StandIn) or module_qualified_name in self._noises
        return own or (super().is_leaf_module(m, module_qualified_name) and not isinstance(m, COMPOSED))

    def trace(self, root: nn.Module, concrete_args: dict[str, object] | None = None) -> fx.Graph:  # type: ignore[override]
        self.note(root)
        return super().trace(root, concrete_args)

    def note(self, root: nn.Module) -> None:
        """Remember the contexts outside, and the noises of `root`."""
        self._outside = _contexts()
        self._noises = {f"{name}.noise" for name, module in root.named_modules() if isinstance(module, Noisy)}


COMPOSED = (nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer)  # torch's, of other modules of torch


def hooks_of(module: nn.Module) -> tuple[Mapping[int, object], ...]:
    """Return the hooks of a module that a trace loses, by kind."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def _global_hooks() -> bool:
    """Return True if hooks run for all modules of the process."""
    kinds = (
        "_global_forward_hooks",
        "_global_forward_pre_hooks",
        "_global_backward_hooks",
        "_global_backward_pre_hooks",
    )
    return any(getattr(torch.nn.modules.module, kind) for kind in kinds)


SHAPES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "new_empty", "new_ones", "new_zeros", "new_full"})
LIKE = frozenset({torch.empty_like, torch.ones_like, torch.zeros_like, torch.full_like})
NO_MODULES: Mapping[str, nn.Module] = MappingProxyType({})
ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim"})


def reads_values(node: fx.Node) -> bool:
    """Return True unless an operation reads no more of its inputs than their shape, type and device."""
    if node.op == "call_method":
        return node.target not in SHAPES
    return node.target not in LIKE and not (node.target is getattr and node.args[1] in ATTRIBUTES)


def depending(graph: fx.Graph) -> set[fx.Node]:
    """Return the operations whose value depends on the values of the images, and not only on their shape.

    So the mask of shifted windows, which is made for the size of the image, is a constant like a weight.
    """
    found = set[fx.Node]()
    for node in graph.nodes:
        if node.op == "placeholder" or (reads_values(node) and not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return found


def arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """Return the arguments of a call by name, `names` being those that stand by position."""
    return dict(zip(names, node.args, strict=False)) | node.kwargs


def computed(
    node: fx.Node, values: Mapping[fx.Node, Any], modules: Mapping[str, nn.Module] = MappingProxyType({})
) -> Any:
    """Return the value of a call, of one of `modules`, a function or a method, with these `values` of its arguments."""
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    keywords: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **keywords)
    function: Any = modules[str(node.target)] if node.op == "call_module" else node.target
    return function(*args, **keywords)


def calls(node: fx.Node, modules: dict[str, nn.Module], kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Return True if `node` calls a module of this kind, or of one of these."""
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), kind)


def cut(graph: fx.GraphModule, at: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Split `graph` into input -> value of `at` and value of `at` -> output; None if another value bypasses `at`.

    Both share the modules of `graph`.
    """
    nodes = list(graph.graph.nodes)
    before = set(nodes[: nodes.index(at) + 1])
    for node in nodes[nodes.index(at) + 1 :]:
        for source in node.all_input_nodes:
            if source in before and source is not at and source.op != "get_attr":
                return None
    head, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in nodes[: nodes.index(at) + 1]:
        copies[node] = head.node_copy(node, copies.__getitem__)
    head.output(copies[at])
    tail = fx.Graph()
    copies = {at: tail.placeholder("hidden")}
    for node in nodes:
        if node.op == "get_attr" or node not in before:
            copies[node] = tail.node_copy(node, copies.__getitem__)
    return _module(graph, head), _module(graph, tail)


def _module(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    graph.lint()
    return fx.GraphModule(root, graph)


def node_of(graph: fx.GraphModule, module: str) -> fx.Node | None:
    """Return the last node of the submodule `module` of the traced network."""
    inside = [n for n in graph.graph.nodes if _within(n, module)]
    return inside[-1] if inside else None


def _within(node: fx.Node, module: str) -> bool:
    names = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return any(name == module or name.startswith(f"{module}.") for name in names)


SUMS: frozenset[object] = frozenset({operator.add, operator.iadd, torch.add})
