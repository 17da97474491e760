"""Places for noise layers in a network: kinds of sites, and where they are."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.classifier import Classifier
from stochx.errors import UsageError

Place = Literal["output", "input", "weight", "norm"]
LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Site:
    """A place for a noise layer: the output, the input or the weight of a module, or a norm as a whole.

    `shape` is that of the value: (C, H, W) or (D,) per image, or the weight's shape. `index` counts sites from 0.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    index: int


def sites(model: Classifier, site: str, layers: str = "*") -> list[Site]:
    """Return the sites of a kind that match `layers`, in the order of the forward pass.

    `before-bn`: outputs of convolutions and linear layers except the logits; `after-bn`: outputs of batch norms;
    `block`: outputs of the smallest custom modules with two or more convolutions; `block-end`: outputs of the last norm
    of each block, and of its shortcut, or of all norms if there is no block; `stem-and-blocks`: of blocks and the first
    norm; `conv-input`: inputs of convolutions; `layer-input`: also of linear layers; `input`: of the first layer;
    `penultimate`: of the last; `weight`: all weights; `first-weight`: that of the first layer; `norms`: batch norms.
    Patterns are shell-like and joined by `+`.
    """
    if site not in SITES:
        raise UsageError(f"unknown site `{site}`", "choose from: " + ", ".join(SITES))
    place, choose = SITES[site]
    chosen = [
        (name, shape)
        for name, shape in choose(model.network, _visited_modules(model, place))
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in layers.split("+"))
    ]
    return [Site(name, place, shape, index) for index, (name, shape) in enumerate(chosen)]


Shapes = list[
    tuple[str, tuple[int, ...]]
]  # names of modules, in the order of the forward pass, with the shape of a value


def _visited_modules(model: Classifier, place: Place) -> Shapes:
    """Return the modules that run in eval mode, each once, with the shape of the value per image at `place`."""
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
            value = inputs[0] if place == "input" and inputs else output
            if place == "weight":
                shapes.setdefault(name, tuple(getattr(module, "weight", torch.zeros(0)).shape))
            elif isinstance(value, Tensor):
                shapes.setdefault(name, tuple(value.shape[1:]))

        return hook

    try:
        handles = [m.register_forward_hook(note(name)) for name, m in model.network.named_modules() if name]
        with evaluating(model), torch.inference_mode(), torch.random.fork_rng():
            model(model.blank())
    finally:
        for handle in handles:
            handle.remove()
    return list(shapes.items())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block, and restore the mode of every module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _layers(network: nn.Module, shapes: Shapes) -> Shapes:
    return [(name, shape) for name, shape in shapes if isinstance(network.get_submodule(name), LAYERS)]


def _of(kind: type[nn.Module]) -> Callable[[nn.Module, Shapes], Shapes]:
    return lambda network, shapes: [item for item in shapes if isinstance(network.get_submodule(item[0]), kind)]


def _blocks(network: nn.Module, shapes: Shapes) -> Shapes:
    """Return the smallest modules other than torch's containers that hold at least two convolutions."""

    def is_block(name: str) -> bool:
        module = network.get_submodule(name)
        own = not type(module).__module__.startswith("torch.nn")
        return own and sum(isinstance(m, nn.Conv2d) for m in module.modules()) > 1

    blocks = [item for item in shapes if is_block(item[0])]
    return [item for item in blocks if not any(other.startswith(f"{item[0]}.") for other, _ in blocks)]


def _block_ends(network: nn.Module, shapes: Shapes) -> Shapes:
    """Return the last norm of each block and of each of its branches: the `Sequential` modules in it."""
    norms, blocks = _of(nn.BatchNorm2d)(network, shapes), [name for name, _ in _blocks(network, shapes)]
    if not blocks:
        return norms

    def branch(name: str) -> str | None:
        block = next((block for block in blocks if name.startswith(f"{block}.")), None)
        if block is None:
            return None
        parts = name.split(".")
        parents = [".".join(parts[:k]) for k in range(block.count(".") + 2, len(parts))]
        return next((p for p in parents if isinstance(network.get_submodule(p), nn.Sequential)), block)

    last = {branch(name): name for name, _ in norms}
    return [item for item in norms if branch(item[0]) is not None and last[branch(item[0])] == item[0]]


SITES: dict[str, tuple[Place, Callable[[nn.Module, Shapes], Shapes]]] = {
    "before-bn": ("output", lambda network, shapes: _layers(network, shapes)[:-1]),
    "after-bn": ("output", _of(nn.BatchNorm2d)),
    "block": ("output", _blocks),
    "block-end": ("output", _block_ends),
    "stem-and-blocks": (
        "output",
        lambda network, shapes: _of(nn.BatchNorm2d)(network, shapes)[:1] + _blocks(network, shapes),
    ),
    "input": ("input", lambda network, shapes: _layers(network, shapes)[:1]),
    "conv-input": ("input", _of(nn.Conv2d)),
    "layer-input": ("input", _layers),
    "penultimate": ("input", lambda network, shapes: _layers(network, shapes)[-1:]),
    "weight": ("weight", _layers),
    "first-weight": ("weight", lambda network, shapes: _layers(network, shapes)[:1]),
    "norms": ("norm", _of(nn.BatchNorm2d)),
}
