"""Which architecture bare weights belong to: found from the names and shapes of their tensors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models as torchvision_models

from stochx.catalog import MODELS
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from stochx.errors import InputError, UsageError

Shapes = Mapping[str, tuple[int, ...]]

# A tensor that only these torchvision builders have: saves building all of them. Others are tried one by one.
SIGNS: dict[str, tuple[str, ...]] = {
    "layer1.0.conv1.weight": ("resnet", "resnext", "wide_resnet"),
    "features.3.squeeze.weight": ("squeezenet",),
    "features.4.squeeze.weight": ("squeezenet",),
    "features.denseblock1.denselayer1.norm1.weight": ("densenet",),
    "features.1.conv.0.0.weight": ("mobilenet_v2",),
    "classifier.6.weight": ("vgg", "alexnet"),
    "inception3a.branch1.conv.weight": ("googlenet",),
    "trunk_output.block1.block1-0.proj.0.weight": ("regnet",),
}


@dataclass(frozen=True)
class Candidate:
    """An architecture that may fit: its text for `--arch`, and how to build it, weights undefined."""

    arch: str
    build: Callable[[], Classifier]


def names() -> list[str]:
    """Torchvision's classification builders."""
    return [str(name) for name in torchvision_models.list_models(module=torchvision_models)]


def torchvision_network(name: str, classes: int) -> nn.Module:
    """An untrained network of torchvision."""
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision_models.get_model(name, weights=None, num_classes=classes, **more)
    return network.eval()


def class_count(shapes: Shapes) -> int:
    """Return the number of classes: the first size of the last weight of two or four dimensions."""
    sizes = [shape[0] for name, shape in shapes.items() if len(shape) in (2, 4) and name.endswith("weight")]
    heads = [shapes[n][0] for n in ("fc.weight", "linear.weight", "classifier.weight", "head.weight") if n in shapes]
    if not (heads or sizes):
        raise InputError("the file holds no layer's weights", "save the network's `state_dict()`")
    return heads[0] if heads else _last(shapes)


def _last(shapes: Shapes) -> int:
    """Files may be sorted by name: of layers with a number the highest counts, and a classifier before features."""

    def place(name: str) -> tuple[bool, list[tuple[int, int | str]]]:
        parts: list[tuple[int, int | str]] = [(1, int(p)) if p.isdecimal() else (0, p) for p in name.split(".")]
        return name.startswith(("classifier", "fc", "head", "linear")), parts

    weights = [name for name, shape in shapes.items() if len(shape) in (2, 4) and name.endswith("weight")]
    return shapes[max(weights, key=place)][0]


def from_text(arch: str, classes: int) -> Candidate:
    """The architecture that `--arch` names; raises `UsageError` for an unknown one."""
    name = arch.partition(":")[0]
    if name in MODELS:
        entry = MODELS.make(arch)
        return Candidate(entry(classes).arch, lambda: entry(classes))
    if arch in names():
        return Candidate(arch, lambda: torchvision_classifier(arch, classes))
    close = difflib.get_close_matches(arch, [*names(), *MODELS], n=1)
    hint = f"did you mean `{close[0]}`?" if close else "use a torchvision name or one of: " + ", ".join(MODELS)
    raise UsageError(f"unknown architecture `{arch}`", hint)


def torchvision_classifier(name: str, classes: int) -> Classifier:
    """An untrained torchvision network behind ImageNet's normalisation, at its usual input size."""
    crop = 299 if name == "inception_v3" else 224
    labels = [str(i) for i in range(classes)]
    resize = 342 if name == "inception_v3" else 256
    network = torchvision_network(name, classes)
    return Classifier(network, labels, Preparation(resize, crop), IMAGENET_MEAN, IMAGENET_STD, arch=name)


def recognise(shapes: Shapes, path: str) -> Candidate:
    """Return the only architecture with exactly these names and shapes.

    Raises `InputError`: with the candidates where several fit, with the closest and what differs where none does.
    """
    classes = class_count(shapes)
    closest: tuple[float, str, Shapes] = (0.0, "", {})
    for candidates in (_own(shapes, classes), _likely(shapes, classes), _others(shapes, classes)):
        fitting = []
        for candidate in candidates:
            expected = expected_shapes(candidate)
            if expected == _counted(shapes):
                fitting.append(candidate)
            closest = max(closest, (_overlap(expected, shapes), candidate.arch, expected), key=lambda c: c[0])
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            options = " or ".join(f"`--arch {c.arch}`" for c in fitting)
            raise InputError(f"several architectures fit `{path}`: strides leave no trace in weights", options)
    score, arch, expected = closest
    if score < 0.3:
        raise InputError(
            f"the network in `{path}` is unknown", "give `--arch`, or your own code as package.module:factory"
        )
    raise InputError(
        f"`{path}` is no network that is known; closest is `{arch}`: {differences(expected, shapes)}",
        "give `--arch`, or your own code as package.module:factory",
    )


def _own(shapes: Shapes, classes: int) -> Iterator[Candidate]:
    for name in MODELS:
        for entry in MODELS.load(name).fits(shapes):
            yield Candidate(entry(classes).arch, lambda entry=entry: entry(classes))  # type: ignore[misc]


def _likely(shapes: Shapes, classes: int) -> Iterator[Candidate]:
    families = tuple(f for sign, prefixes in SIGNS.items() if sign in shapes for f in prefixes)
    for name in names():
        if families and name.startswith(families):
            yield Candidate(name, lambda name=name: torchvision_classifier(name, classes))  # type: ignore[misc]


def _others(shapes: Shapes, classes: int) -> Iterator[Candidate]:
    if any(sign in shapes for sign in SIGNS):
        return
    signed = tuple(f for prefixes in SIGNS.values() for f in prefixes)
    for name in names():
        if not name.startswith(signed):
            yield Candidate(name, lambda name=name: torchvision_classifier(name, classes))  # type: ignore[misc]


def expected_shapes(candidate: Candidate) -> Shapes:
    """The names and shapes of a candidate's tensors, without making them."""
    try:
        with torch.device("meta"):
            network = candidate.build().network
    except NotImplementedError:  # RegNet computes its widths with tensors
        with _Undrawn():
            network = candidate.build().network
    return _counted({name: tuple(value.shape) for name, value in network.state_dict().items()})


class _Undrawn(TorchFunctionMode):
    """Scope in which new weights keep whatever is in memory: to draw them costs more than all else of a network."""

    DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self.DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _counted(shapes: Shapes) -> Shapes:
    """Without the batch counters, which older files lack."""
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def _overlap(expected: Shapes, shapes: Shapes) -> float:
    same = sum(expected.get(name) == shape for name, shape in shapes.items())
    return same / max(len(_counted(shapes)), len(expected), 1)


def differences(expected: Shapes, shapes: Shapes) -> str:
    """The first few tensors that are missing, mis-shaped or not expected."""
    stored = _counted(shapes)
    wrong = [
        f"`{n}` is {_size(stored[n])}, not {_size(s)}" for n, s in expected.items() if n in stored and stored[n] != s
    ]
    missing = [f"`{n}` is missing" for n in expected if n not in stored]
    extra = [f"`{n}` is not expected" for n in stored if n not in expected]
    all_of_them = [*wrong, *missing, *extra]
    more = f" and {len(all_of_them) - 3} more" if len(all_of_them) > 3 else ""
    return ", ".join(islice(all_of_them, 3)) + more


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
