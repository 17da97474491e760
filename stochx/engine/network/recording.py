"""A network as a graph of the operations that it ran on images of one size, for networks that no symbol can pass.

A symbolic trace ends where a network asks for a shape: relative positions by size, padding to the same size, windows
that must fit. A recording asks for no symbols: it runs the network and notes every call of a function of torch, in the
vocabulary of the symbolic trace; `replay` makes a graph of two runs.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

# Methods that return no tensor and tell nothing of values.
ABOUT_SHAPE = frozenset(
    ["size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "storage_offset", "__len__"]
)
ABOUT_TYPE = frozenset(
    ["is_floating_point", "is_complex", "is_signed", "element_size", "get_device", "result_type", "data_ptr"]
)
ABOUT_TYPE |= {"can_cast", "is_tensor", "is_inference", "is_same_size", "__hash__", "__repr__", "__format__"}
SWAPPED = {"__rsub__": operator.sub, "__rdiv__": operator.truediv, "__rtruediv__": operator.truediv}
SWAPPED |= {"__rpow__": operator.pow, "__rmatmul__": operator.matmul, "__rfloordiv__": operator.floordiv}
OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "add_": operator.iadd,
    "sub_": operator.isub,
    "mul_": operator.imul,
    "div_": operator.itruediv,
    "neg": operator.neg,
    "matmul": operator.matmul,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__invert__": operator.invert,
}


class UnrecordableError(Exception):
    """An operation that a recording would lose, and the reason."""


@dataclass(frozen=True)
class Value:
    """A tensor in the arguments of a step: an output of an earlier one (the images are those of step -1)."""

    step: int
    path: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer in the arguments of a step, by name."""

    name: str


@dataclass
class Step:
    """One call: a function, a method by name, or a module by name; `stack` holds the modules around it.

    `out` is kept of what does not depend on the images.
    """

    op: str
    target: Any
    args: Any
    kwargs: Any
    stack: dict[str, tuple[str, type]]
    out: Any = None
    writes: bool = False  # over its first argument


@dataclass
class Recording(TorchFunctionMode):
    """Notes every call of torch while `network` runs; modules for which `is_leaf` is true are calls themselves."""

    network: nn.Module
    is_leaf: Callable[[nn.Module, str], bool]
    contexts: Callable[[], tuple[bool, ...]]
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in self.network.named_modules()}
        tensors = (*self.network.named_parameters(), *self.network.named_buffers())
        self.known: MutableMapping[Tensor, Value | Stored] = WeakTensorKeyDictionary()
        self.known.update({tensor: Stored(name) for name, tensor in tensors})
        self.active = {-1}  # the steps that depend on the images
        self.fresh: dict[int, set[int]] = {}  # by storage that was overwritten: the tensors noted since then
        self.stack: list[tuple[str, type]] = []
        self.outside = self.contexts()

    def run(self, x: Tensor) -> Any:
        """Run the network on images x, and return its outputs in terms of steps."""
        self.known[x] = Value(-1)
        call = nn.Module.__call__

        def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            name = self.names.get(id(module))
            if name is None:
                return call(module, *args, **kwargs)
            self.stack.append((name, type(module)))
            try:
                if not self.is_leaf(module, name):
                    return call(module, *args, **kwargs)
                with torch._C.DisableTorchFunction():
                    return self.note("call_module", name, lambda *a, **k: call(module, *a, **k), args, kwargs)
            finally:
                self.stack.pop()

        nn.Module.__call__ = noted  # type: ignore[method-assign]
        try:
            with self:
                out = self.network(x)
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]
        return mapped(out, self.reference)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        kwargs = kwargs or {}
        if name in ("__get__", "__set__"):
            return self._attribute(func, name, args)
        of_tensors = getattr(func, "__qualname__", "").startswith(("Tensor.", "TensorBase."))
        method = isinstance(args[0] if args else None, Tensor) and (getattr(Tensor, name, None) is func or of_tensors)
        if name in SWAPPED and method:
            return self.note("call_function", SWAPPED[name], SWAPPED[name], (args[1], args[0]), kwargs)
        if method and not kwargs and name in OPERATORS and len(args) <= 2:
            return self.note("call_function", OPERATORS[name], func, args, kwargs)
        if method and name.startswith("__") and hasattr(operator, name.strip("_")):
            return self.note("call_function", getattr(operator, name.strip("_")), func, args, kwargs)
        return self.note("call_method" if method else "call_function", name if method else func, func, args, kwargs)

    def _attribute(self, func: Any, kind: str, args: Any) -> Any:
        attribute = getattr(func.__self__, "__name__", "")
        out = func(*args)
        if kind == "__get__" and (not isinstance(out, Tensor) or out is args[0]):
            return out
        if attribute in ("T", "mT") and (attribute == "mT" or args[0].dim() == 2):
            return self.note("call_method", "transpose", lambda *_: out, (args[0], -2, -1), {})
        if self.is_active(args):
            raise UnrecordableError(f"it uses `Tensor.{attribute}`")
        return out

    def note(self, op: str, target: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call `function` and note the step, unless it tells only of shapes.

        Raises `UnrecordableError` where values become Python numbers, where the gradient is off or types change, and
        for random numbers that would become constants.
        """
        active = self.is_active((args, kwargs))
        if active and self.contexts() != self.outside:
            raise UnrecordableError("a part of it has a backward of its own, runs without gradients or under autocast")
        if target is operator.setitem:  # a value that is overwritten in parts goes on as a new one
            before: tuple[Any, Any] = ((self.known.get(args[0]) or args[0], *mapped(args[1:], self.reference)), {})
        else:
            before = (mapped(args, self.reference), mapped(kwargs, self.reference))
        states = [] if active else random_states()
        versions = [(tensor, tensor._version) for _, tensor in tensors_in((args, kwargs))]
        out = function(*args, **kwargs)
        if not active and any(not torch.equal(a, b) for a, b in zip(states, random_states(), strict=True)):
            raise UnrecordableError("it draws random numbers that do not depend on the images")
        if target is operator.setitem:
            target, out = overwritten, args[0]
        tensors = list(tensors_in(out))
        if not tensors:
            if active and name_of(target) not in ABOUT_SHAPE | ABOUT_TYPE and op != "call_module":
                raise UnrecordableError(f"it makes a Python value of a tensor, by `{name_of(target)}`")
            return out
        written = [tensor for tensor, version in versions if tensor._version != version]
        if active and not all(isinstance(self.known.get(tensor), Value) for tensor in written):
            raise UnrecordableError("it overwrites a constant with what depends on the images")
        index = len(self.steps)
        stack, writes = {name: (name, kind) for name, kind in self.stack}, bool(written) and target is not overwritten
        self.steps.append(Step(op, target, *before, stack, None if active else out, writes))
        if active:
            self.active.add(index)
        self.fresh.update({storage(tensor): set[int]() for tensor in written})
        for path, tensor in tensors:
            self.known[tensor] = Value(index, path)
            if storage(tensor) in self.fresh:
                self.fresh[storage(tensor)].add(id(tensor))
        return out

    def is_active(self, tree: Any) -> bool:
        """Return True if a tensor in these arguments depends on the images."""
        return any(
            isinstance(value := self.known.get(tensor), Value) and value.step in self.active
            for _, tensor in tensors_in(tree)
        )

    def reference(self, value: Any) -> Any:
        """Return what stands for a tensor in a step; a constant stands for itself."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self.fresh.get(storage(value), {id(value)}):
            raise UnrecordableError("it overwrites a part of a tensor, and uses the whole of it later")
        return self.known.get(value) or value


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Return a tree of tuples, lists, dictionaries and slices with `function` of its leaves."""
    if isinstance(tree, (tuple, list)):
        return (list if isinstance(tree, list) else tuple)(mapped(item, function) for item in tree)
    if isinstance(tree, dict):
        return {key: mapped(item, function) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(mapped(item, function) for item in (tree.start, tree.stop, tree.step)))
    return function(tree)


def overwritten(x: Tensor, index: Any, value: Any) -> Tensor:
    """Return x with other values at an index."""
    out = x.clone()
    out[index] = value
    return out


def storage(tensor: Tensor) -> int:
    """Return the address that a tensor shares with its views."""
    return tensor.untyped_storage().data_ptr()


def tensors_in(tree: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield the tensors of a tree, each with its place."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, (tuple, list)):
        for place, item in enumerate(tree):
            yield from tensors_in(item, (*path, place))
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_in(item, path)
    elif isinstance(tree, slice):
        yield from tensors_in((tree.start, tree.stop, tree.step), path)


def random_states() -> list[Tensor]:
    """Return the states of torch's global generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def name_of(target: Any) -> str:
    """Return what a function is called."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


@contextlib.contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Undo what the block sets on modules of `network`: some networks keep what they compute in their attributes."""
    before = [
        (m, {name: value.copy() if isinstance(value, dict) else value for name, value in vars(m).items()})
        for m in network.modules()
    ]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)
