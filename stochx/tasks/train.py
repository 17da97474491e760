"""Training of a network on a data set, with validation after each epoch and accuracy on test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochx.attacks.pgd import PGD
from stochx.engine.device import full_precision
from stochx.engine.gradients import logits
from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation
from stochx.engine.io.scratch import scratch
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.engine.statistics import Estimate, wilson
from stochx.engine.training.fit import TrainingBatch, Validate
from stochx.errors import InputError
from stochx.tasks.objectives import Adversarial

QUICK = 512  # maximum number of images of the quick robust accuracy
QUICK_STEPS = 10  # steps of its PGD
READERS = 8  # images decoded in parallel

Report = Callable[[int], None]
"""Takes the number of images that were read or predicted since the last call."""


def unreported(count: int) -> None:
    """Ignore a count."""


@dataclass(frozen=True)
class Trained:
    """A finished training run: the last epoch, and the accuracy on test images with the ends of its 95 % interval.

    With validation also the epoch whose weights were kept, with its `clean` and quick `robust` accuracy on `validation`
    images.
    """

    epochs: int
    loss: float
    train_accuracy: float
    accuracy: float
    low: float
    high: float
    n: int
    best_epoch: int | None = None
    clean: float | None = None
    robust: float | None = None
    validation: int = 0


@dataclass(frozen=True)
class TrainingSplit:
    """Training images (N, 3, H, W) uint8 with labels (N,), and held-out ones for validation."""

    pixels: Tensor
    labels: Tensor
    held_pixels: Tensor
    held_labels: Tensor


def build(make: Callable[[int], Classifier], classes: tuple[str, ...], seed: int) -> Classifier:
    """Build an untrained classifier for these classes whose weights depend on `seed` alone."""
    with seeded(seed, "weights"):
        model = make(len(classes))
    model.classes = classes
    return model


def split_for_training(
    data: Data, preparation: Preparation, validation_size: int = 0, report: Report = unreported
) -> TrainingSplit:
    """Split images, holding out the last ones of each class in turn, `validation_size` in all.

    Raises `InputError` if fewer than two classes, or no images, are left for training.
    """
    pixels, labels = stack(data, preparation, report)
    if validation_size >= len(labels):
        raise InputError(
            f"{validation_size} images for validation leave none of {len(labels)} for training", "hold out fewer"
        )
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[_last_of_each_class(labels)[:validation_size]] = True
    classes = sorted({*labels[~held_out].tolist()})
    if len(classes) < 2:
        name = data.classes[classes[0]]
        raise InputError(f"all training images have the same class, `{name}`", "a classifier needs at least two")
    return TrainingSplit(pixels[~held_out], labels[~held_out], pixels[held_out], labels[held_out])


def _last_of_each_class(labels: Tensor) -> Tensor:
    """Return all indices: the last of each class, then the second to last of each, and so on; larger ones first."""
    falling = labels.flip(0)
    by_class, sizes = falling.argsort(stable=True), falling.bincount()
    turn = torch.empty_like(falling)
    turn[by_class] = torch.arange(len(falling)) - (sizes.cumsum(0) - sizes)[falling[by_class]]
    return len(labels) - 1 - turn.argsort(stable=True)


def validation(pixels: Tensor, labels: Tensor, adversarial: Adversarial | None = None, seed: int = 0) -> Validate:
    """Return the validation after an epoch: `clean` accuracy, and `robust` accuracy under PGD-10 on up to 512 images.

    The ball is that of training; predictions use a single fresh draw of a stochastic network, in full precision.
    """

    def measure(model: nn.Module) -> Mapping[str, float]:
        measures = {"clean": float(correct(model, pixels, labels).double().mean())}
        if adversarial is not None:
            quick = Adversarial(PGD(QUICK_STEPS, eot=getattr(adversarial.attack, "eot", 1)), adversarial.ball)
            like, y = next(model.parameters()), labels[:QUICK]
            x = pixels[:QUICK].to(like.device).to(like.dtype) / 255
            batch = TrainingBatch(x, y.to(like.device), torch.arange(len(y)), epoch=0, step=0)
            with full_precision():
                predictions = logits(model, quick.craft(model, batch, batch.y, seed)).argmax(1)
            measures["robust"] = float((predictions == batch.y).double().mean())
        return measures

    return measure


def accuracy(model: Classifier, data: Data, report: Report = unreported) -> Estimate:
    """Return the share of images whose top prediction is their label, with its interval.

    `report` counts every image twice: when it is read, and when it is predicted.
    """
    right = correct(model, *stack(data, model.preparation, report), report)
    return wilson(int(right.sum()), len(right))


def correct(model: nn.Module, pixels: Tensor, labels: Tensor, report: Report = unreported) -> Tensor:
    """Return a mask (N,), on the CPU, of images (N, 3, H, W) uint8 whose top prediction is their label."""
    like = next(model.parameters())
    predictions = []
    with full_precision():
        for part in torch.split(pixels, 1024):
            predictions.append(logits(model, part.to(like.device).to(like.dtype) / 255).argmax(1).cpu())
            report(len(part))
    return torch.cat(predictions) == labels.cpu()


def stack(data: Data, preparation: Preparation, report: Report = unreported) -> tuple[Tensor, Tensor]:
    """Return the images (N, 3, H, W) uint8 at the network's size, and their labels (N,)."""
    if data.labels is None:
        raise InputError("the data set has no labels", "use class folders, or an npz with `labels`")
    count = len(data)
    labels = torch.tensor([int(label) for label in data.labels])
    if data.pixels is not None and data.pixels.shape[-2:] == (preparation.crop, preparation.crop):
        report(count)
        return data.pixels, labels
    side = preparation.crop
    pixels = scratch((count, 3, side, side), torch.uint8)

    def place(i: int) -> None:
        pixels[i] = (data.item(i, preparation).image * 255).round().to(torch.uint8)

    with ThreadPoolExecutor(READERS) as readers:
        for _ in readers.map(place, range(count)):  # an unusable image raises its error here
            report(1)
    return pixels, labels
