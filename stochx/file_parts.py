"""Weights in a file and architectures: which of them are meant, and which architecture they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stochx.architectures import (
    AmbiguousError,
    Candidate,
    Shapes,
    architecture,
    class_count,
    differences,
    expected_shapes,
    is_factory,
    needed_tensors,
    recognise,
    shapes_of,
)
from stochx.engine.network import weights
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.contents import Part, views, without_norms
from stochx.errors import InputError, UsageError, quoted
from stochx.factory import from_factory
from stochx.facts import Fact
from stochx.pretrained import timm_name
from stochx.settings.values import Size


@dataclass(frozen=True)
class Choice:
    """Which of several weights in a file are meant: those of a `part` (`model.encoder_q`), those of an average."""

    part: str = ""
    ema: bool = False


def choose_parts(parts: Sequence[Part], chosen: Choice, path: Path) -> list[Part]:
    """Return the parts that are averages, and whose place ends with the chosen one."""
    places = [part.place for part in parts if part.place]
    holds = f"it holds {quoted(places, 10) or 'one network'}"
    if chosen.ema:
        parts = [part for part in parts if part.averaged]
        if not parts:
            raise UsageError(f"`{path}` holds no averaged weights", f"{holds}; leave `--ema` out")
    if not chosen.part:
        return list(parts)
    fitting = [view for part in parts for view in views(part) if f".{view.place}".endswith(f".{chosen.part}")]
    if not fitting:
        raise UsageError(f"`{path}` has no part `{chosen.part}`", holds)
    return fitting


def _readings(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield all that the tensors of the parts may be: without prefixes, and with normed weights made plain."""
    for part in parts:
        for view in views(part):
            yield view
            bare = without_norms(view.tensors)
            if bare.keys() != view.tensors.keys():
                yield replace(view, tensors=bare)


def _shapes(part: Part) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}


def recognised(parts: Sequence[Part], path: Path, network: str) -> tuple[Candidate, Part, Classifier]:
    """Return the architecture of the first part that has a known one, and load it.

    Raises `InputError` where none has; of a network that was stored whole, that one says its class.
    """
    first: InputError | None = None
    for part in _readings(parts):
        try:
            candidate = recognise(_shapes(part), str(path))
        except AmbiguousError:
            raise
        except InputError as error:
            first = first or error
        else:
            return candidate, part, _loaded(candidate.build(), part, path)
    assert first is not None, "a file without parts is refused"
    if any(part.place.endswith("visual") or {"logit_scale", "visual.proj"} & part.tensors.keys() for part in parts):
        raise InputError(
            f"`{path}` holds a network of images and texts (CLIP), which has no classes",
            "explain a network that was trained to classify",
        )
    if network:
        raise InputError(
            f"`{path}` holds a whole network, of the class `{network}`, whose code is not run: {first}",
            "give `--arch FILE.py:function` that makes the network, or `--arch timm:NAME`",
        )
    raise first


def without_classes(arch: str, parts: Sequence[Part], path: Path) -> tuple[Candidate, Part, Classifier] | None:
    """Return the network of timm that an architecture, or else the file's name, tells, if its last layer is missing."""
    name = arch.removeprefix("timm:") if arch.startswith("timm:") else None if arch else timm_name(path.stem)
    if name is None:
        return None
    candidate = architecture(f"timm:{name}", 0)
    try:
        return candidate, *_fill(candidate, parts, path)
    except InputError:
        return None


def named(
    arch: str, parts: Sequence[Part], path: Path, size: tuple[Size, Size] | None
) -> tuple[Candidate, Part, Classifier, list[Fact]]:
    """Load the weights into an architecture that is given; return it, and what is known of the user's own code.

    Raises `InputError` where none of the parts fits.
    """
    if is_factory(arch):
        made, facts = from_factory(arch, size)
        candidate = Candidate(arch, lambda: made)
        return candidate, *_fill(candidate, parts, path), facts
    first: InputError | None = None
    tried = set[int]()
    for reading in _readings(parts):  # one may lack the head, or all weights
        try:
            count = class_count(_shapes(reading))
            if count not in tried:
                tried.add(count)
                candidate = architecture(arch, count)
                return candidate, *_fill(candidate, parts, path), []
        except InputError as error:
            first = first or error
    assert first is not None, "a file without parts is refused"
    raise first


def _fill(candidate: Candidate, parts: Sequence[Part], path: Path) -> tuple[Part, Classifier]:
    """Build an architecture, and load the first part that fits it."""
    readings = list(_readings(parts))
    expected = shapes_of(candidate.build().network) if is_factory(candidate.arch) else expected_shapes(candidate)
    for part in readings:
        if needed_tensors(_shapes(part), expected, candidate.unused) == expected:
            return part, _loaded(candidate.build(), part, path)
    lack = differences(expected, _shapes(readings[0]))
    raise InputError(f"`{path}` does not fit `{candidate.arch}`: {lack}", "check `--arch`")


def _loaded(model: Classifier, part: Part, path: Path) -> Classifier:
    """Load tensors whose names were compared; batch counters may be absent.

    Raises `InputError` for integers in the place of real weights: those of a quantised network lack their scales.
    """
    weights.check_finite(part.tensors, path)
    own = model.network.state_dict()
    for name, tensor in part.tensors.items():
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point():
            raise InputError(f"`{path}`: the tensor `{name}` is of integers", "use the weights before quantisation")
    model.network.load_state_dict({n: weights.full(t) for n, t in part.tensors.items()}, strict=False)
    return model
