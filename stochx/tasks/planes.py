"""Planes of decision boundaries: through three images, or through one along a direction of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from stochx.attacks import Context
from stochx.catalog import ATTACKS
from stochx.engine.ascent import loss_gradient
from stochx.engine.device import full_precision
from stochx.engine.gradients import predictions
from stochx.engine.io.data import Item
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.classifier import Classifier
from stochx.engine.plane import Plane, across, through
from stochx.engine.seeds import generator, seeded
from stochx.engine.threat import Ball
from stochx.errors import InputError

DRAWS, DRAWS_A_STEP = 50, 10  # draws of a stochastic network per gradient, and per gradient of PGD

Kind = Literal["images", "gradient", "attack"]


def make_plane(model: Classifier, items: Sequence[Item], kind: Kind, eps: float, span: float, seed: int) -> Plane:
    """Return the plane of three items, or of one along the loss gradient's sign or towards an adversarial point.

    The second direction of the latter is random, orthogonal and of equal length. The first has length 1 in Linf, so
    coordinates are changes of a pixel value, up to span * eps. The loss is that of the label, or of the prediction
    without one. Raises `InputError` for images that do not span a plane and for a gradient of zero.
    """
    if kind == "images":
        return through(torch.stack([item.image for item in items]))
    (item,) = items
    direction = DIRECTIONS[kind](model, item, eps, seed).cpu()
    if not direction.any():
        raise InputError(
            f"the loss of `{item.key}` has no gradient", "the network is too confident: use `--plane attack`"
        )
    signs = torch.randint(2, item.image.shape, generator=generator(seed, "plane", item.key)) * 2 - 1
    return across(item.image, direction / direction.abs().max(), signs, span * eps)


def _up(model: Classifier, item: Item, eps: float, seed: int) -> Tensor:
    """Return the sign of the loss gradient, for a stochastic network of its mean over draws."""
    x, y = _single(model, item, seed)
    with seeded(seed, "direction", item.key), full_precision():
        return loss_gradient(model, x, Goal(y), LOSSES["ce"], _draws(model, DRAWS)).gradient[0].sign()


def _adversarial(model: Classifier, item: Item, eps: float, seed: int) -> Tensor:
    """Return the perturbation that PGD finds."""
    x, y = _single(model, item, seed)
    method = ATTACKS.make(f"pgd:eot={_draws(model, DRAWS_A_STEP)}")
    with seeded(seed, "direction", item.key), full_precision():
        return (method(model, x, y, Ball(eps), Context(keys=[f"{seed}/{item.key}"])).x - x)[0]


DIRECTIONS: dict[str, Callable[[Classifier, Item, float, int], Tensor]] = {"gradient": _up, "attack": _adversarial}


def _single(model: Classifier, item: Item, seed: int) -> tuple[Tensor, Tensor]:
    """Return the image in a batch of one, and its class."""
    x = item.image[None].to(model.mean)
    if item.label is not None:
        return x, torch.tensor([item.label], device=x.device)
    with seeded(seed, "label", item.key):
        return x, predictions(model, x)


def _draws(model: Classifier, draws: int) -> int:
    return draws if model.noise != "none" else 1
