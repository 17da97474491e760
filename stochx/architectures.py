"""Which architecture bare weights belong to: found from the names and shapes of their tensors."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stochx.catalog import MODELS
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.contents import is_stray
from stochx.errors import InputError, UsageError
from stochx.factory import USUAL, from_factory, is_named
from stochx.presets import AUXILIARY, Declared, TorchvisionNetwork, names
from stochx.pretrained import timm_classifier, timm_declared, timm_name
from stochx.settings.values import Size
from stochx.transformers_networks import PREFIX, transformers_classifier

Shapes = Mapping[str, tuple[int, ...]]

# A tensor that only these torchvision builders have: saves building all of them. Others are tried one by one.
SIGNS: dict[str, tuple[str, ...]] = {
    "layer1.0.conv1.weight": ("resnet", "resnext", "wide_resnet"),
    "features.0.weight": ("alexnet", "squeezenet", "vgg"),
    "features.denseblock1.denselayer1.norm1.weight": ("densenet",),
    "features.1.conv.0.0.weight": ("mobilenet_v2",),
    "features.1.block.0.0.weight": ("mobilenet_v3",),
    "features.1.0.block.0.0.weight": ("efficientnet",),
    "features.1.0.layer_scale": ("convnext",),
    "features.1.0.norm1.weight": ("swin",),
    "layers.0.weight": ("mnasnet",),
    "stage2.0.branch1.0.weight": ("shufflenet",),
    "stem.0.0.weight": ("maxvit", "regnet"),
    "trunk_output.block1.block1-0.proj.0.weight": ("regnet",),
    "inception3a.branch1.conv.weight": ("googlenet",),
    "Mixed_5b.branch1x1.conv.weight": ("inception",),
    "encoder.pos_embedding": ("vit",),
}


@dataclass(frozen=True)
class Candidate:
    """An architecture that may fit: its text for `--arch`, and how to build it, weights undefined.

    `declared` returns the preprocessing of weights in a file, by its path, hash and number of classes; None for
    architectures that have their own. Tensors whose names begin with `unused` are left out.
    """

    arch: str
    build: Callable[[], Classifier]
    declared: Callable[[Path, str, int], Declared] | None = None
    unused: tuple[str, ...] = ()


class AmbiguousError(InputError):
    """Several architectures fit the weights."""


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


def is_factory(text: str) -> bool:
    """Return true for a name of the user's own code, `package.module:factory`, not for `robust_cnn:first=2`."""
    name, _, rest = text.partition(":")
    known = name in (*MODELS, "timm") or (name in names() and "=" in rest)
    return not known and is_named(text)


def architecture(arch: str, classes: int, usual: Size = USUAL) -> Candidate:
    """Return the architecture that `--arch` or a header names: of `models/`, torchvision, timm or the user's own.

    `usual` is the input size of own code that takes several, and declares none.
    Raises `UsageError` for an unknown one.
    """
    if is_factory(arch):
        return Candidate(arch, lambda: from_factory(arch, usual=usual)[0])
    name = arch.partition(":")[0]
    if name in MODELS:
        entry = MODELS.make(arch)
        return Candidate(entry(classes).arch, lambda: entry(classes))
    if arch.startswith(PREFIX):
        return Candidate(arch, lambda: transformers_classifier(arch))
    if name == "timm":
        return _timm(arch.removeprefix("timm:"), classes)
    network = TorchvisionNetwork.parse(arch)
    if network is not None:
        return _torchvision(network, classes)
    close = difflib.get_close_matches(arch, [*names(), *MODELS], n=1)
    hint = (
        f"did you mean `{close[0]}`?" if close else "use a torchvision name, timm:NAME or one of: " + ", ".join(MODELS)
    )
    raise UsageError(f"unknown architecture `{arch}`", hint)


def untrained(candidate: Candidate, classes: int) -> Classifier:
    """Build an architecture with new weights; raises `UsageError` for own code with another number of outputs."""
    model = candidate.build()
    if len(model.classes) != classes:
        raise UsageError(
            f"`{candidate.arch}` has {len(model.classes)} outputs for {classes} classes", "change its last layer"
        )
    return model


def _torchvision(network: TorchvisionNetwork, classes: int) -> Candidate:
    unused = AUXILIARY.get(network.name, ())
    return Candidate(network.text, lambda: network(classes), network.declared, unused)


def _timm(name: str, classes: int) -> Candidate:
    return Candidate(
        f"timm:{name}", lambda: timm_classifier(name, classes), lambda path, sha256, count: timm_declared(name, count)
    )


def recognise(shapes: Shapes, path: str) -> Candidate:
    """Return the only architecture with exactly these names and shapes, but for what training leaves beside them.

    Raises `InputError`: with the candidates where several fit, with the closest and what differs where none does.
    """
    classes = class_count(shapes)
    closest: tuple[float, str, Shapes] = (0.0, "", {})
    for candidates in (
        _own(shapes, classes),
        _likely(shapes, classes),
        _others(shapes, classes),
        _named(path, classes),
    ):
        fitting = []
        for candidate in candidates:
            expected = expected_shapes(candidate)
            given = needed_tensors(shapes, expected, candidate.unused)
            if given == expected:
                fitting.append(candidate)
            elif (moved := _with_another_head(candidate, expected, given, classes)) is not None:
                fitting.append(moved)
            closest = max(closest, (_overlap(expected, given), candidate.arch, expected), key=lambda c: c[0])
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            options = " or ".join(f"`--arch {c.arch}`" for c in fitting)
            raise AmbiguousError(f"several architectures fit `{path}`: strides leave no trace in weights", options)
    score, arch, expected = closest
    hint = "give `--arch timm:NAME` for a network of timm, or your own code as `--arch package.module:factory`"
    if score < 0.3:
        raise InputError(f"the network in `{path}` is unknown", hint)
    raise InputError(
        f"`{path}` matches no known architecture; closest is `{arch}`: {differences(expected, shapes)}", hint
    )


def needed_tensors(shapes: Shapes, expected: Shapes, unused: tuple[str, ...] = ()) -> Shapes:
    """Return the tensors that a network must have: without counters, auxiliary heads and what training leaves."""
    return {
        name: shape
        for name, shape in without_counters(shapes).items()
        if name in expected or not (is_stray(name) or (unused and name.startswith(unused)))
    }


def _with_another_head(candidate: Candidate, expected: Shapes, given: Shapes, classes: int) -> Candidate | None:
    """Return the architecture with the given last layer in another place, such as behind a dropout (`fc.1`), if any."""
    network = TorchvisionNetwork.parse(candidate.arch)
    if network is None:
        return None
    own = [name for name, shape in expected.items() if len(shape) in (2, 4) and name.endswith(".weight")][-1]
    head = own.removesuffix(".weight")
    body = {name: shape for name, shape in expected.items() if not name.startswith(f"{head}.")}
    rest = {name: shape for name, shape in given.items() if name not in body}
    places = [name.removesuffix(".weight") for name, shape in rest.items() if shape == expected[own]]
    if len(places) != 1 or body != {name: shape for name, shape in given.items() if name in body}:
        return None
    if rest.keys() != {f"{places[0]}.weight", f"{places[0]}.bias"}:
        return None
    try:
        moved = _torchvision(replace(network, head=places[0]), classes)
        return moved if expected_shapes(moved) == given else None
    except UsageError:  # no place that the last layer can have
        return None


def _own(shapes: Shapes, classes: int) -> Iterator[Candidate]:
    for name in MODELS:
        for entry in MODELS.load(name).fits(shapes):
            yield Candidate(entry(classes).arch, lambda entry=entry: entry(classes))  # type: ignore[misc]


def _likely(shapes: Shapes, classes: int) -> Iterator[Candidate]:
    families = tuple(f for sign, prefixes in SIGNS.items() if sign in shapes for f in prefixes)
    patch = shapes.get("conv_proj.weight", ())
    for name in names():
        if families and name.startswith(families) and (not patch or name.endswith(f"_{patch[-1]}")):
            yield _torchvision(TorchvisionNetwork(name, image_size=_positions(shapes)), classes)


def _others(shapes: Shapes, classes: int) -> Iterator[Candidate]:
    if any(sign in shapes for sign in SIGNS):
        return
    signed = tuple(f for prefixes in SIGNS.values() for f in prefixes)
    for name in names():
        if not name.startswith(signed):
            yield _torchvision(TorchvisionNetwork(name), classes)


def _named(path: str, classes: int) -> Iterator[Candidate]:
    """Yield the network of timm after which the file is named."""
    name = timm_name(Path(path).stem)
    if name is not None:
        yield _timm(name, classes)


def _positions(shapes: Shapes) -> int:
    """Return the side of images that a vision transformer's positions were made for, 0 for the usual one."""
    places, patch = shapes.get("encoder.pos_embedding", ()), shapes.get("conv_proj.weight", ())
    if len(places) != 3 or len(patch) != 4:
        return 0
    side = math.isqrt(max(0, places[1] - 1)) * patch[-1]
    return 0 if side == 224 else side


def expected_shapes(candidate: Candidate) -> Shapes:
    """The names and shapes of a candidate's tensors, without making them."""
    try:
        with torch.device("meta"):
            network = candidate.build().network
    except NotImplementedError:  # RegNet computes its widths with tensors
        with _Undrawn():
            network = candidate.build().network
    return shapes_of(network)


def shapes_of(network: nn.Module) -> Shapes:
    """The names and shapes of a network's tensors, without batch counters."""
    return without_counters({name: tuple(value.shape) for name, value in network.state_dict().items()})


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


def without_counters(shapes: Shapes) -> Shapes:
    """Without the batch counters, which older files lack."""
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def _overlap(expected: Shapes, shapes: Shapes) -> float:
    same = sum(expected.get(name) == shape for name, shape in shapes.items())
    return same / max(len(without_counters(shapes)), len(expected), 1)


def differences(expected: Shapes, shapes: Shapes) -> str:
    """The first few tensors that are missing, mis-shaped or not expected."""
    stored = without_counters(shapes)
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
