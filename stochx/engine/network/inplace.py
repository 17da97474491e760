"""Operations that overwrite their input, and the same network without any."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

OUTSIDE: dict[object, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    torch.sigmoid_: torch.sigmoid,
    torch.tanh_: torch.tanh,
    torch.clamp_: torch.clamp,
}


def outside(target: Any) -> Any:
    """Return the operation equivalent to `target` that does not work in place; methods are names."""
    if isinstance(target, str):
        return target if target.startswith("__") else target.rstrip("_")
    return OUTSIDE.get(target, target)


def is_in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Return True if `node` overwrites its first input."""
    if node.op == "call_module":
        return bool(getattr(modules.get(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    asked = _arguments(node)
    return outside(node.target) != node.target or (asked is not None and bool(asked.arguments.get("inplace")))


def out_of_place(graph: fx.GraphModule) -> fx.GraphModule:
    """Return the same function with no operation in place, sharing modules with `graph`, which is not changed.

    Users of a value that is overwritten become users of the result.
    """
    modules = dict(graph.named_modules())
    if not any(is_in_place(node, modules) for node in graph.graph.nodes):
        return graph
    whole, copies, others = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, nn.Module]()
    for node in graph.graph.nodes:
        new = copies[node] = whole.node_copy(node, copies.__getitem__)
        if not is_in_place(node, modules):
            continue
        copies[node.all_input_nodes[0]] = new
        if node.op == "call_module":
            module = others[str(node.target)] = copy.copy(modules[str(node.target)])
            module.inplace = False
            continue
        new.target = outside(node.target)
        if (asked := _arguments(new)) is not None:
            asked.arguments["inplace"] = False
            new.args, new.kwargs = asked.args, asked.kwargs
    result = fx.GraphModule(graph, whole)
    for name, module in others.items():
        parent, _, last = name.rpartition(".")
        setattr(result.get_submodule(parent), last, module)
    return result


def without_inplace_start(tail: fx.GraphModule) -> fx.GraphModule:
    """Make the first activation of `tail` out of place, since its input is a leaf of autograd."""
    hidden = next(iter(tail.graph.nodes))
    readers = list(hidden.users)
    for node in readers:
        keywords, module = node.kwargs, tail.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):  # in eval mode these return their input
            readers += node.users
        elif module is not None and getattr(module, "inplace", False):
            outside = copy.copy(module)
            outside.inplace = False  # type: ignore[assignment]  # a setting of activation modules, not a tensor
            node.target = f"start_{node.name}"
            tail.add_submodule(node.target, outside)
        elif keywords.get("inplace"):
            node.update_kwarg("inplace", False)
    tail.recompile()
    return tail


def _arguments(node: fx.Node) -> inspect.BoundArguments | None:
    """Return the arguments of a function that works in place on request; None for other operations."""
    function: Any = node.target
    if not isinstance(function, FunctionType) or "inplace" not in (signature := inspect.signature(function)).parameters:
        return None
    return signature.bind(*node.args, **node.kwargs)
