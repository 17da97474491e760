"""Training of a network on a data set, with validation after each epoch and accuracy on test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.attacks.pgd import PGD
from stochx.engine.device import as_float64, full_precision
from stochx.engine.gradients import predictions
from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.passes import Report, unreported
from stochx.engine.seeds import seeded
from stochx.engine.statistics import Estimate, wilson
from stochx.engine.training.fit import TrainingBatch, Validate
from stochx.errors import InputError
from stochx.tasks.batches import Failed
from stochx.tasks.objectives import Adversarial
from stochx.tasks.reading import Stack, stack

QUICK = 512  # maximum number of images of the quick robust accuracy
QUICK_STEPS = 10  # steps of its PGD
QUICK_DRAWS = 8  # draws of a stochastic network that its gradients average over, and as many fresh ones that judge


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
    """Training images (N, 3, H, W) uint8 with labels (N,), held-out ones for validation, and what cannot be read.

    `extra` are the images of another set, such as synthetic ones, that are trained on too.
    """

    pixels: Tensor
    labels: Tensor
    held_pixels: Tensor
    held_labels: Tensor
    failed: Sequence[Failed] = ()
    extra: Stack | None = None


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
    images = stack(data, preparation, report)
    pixels, labels = images.pixels, images.labels
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
    return TrainingSplit(pixels[~held_out], labels[~held_out], pixels[held_out], labels[held_out], images.failed)


def _last_of_each_class(labels: Tensor) -> Tensor:
    """Return all indices: the last of each class, then the second to last of each, and so on; larger ones first."""
    falling = labels.flip(0)
    by_class, sizes = falling.argsort(stable=True), falling.bincount()
    turn = torch.empty_like(falling)
    turn[by_class] = torch.arange(len(falling)) - (sizes.cumsum(0) - sizes)[falling[by_class]]
    return len(labels) - 1 - turn.argsort(stable=True)


def validation(
    pixels: Tensor,
    labels: Tensor,
    adversarial: Adversarial | None = None,
    seed: int = 0,
    loss: Literal["ce", "margin"] = "ce",
) -> Validate:
    """Return the validation after an epoch: `clean` accuracy, and `robust` accuracy under PGD-10 on up to 512 images.

    The ball is that of training. PGD climbs `loss`: smoothed labels flatter a network that is attacked by its
    cross-entropy, so that there the margin judges. On a stochastic network the attack follows the mean gradient of
    several draws, or as many as in training, and fresh draws judge: one draw would choose the epoch by its luck.
    Verdicts are in full precision.
    """

    def measure(model: nn.Module) -> Mapping[str, float]:
        draws = QUICK_DRAWS if getattr(model, "noise", "none") != "none" else 1
        images = Stack(pixels, labels, ())
        clean = [correct(model, images, unreported).double().mean() for _ in range(draws)]
        measures = {"clean": float(sum(clean)) / draws}
        if adversarial is not None:
            eot = max(draws, getattr(adversarial.attack, "eot", 1))
            quick = Adversarial(PGD(QUICK_STEPS, loss=loss, eot=eot), adversarial.ball)
            like, y = next(model.parameters()), labels[:QUICK]
            x = pixels[:QUICK].to(like.device).to(like.dtype) / 255
            batch = TrainingBatch(x, y.to(like.device), torch.arange(len(y)), epoch=0, step=0)
            with full_precision():
                crafted = quick.craft(model, batch, batch.y, seed)
                right = [as_float64(predictions(model, crafted) == batch.y).mean() for _ in range(draws)]
            measures["robust"] = float(sum(right)) / draws
        return measures

    return measure


def accuracy(model: Classifier, images: Stack, report: Report = unreported) -> Estimate:
    """Return the share of images whose top prediction is their label, with its interval; `report` counts them."""
    right = correct(model, images, report)
    return wilson(int(right.sum()), len(right))


def correct(model: nn.Module, images: Stack, report: Report = unreported) -> Tensor:
    """Return a mask (N,), on the CPU, of images whose top prediction is their label.

    Raises `RunError` for logits that are not finite.
    """
    like = next(model.parameters())
    found = []
    with full_precision():
        for part in torch.split(images.pixels, 1024):
            found.append(predictions(model, part.to(like.device).to(like.dtype) / 255).cpu())
            report(len(part))
    return torch.cat(found) == images.labels.cpu()
