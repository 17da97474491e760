"""The weights of a network within a checkpoint: beside counters and losses, under prefixes, in several copies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

DEPTH = 5  # of mappings in mappings
MOST = 50  # parts that are looked at, the likeliest
COPIES = 8  # more equal branches than that are layers of one network
# Prefixes that wrappers add to all names: DataParallel, torch.compile, Lightning, Fabric, DeepSpeed, ...
WRAPPERS = frozenset({"module", "_orig_mod", "_forward_module", "model", "network", "net", "backbone", "encoder"})
# Parts that are later copies of other weights.
AVERAGES = re.compile(r"(^|[._])(ema|swa|shadow|teacher|target|momentum|averaged?|avg|encoder_k|key_encoder)([._]|$)")
OPTIMIZERS = re.compile(r"optim|sched|scaler")
# The last layers that OpenMMLab's classifiers keep beside `backbone`, after a global average.
MM_HEADS = ("head.fc", "cls_head.fc")
# Tensors of a training that are no part of the network.
STRAYS = re.compile(
    r"loss|criterion|metric|queue|n_averaged|num_updates|initted|class_weight|centers?$"
    r"|(^|[._])(epoch|step|global_step|iter\w*|best\w*|acc\w*|top1|top5|lr|seed|decay)$",
    re.IGNORECASE,
)
MEANS, DEVIATIONS = ("mean", "new_mean", "mu", "pixel_mean", "_mean"), ("std", "new_std", "sigma", "pixel_std", "_std")

Signature = frozenset[tuple[str, torch.Size]]  # names and shapes


@dataclass(frozen=True)
class Part:
    """Named tensors of one network in a file, their place (`state_dict`, `model.encoder_q`), and those beside them.

    `rivals` are the places of other weights in the same file that may be meant: an average, a teacher. `averaged` is
    true for weights that are an average over the steps of a training.
    """

    place: str
    tensors: Mapping[str, Tensor]
    beside: Mapping[str, Tensor]
    rivals: tuple[str, ...] = ()
    averaged: bool = False

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of pixels in [0, 1], where buffers of a normalisation lie beside the weights."""
        found: list[tuple[float, ...]] = []
        for names in (MEANS, DEVIATIONS):
            fitting = [t for n, t in self.beside.items() if n.rpartition(".")[2] in names and t.numel() == 3]
            if not fitting:
                return None
            found.append(tuple(fitting[0].double().flatten().tolist()))
        mean, std = found
        scale = 255 if max(mean + std) > 1 else 1
        return tuple(m / scale for m in mean), tuple(s / scale for s in std)

    @property
    def unknown(self) -> list[str]:
        """The names of tensors beside the network that it may need: no losses, counters, copies or normalisations."""
        return [name for name in self.beside if not is_stray(name)]


def is_stray(name: str) -> bool:
    """Return true for what training scripts leave beside weights: counters, losses, metrics, normalisations."""
    return STRAYS.search(name) is not None or name.rpartition(".")[2] in (*MEANS, *DEVIATIONS)


def parts(content: object) -> list[Part]:
    """Return all that may be the weights of a network in a file's content, the likeliest first.

    Plain weights come before averages of them, and many bytes before few.
    """
    found = [part for place, table in _tables(content, "", 0) for part in _copies(place, table)]
    swapped = isinstance(content, Mapping) and "current_model_state" in content  # Lightning's `WeightAveraging`
    found = [replace(part, averaged=_is_average(part, swapped)) for part in found]
    largest = max(map(_size, found), default=0)
    found.sort(key=lambda part: (_size(part) * 3 < largest, part.averaged))
    found = found[:MOST]
    cores = [_core(part.tensors) for part in found]
    alike: dict[Signature, list[int]] = {}
    for i, core in enumerate(cores):
        alike.setdefault(_signature(core), []).append(i)
    return [
        replace(part, rivals=tuple(found[j].place for j in alike[_signature(core)] if _differ(core, cores[j])))
        for part, core in zip(found, cores, strict=True)
    ]


def _is_average(part: Part, swapped: bool) -> bool:
    if swapped and part.place.partition(".")[0] in ("state_dict", "current_model_state"):
        return part.place.startswith("state_dict")
    return AVERAGES.search(part.place.lower()) is not None or any(n.endswith("n_averaged") for n in part.tensors)


def _differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return true if tensors of the same names and shapes have different values."""
    return one is not other and not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def views(part: Part) -> Iterator[Part]:
    """Yield a part without any prefix that all its tensors share, then without those of wrappers, and with them."""
    steps = _stripped(part, WRAPPERS)
    yield from filter(None, map(_with_head, steps))
    bare = _stripped(part, None)[-1]
    if bare.place not in [step.place for step in steps]:
        yield bare
    yield from reversed(steps)


def _with_head(part: Part) -> Part | None:
    """Return the backbone of an OpenMMLab classifier with its last layer as `fc`; None for any other part."""
    for head in MM_HEADS:
        layer = {f"{head}.weight": "fc.weight", f"{head}.bias": "fc.bias"}
        if part.place.endswith("backbone") and layer.keys() <= part.beside.keys():
            tensors = {**part.tensors, **{name: part.beside[stored] for stored, name in layer.items()}}
            return replace(part, tensors=tensors, beside={n: t for n, t in part.beside.items() if n not in layer})
    return None


def _tables(content: object, place: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the mappings that hold tensors, with the keys that lead to them."""
    if isinstance(content, list | tuple) and content:
        content = content[0]
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if any(value.dim() > 0 for value in tensors.values()):
        yield place, tensors
    of_optimizer = "param_groups" in content  # beside its `state`; Composer has weights under that name
    for name, value in content.items():
        if of_optimizer and name == "state":
            continue
        if isinstance(name, str) and not isinstance(value, Tensor) and not OPTIMIZERS.search(name):
            yield from _tables(value, f"{place}.{name}".strip("."), depth + 1)


def _copies(place: str, table: dict[str, Tensor]) -> Iterator[Part]:
    """Yield the copies of one network that a mapping holds under different prefixes, or all of it."""
    groups: dict[str, dict[str, Tensor]] = {}
    *_, outer = _stripped(Part(place, table, {}), WRAPPERS - {"encoder", "backbone"})
    for name, tensor in outer.tensors.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first if rest else "", {})[rest or name] = tensor
    cores = {first: _signature(_core(group)) for first, group in groups.items() if first}
    counts = Counter(cores.values())
    for first, core in cores.items():
        branches, tensors = counts[core], groups[first]
        if 1 < branches <= COPIES and _bytes(tensors) * (branches + 1) > _bytes(table):  # encoder, momentum encoder
            others = {f"{f}.{n}".strip("."): t for f, g in groups.items() if f != first for n, t in g.items()}
            beside = {n: t for n, t in others.items() if cores.get(n.partition(".")[0]) != core}
            yield Part(f"{outer.place}.{first}".strip("."), tensors, {**outer.beside, **beside})
    yield Part(place, table, {})


def _core(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the prefixes of wrappers, and without strays."""
    bare = _stripped(Part("", tensors, {}), WRAPPERS)[-1].tensors
    return {name: tensor for name, tensor in bare.items() if not is_stray(name)}


def _stripped(part: Part, prefixes: frozenset[str] | None) -> list[Part]:
    """Return a part with one prefix after the other removed; None stands for every prefix that all weights share.

    What does not begin with a wrapper's prefix goes beside, if it is less than half.
    """
    steps = [part]
    while True:
        now = steps[-1]
        shares: dict[str, int] = {}
        for name, tensor in now.tensors.items():
            first, dot, _ = name.partition(".")
            shares[first if dot else ""] = shares.get(first if dot else "", 0) + tensor.nbytes
        first = max(shares, key=lambda key: shares[key], default="")
        inside = {n.partition(".")[2]: t for n, t in now.tensors.items() if n.startswith(f"{first}.")}
        outside = {n: t for n, t in now.tensors.items() if not n.startswith(f"{first}.")}
        shared = all(map(is_stray, outside)) if prefixes is None else first in prefixes
        layered = any("." in name for name in inside)  # no layer, but a network
        if not first or not shared or not layered or shares[first] * 2 <= sum(shares.values()):
            return steps
        steps.append(
            replace(now, place=f"{now.place}.{first}".strip("."), tensors=inside, beside={**now.beside, **outside})
        )


def without_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that weight and spectral norms compute, under the names of the layers without them."""
    out = dict(tensors)
    for name in tensors:
        for ending, others, weight in NORMS:
            if name.endswith(ending) and all(name.removesuffix(ending) + other in tensors for other in others):
                base = name.removesuffix(ending)
                out[f"{base}weight"] = weight(*(tensors[base + other] for other in (ending, *others)))
                for other in (ending, *others):
                    out.pop(base + other, None)
    return out


def _weight_norm(size: Tensor, direction: Tensor) -> Tensor:
    """Return g v / ||v||, the norm over all axes in which g has size one."""
    axes = [axis for axis in range(direction.dim()) if size.dim() == 0 or size.shape[axis] == 1]
    length: Tensor = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return direction * (size / length)


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return w / (u w v), its rows along the first axis."""
    return weight / torch.dot(u, weight.flatten(1) @ v)


PARAMETRISED = "parametrizations.weight"
# For each norm the endings of its tensors, of the first alone and of the others, and the weight that they make.
NORMS: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    (f"{PARAMETRISED}.original0", (f"{PARAMETRISED}.original1",), _weight_norm),
    ("weight_g", ("weight_v",), _weight_norm),
    (
        "parametrizations.weight.original",
        ("parametrizations.weight.0._u", "parametrizations.weight.0._v"),
        _spectral_norm,
    ),
    ("weight_orig", ("weight_u", "weight_v"), _spectral_norm),
)


def _signature(tensors: Mapping[str, Tensor]) -> Signature:
    return frozenset((name, tensor.shape) for name, tensor in tensors.items())


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _size(part: Part) -> int:
    return _bytes(part.tensors)
