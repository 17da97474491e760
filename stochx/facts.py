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
