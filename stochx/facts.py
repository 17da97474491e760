"""Facts about a loaded model, and the source of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """The side of a network's images, and how they are resized."""
    side, preparation = model.input_size, model.preparation
    text = f"{side} x {side}, short side resized to {preparation.resize}, {preparation.resampling}"
    return Fact("input", text, source)


def classes_fact(model: Classifier, source: Source) -> Fact:
    """The number of classes, and the first names."""
    shown = ", ".join(model.classes[:3]) + (", ..." if len(model.classes) > 3 else "")
    return Fact("classes", f"{len(model.classes)}: {shown}", source)
