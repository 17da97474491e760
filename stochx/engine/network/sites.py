"""Places for noise layers in a network: kinds of sites, and where they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.engine.network.visits import LAYERS as LAYERS
from stochx.engine.network.visits import Shape, Visit, channel_axis, visits
from stochx.engine.network.visits import evaluating as evaluating
from stochx.errors import UsageError

Place = Literal["output", "input", "weight", "norm"]


@dataclass(frozen=True)
class Site:
    """A place for a noise layer: the output, the input or the weight of a module, or a norm as a whole.

    `shape` is that of the value: (C, H, W), (H, W, C), (T, C) or (D,) per image, or the weight's shape; `axis` is that
    of channels in it. `index` counts sites from 0. Where attention works in windows, its values are those of a window.
    """

    name: str
    place: Place
    shape: Shape
    index: int
    axis: int = 0


def sites(model: Classifier, site: str, layers: str = "*") -> list[Site]:
    """Return the sites of a kind that match `layers`, in the order of the forward pass.

    `before-bn`: outputs of convolutions and linear layers, also of attention's projections, except the logits;
    `after-bn`: outputs of norms: batch, layer, group, RMS; `block`: outputs of the smallest modules that add their
    input to something and have two or more layers, and of all modules of their kinds, or, where no module does so, of
    the smallest custom modules with two or more convolutions; `block-end`: outputs of the last norm of each block, and
    of its shortcut, or of all norms if there is no block; `stem-and-blocks`: of blocks and the first norm, or the first
    layer if the first norm is a layer norm in a block; `conv-input`: inputs of convolutions; `layer-input`: also of
    linear layers; `input`: of the first layer; `penultimate`: of the last ones; `weight`: all weights; `first-weight`:
    that of the first layer; `norms`: batch norms. Patterns are shell-like and joined by `+`.
    """
    if site not in SITES:
        raise UsageError(f"unknown site `{site}`", "choose from: " + ", ".join(SITES))
    place, choose = SITES[site]
    seen = visits(model)
    chosen = [
        (visit, shape)
        for visit in choose(seen)
        if any(fnmatch.fnmatchcase(visit.name, pattern) for pattern in layers.split("+"))
        and (shape := _shape(visit, place)) is not None
    ]
    return [
        Site(visit.name, place, shape, index, _axis(visit, place, shape, seen))
        for index, (visit, shape) in enumerate(chosen)
    ]


def _shape(visit: Visit, place: Place) -> Shape | None:
    if place == "weight":
        return tuple(visit.module.weight.shape)  # type: ignore[arg-type]  # of a layer
    if not visit.sees_image:
        return None
    return visit.read if place == "input" else visit.made


def _axis(visit: Visit, place: Place, shape: Shape, seen: list[Visit]) -> int:
    if place == "weight":
        return 0
    return channel_axis(visit, shape, [other for other in seen if other.name.startswith(f"{visit.name}.")])


def _layers(seen: list[Visit]) -> list[Visit]:
    return [visit for visit in seen if visit.is_layer]


def _norms(seen: list[Visit]) -> list[Visit]:
    return [visit for visit in seen if visit.is_norm and visit.made is not None]


def _of(kind: type[nn.Module]) -> Callable[[list[Visit]], list[Visit]]:
    return lambda seen: [visit for visit in seen if isinstance(visit.module, kind)]


def _blocks(seen: list[Visit]) -> list[Visit]:
    """Return the smallest modules of the kinds that add their input to something, or else with two convolutions."""
    own = [visit for visit in seen if not type(visit.module).__module__.startswith("torch.nn")]
    kinds = {type(visit.module) for visit in own if visit.is_residual and _count(visit, LAYERS) > 1}
    blocks = [visit for visit in own if type(visit.module) in kinds]
    blocks = blocks or [visit for visit in own if _count(visit, (nn.Conv2d,)) > 1]
    return [visit for visit in blocks if not any(other.name.startswith(f"{visit.name}.") for other in blocks)]


def _count(visit: Visit, kinds: tuple[type[nn.Module], ...]) -> int:
    return sum(isinstance(module, kinds) for module in visit.module.modules())


def _block_ends(seen: list[Visit]) -> list[Visit]:
    """Return the last norm of each block and of each of its branches: the `Sequential` modules in it."""
    norms, blocks = _norms(seen), [visit.name for visit in _blocks(seen)]
    if not blocks:
        return norms
    modules = {visit.name: visit.module for visit in seen}

    def branch(name: str) -> str | None:
        block = next((block for block in blocks if name.startswith(f"{block}.")), None)
        if block is None:
            return None
        parts = name.split(".")
        parents = [".".join(parts[:k]) for k in range(block.count(".") + 2, len(parts))]
        return next((p for p in parents if isinstance(modules.get(p), nn.Sequential)), block)

    last = {branch(visit.name): visit.name for visit in norms}
    return [visit for visit in norms if (of := branch(visit.name)) is not None and last[of] == visit.name]


def _stem_and_blocks(seen: list[Visit]) -> list[Visit]:
    norms, blocks = _norms(seen), _blocks(seen)
    inside = norms and any(norms[0].name.startswith(f"{block.name}.") for block in blocks)
    batch = bool(norms) and isinstance(norms[0].module, nn.modules.batchnorm._BatchNorm)
    return [*(_layers(seen)[:1] if inside and not batch else norms[:1]), *blocks]


SITES: dict[str, tuple[Place, Callable[[list[Visit]], list[Visit]]]] = {
    "before-bn": ("output", lambda seen: [visit for visit in _layers(seen) if not visit.is_head]),
    "after-bn": ("output", _norms),
    "block": ("output", _blocks),
    "block-end": ("output", _block_ends),
    "stem-and-blocks": ("output", _stem_and_blocks),
    "input": ("input", lambda seen: _layers(seen)[:1]),
    "conv-input": ("input", _of(nn.Conv2d)),
    "layer-input": ("input", _layers),
    "penultimate": ("input", lambda seen: [visit for visit in seen if visit.is_head]),
    "weight": ("weight", _layers),
    "first-weight": ("weight", lambda seen: _layers(seen)[:1]),
    "norms": ("norm", _of(nn.BatchNorm2d)),
}
