"""Facts about a loaded model, and the source of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stochx.engine.io.images import shape_text, size_text
from stochx.engine.network.classifier import Classifier

Source = Literal[
    "file", "header", "recognised", "known", "given", "guessed", "measured", "by name", "by place", "refused"
]


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a model, and where from."""

    name: str
    value: str
    source: Source


def normalisation_fact(model: Classifier, source: Source) -> Fact:
    """The mean and standard deviation that a network's pixels are normalised by."""
    mean, std = ([round(float(v), 4) for v in values.flatten()] for values in (model.mean, model.std))
    return Fact("normalisation", f"mean {mean}, std {std}", source)


def input_fact(model: Classifier, source: Source) -> Fact:
    """The channels and size of a network's images, and how they are resized."""
    preparation = model.preparation
    resized = f"short side resized to {preparation.resize}"
    if not isinstance(preparation.resize, int):
        resized = f"resized to cover {size_text(preparation.resize)}"
    return Fact("input", f"{shape_text(model.input_shape)}, {resized}, {preparation.resampling}", source)


def classes_fact(model: Classifier, source: Source) -> Fact:
    """The number of classes, and the first names."""
    shown = ", ".join(model.classes[:3]) + (", ..." if len(model.classes) > 3 else "")
    return Fact("classes", f"{len(model.classes)}: {shown}", source)
