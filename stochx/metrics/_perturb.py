"""Scores of altered images: many copies of many images in one stream, forward passes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.device import current, in_batches
from stochx.engine.network.classifier import Classifier, probabilities
from stochx.engine.network.fused import fused
from stochx.engine.statistics import SHARE, UNBOUNDED, Bounds

Read = Literal["logit", "probability", "margin", "confidence", "accuracy"]
READ_BOUNDS: dict[Read, Bounds] = {
    "logit": UNBOUNDED,
    "probability": SHARE,
    "margin": UNBOUNDED,
    "confidence": SHARE,
    "accuracy": SHARE,
}
Build = Callable[[Tensor, Tensor], Tensor]  # (image (B,), copy (B,)) -> pixels (B, C, H, W)


def read_scores(model: nn.Module, logits: Tensor, target: Tensor, read: Read) -> Tensor:
    """Return the target's logit, probability or margin (N,): its logit minus the largest other one.

    `accuracy` is 1 where the margin is positive, else 0; `confidence` is the largest probability of any class. A class
    of a multi-label network has no rivals: its margin is its logit, and its probability the sigmoid of it.
    """
    if read == "confidence":
        return probabilities(model, logits).amax(1)
    if read == "probability":
        return probabilities(model, logits).gather(1, target[:, None]).squeeze(1)
    own = logits.gather(1, target[:, None]).squeeze(1)
    if read == "logit":
        return own
    rivals = not (isinstance(model, Classifier) and model.multilabel)
    margin = own - logits.scatter(1, target[:, None], -torch.inf).amax(1) if rivals else own
    return (margin > 0).to(margin) if read == "accuracy" else margin


def altered(model: nn.Module, x: Tensor, target: Tensor, copies: int, build: Build, read: Read = "logit") -> Tensor:
    """Return the scores (N, copies) of `copies` alterations of each of N images, built batch by batch.

    `build(image, copy)` returns the pixels for these indices of images and copies; it must depend on nothing else, so
    that the batch size does not change results. `x` (N, C, H, W) gives the shape.
    """
    fast, values = fused(model, x), x.new_empty(len(x) * copies)

    def work(start: int, stop: int) -> None:
        row = torch.arange(start, stop, device=x.device)
        image = row // copies
        with torch.inference_mode(), current().autocast():
            logits = fast.whole(build(image, row % copies))
            values[start:stop] = read_scores(model, logits.to(x.dtype), target[image], read)

    in_batches(len(values), 2 * fast.rows(x), work)
    return values.view(len(x), copies)
