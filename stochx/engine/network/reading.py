"""Reading a network as a classifier: images in, logits (N, K) out, whatever it returns itself.

Of several outputs the logits are taken, probabilities are turned back into logits, and a single logit z becomes
[-z/2, z/2], whose softmax is its sigmoid, and whose maps are not empty for either class. What cannot be read is
refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stochx.engine.device import is_out_of_memory
from stochx.engine.io.images import RGB, shape_text
from stochx.engine.network.classifier import first_channels
from stochx.errors import InputError, first_line

LOGITS = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "scores", "cls")  # names
HEAD = "linear"  # a kind of result: scores may be, features after pooling are not
INDEPENDENT = "scores each class by itself"
SINGLE_VALUE = "more than 1 value per channel"  # in torch's error of a batch norm in train mode
PROBES = 3  # black, white and noise; unlike the usual number of outputs, a batch of three is no batch of classes
SHAPING = frozenset({"squeeze", "view", "reshape", "flatten", "__getitem__", "unsqueeze", "contiguous"})

Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Reading:
    """The changes to the output of a network by which it becomes a classifier, and notes about them."""

    after: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


def in_single_precision(network: nn.Module) -> nn.Module:
    """Return the network with float32 weights; changes it."""
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in (*network.parameters(), *network.buffers())):
        return network.float()
    return network


def probes(shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
    """Return images (3, C, H, W) in [0, 1] of a shape (C, H, W): black, white, and fixed noise."""
    noise = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.zeros_like(noise), torch.ones_like(noise), noise]).to(device)


def runs(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Return true if the network takes images of a shape (C, H, W)."""
    with contextlib.suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):  # any error of the user's
        network(probes(shape)[:2])
        return True
    return False


def channels_to_try(network: nn.Module) -> list[int]:
    """Return numbers of channels that a network may take: RGB, as its first convolution says, and gray.

    RGB is first: a network whose first convolution takes another number may convert images itself.
    """
    return list(dict.fromkeys([RGB, first_channels(network) or RGB, 1]))


def read_as_classifier(network: nn.Module, x: Tensor, name: str) -> tuple[nn.Module, Reading]:
    """Make `network` return logits (3, K) for images like x (3, C, H, W); its layers keep their names.

    Raises `InputError`, with `name`, for a network that fails on images, or whose output is none of a classifier.
    """
    out, calls = _run(network, x)
    if isinstance(out, Exception):
        raise failure(out, name, x.shape[1:])
    after, value, picked = _pick(out, len(x), name, lambda value: calls.kind(value) == HEAD)
    steps, more = _to_logits(value, calls.kind(value), name)
    if calls.module and any(step in UNDO.values() for step in steps):
        parent, _, last = calls.module.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Identity())
        steps = [step for step in steps if step not in UNDO.values()]
    reading = Reading((*after, *steps), (*picked, *more))
    return _with_steps(network, reading), reading


def _with_steps(network: nn.Module, reading: Reading) -> nn.Module:
    """Put the steps of a reading around the network's forward.

    The network's class is replaced by a child of it, since any wrapper would change the names of layers and weights.
    """
    if not reading.after:
        return network
    kind = type(network)

    class Read(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Any:
            return reduce(lambda value, step: step(value), reading.after, super().forward(x))

    Read.__name__ = Read.__qualname__ = kind.__name__
    network.__class__ = Read
    return network


class _Calls(TorchFunctionMode):
    """Notes results of sigmoid, softmax and linear layers, and reshaped forms of them."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[Tensor, str]] = []  # kept, so that no other tensor takes over an identity
        self.module = ""  # the module that returned the network's output, if it is a sigmoid or softmax

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        table = isinstance(out, Tensor) and out.dim() == 2
        if isinstance(out, Tensor) and name.rstrip("_") in ("sigmoid", "softmax", "log_softmax"):
            self.results.append((out, name.rstrip("_")))
        elif table and name in ("linear", "addmm"):
            self.results.append((out, HEAD))
        elif isinstance(out, Tensor) and name in SHAPING and args and self.kind(args[0]):
            self.results.append((out, self.kind(args[0])))
        return out

    def kind(self, value: object) -> str:
        """Return the function that made `value`, if it is one of those noted."""
        return next((kind for result, kind in self.results if result is value), "")


def _run(network: nn.Module, x: Tensor) -> tuple[Any, _Calls]:
    """Return the output of the network, or the exception that it raises, and what was noted on the way."""
    noted = _Calls()
    calls: dict[str, list[object]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: calls.setdefault(name, []).append(output)

    ends = [(n, m) for n, m in network.named_modules() if n and isinstance(m, nn.Sigmoid | nn.Softmax)]
    handles = [module.register_forward_hook(note(name)) for name, module in ends]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), noted:  # cached tensors of inference mode would stay
            out = network(x)
    except Exception as error:  # the user's forward can raise anything
        return error, noted
    finally:
        for handle in handles:
            handle.remove()
    noted.module = next((n for n, values in calls.items() if len(values) == 1 and values[0] is out), "")
    return out, noted


def failure(error: Exception, name: str, shape: Sequence[int]) -> InputError:
    """Return the error of a network that fails on images of a shape (C, H, W); raises that of memory that runs out."""
    if is_out_of_memory(error):
        raise error
    reason = (str(error).splitlines() or [""])[0]
    if isinstance(error, TypeError) and "positional argument" in reason:
        return InputError(f"`{name}` takes more than an image: {reason}", "wrap it in a module that takes images alone")
    return InputError(
        f"`{name}` cannot take an image of {shape_text(shape)}: {type(error).__name__}: {reason}",
        "give its input size with `--size`, such as 224, or 384x128 for height x width",
    )


def output_in_training(network: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of x (N, C, H, W) in train mode, where other parts of a network may run: auxiliary heads.

    Raises `InputError` for a network that fails in it, or returns anything else.
    """
    try:
        out = network(x)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error) or SINGLE_VALUE in str(error):
            raise
        raise InputError(
            f"the network fails on images of {shape_text(x.shape[1:])} in train mode, with: {first_line(error)}",
            "give another input size with `--size`, or a network without parts for training alone",
        ) from None
    if not isinstance(out, Tensor):
        raise InputError(f"the network returns a {type(out).__name__} in train mode", "make it return logits (N, K)")
    return out


def _pick(
    out: Any, count: int, name: str, is_head: Callable[[object], bool]
) -> tuple[tuple[Step, ...], Tensor, list[str]]:
    """Return the steps that take the logits from the outputs, the logits, and notes about it.

    Of several tables (N, K) it is the first that has the name of logits, else the first; of different widths the first
    that a linear layer returns, if those agree.
    """
    if isinstance(out, Tensor):
        return (), out, []
    if isinstance(getattr(out, "logits", None), Tensor) and not isinstance(out, Mapping):
        return (_Attribute("logits"),), out.logits, ["returns several values: its `logits` are taken"]
    entries: list[tuple[Any, Any]]
    if isinstance(out, Mapping):
        entries = list(out.items())
    elif isinstance(out, Sequence) and not isinstance(out, str):
        entries = list(enumerate(out))
    else:
        raise InputError(f"`{name}` returns a {type(out).__name__} instead of logits", "return a tensor (N, K)")
    tables = [(k, v) for k, v in entries if isinstance(v, Tensor) and v.dim() == 2 and len(v) == count]
    named = [(k, v) for k, v in tables if k in LOGITS]
    chosen = named[:1] or tables
    if len({v.shape for _, v in chosen}) > 1:
        chosen = [(k, v) for k, v in tables if is_head(v)]
    if not chosen or len({v.shape for _, v in chosen}) > 1:
        shapes = ", ".join(_shape(v) if isinstance(v, Tensor) else type(v).__name__ for _, v in entries[:5])
        raise InputError(
            f"`{name}` returns several values ({shapes}), and which one is the logits is not clear",
            "wrap it in a module that returns the logits (N, K) alone",
        )
    key, value = chosen[0]
    place = f"`{key}`" if isinstance(key, str) else f"number {key + 1}, {_shape(value)},"
    return (_Item(key),), value, [f"returns several values: {place} is taken for the logits"]


def _shape(value: Tensor) -> str:
    return "(" + ", ".join(["N", *map(str, value.shape[1:])]) + ")" if value.dim() else "a number"


@dataclass(frozen=True)
class _Item:
    """Take an entry of a mapping or sequence."""

    key: Any

    def __call__(self, out: Any) -> Any:
        return out[self.key]


@dataclass(frozen=True)
class _Attribute:
    """Take an attribute."""

    name: str

    def __call__(self, out: Any) -> Any:
        return getattr(out, self.name)


def _flat(z: Tensor) -> Tensor:
    return z.flatten(1)


def _two(z: Tensor) -> Tensor:
    """The logit (N,) or (N, 1) of the positive class -> logits of both."""
    z = z.reshape(-1, 1)
    return torch.cat([z * -0.5, z * 0.5], 1)


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(torch.float32).tiny).log()


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p, 1e-7)


UNDO: dict[str, Step] = {"softmax": _log, "sigmoid": _logit}


def _to_logits(value: Tensor, kind: str, name: str) -> tuple[list[Step], list[str]]:
    """Return the steps from an output to logits (N, K), and notes about them."""
    if not value.is_floating_point():
        raise InputError(f"`{name}` returns {value.dtype} instead of logits", "return scores of classes, not classes")
    if not value.dim() or len(value) != PROBES:
        raise InputError(
            f"`{name}` returns {tuple(value.shape)} for {PROBES} images", "return logits (N, K), one row for each image"
        )
    steps, notes = list[Step](), list[str]()
    if value.dim() == 4 and value.shape[2:] == (1, 1):
        steps, value = [_flat], value.flatten(1)
    if value.dim() > 2:
        what = "maps, as for segmentation" if value.dim() == 4 else "several rows for each image"
        raise InputError(f"`{name}` returns {_shape(value)}: {what}", "wrap it in a module that returns logits (N, K)")
    if value.dim() == 2 and not value.shape[1]:
        raise InputError(f"`{name}` returns no classes", "return logits (N, K)")
    single = value.dim() == 1 or value.shape[1] == 1
    probable = not single and bool(((value.sum(1) - 1).abs() < 1e-4).all() and (value >= 0).all())
    kind = "softmax" if probable else kind if kind == "sigmoid" else ""
    if kind:
        steps.append(UNDO[kind])
        notes.append(f"ends with a {kind}, which is undone: methods work on logits")
    if single:
        steps.append(_two)
        notes.append("returns one logit: its sigmoid is the probability of class 1")
    elif kind == "sigmoid":
        notes.append(f"{INDEPENDENT}; here the classes exclude each other")
    return steps, notes
