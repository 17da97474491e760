"""Train a network on a data set, and measure it on the test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stochx.engine.classifier import Classifier
from stochx.engine.data import Data
from stochx.engine.fit import Epoch, Plan, fit
from stochx.engine.gradients import logits
from stochx.engine.images import Preparation
from stochx.engine.seeds import seeded
from stochx.engine.statistics import Estimate, estimate
from stochx.engine.world import World
from stochx.errors import InputError


@dataclass(frozen=True)
class Trained:
    """A finished training: the last epoch, and the accuracy on images that it has not seen."""

    epochs: int
    loss: float
    train_accuracy: float
    accuracy: float
    ci95: float
    n: int


def build(make: Callable[[int], Classifier], classes: tuple[str, ...], seed: int) -> Classifier:
    """An untrained classifier for these classes whose weights depend on `seed` alone."""
    if len(classes) < 2:
        raise InputError(f"the data set has {len(classes)} class", "a classifier needs at least two")
    with seeded(seed, "weights"):
        model = make(len(classes))
    model.classes = classes
    return model


def epochs(
    model: Classifier, data: Data, plan: Plan, seed: int, state: Path | None, resume: bool, world: World
) -> Iterator[Epoch]:
    """Train on all of `data`, epoch by epoch."""
    pixels, labels = stack(data, model.preparation)
    return fit(model, pixels, labels, plan, seed, state, resume, world)


def accuracy(model: Classifier, data: Data) -> Estimate:
    """The share of images whose top prediction is their label, with its interval."""
    pixels, labels = stack(data, model.preparation)
    found = [
        logits(model, some.to(model.mean.device).float() / 255).argmax(1).cpu() for some in torch.split(pixels, 1024)
    ]
    return estimate((torch.cat(found) == labels).double().tolist())


def stack(data: Data, preparation: Preparation) -> tuple[Tensor, Tensor]:
    """All images, (N, 3, H, W) uint8 at the network's size, and their labels (N,)."""
    if data.labels is None:
        raise InputError("the data set has no labels", "use class folders, or an npz with `labels`")
    labels = torch.tensor([int(label) for label in data.labels])
    if data.pixels is not None and data.pixels.shape[-2:] == (preparation.crop, preparation.crop):
        return data.pixels, labels
    images = [data.item(i, preparation).image for i in range(len(data))]
    return (torch.stack(images) * 255).round().to(torch.uint8), labels
