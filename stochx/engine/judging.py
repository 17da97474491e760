"""Verdicts on images, in full precision, and on draws of stochastic networks that no attack has used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stochx.engine.device import full_precision
from stochx.engine.gradients import finite, logits, predictions
from stochx.engine.losses import Goal, margin
from stochx.engine.network.stochastic import at_scale, has_mean_network, noise_layers
from stochx.engine.seeds import seeded


@dataclass(frozen=True)
class Verdict:
    """Predictions for N images: the shares of draws that predict the label, `right` (N,), and the target, `hit` (N,).

    `prediction` (N,) is the class of the mean probabilities; `margin` (N,) is the label's logit minus the
    largest other one, a mean over draws.
    """

    right: Tensor
    hit: Tensor
    prediction: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Judge:
    """Judges the images of a batch by a network; the noise of each verdict depends on its name and the batch."""

    model: nn.Module
    y: Tensor
    target: Tensor | None
    draws: int
    seed: int
    batch: str
    noisy: bool  # forward passes may differ

    def __getitem__(self, places: Tensor) -> Judge:
        """Return the judge of the selected images."""
        target = None if self.target is None else self.target[places]
        return replace(self, y=self.y[places], target=target)

    def verdict(self, x: Tensor, question: str) -> Verdict:
        """Return the verdict on x (N, C, H, W) over all draws; raises `RunError` for logits that are not finite."""
        right, hit, ahead = (torch.zeros(len(x), dtype=torch.float64) for _ in range(3))
        mean = torch.zeros(0)
        for d in range(self.draws if self.noisy else 1):
            with seeded(self.seed, question, d, self.batch), full_precision():
                out = finite(logits(self.model, x))
            top, probabilities = out.argmax(1), out.softmax(1)
            right += (top == self.y).cpu()
            hit += (top == self.target).cpu() if self.target is not None else 0.0
            ahead -= margin(out, Goal(self.y)).cpu()
            mean = mean + probabilities if d else probabilities
        draws = self.draws if self.noisy else 1
        return Verdict(right / draws, hit / draws, mean.argmax(1).cpu(), ahead / draws)

    def without_noise(self, x: Tensor) -> list[bool | None]:
        """Return for each x (N, C, H, W) if the network is right with its noise off; None without noise layers."""
        if not (self.noisy and noise_layers(self.model) and has_mean_network(self.model)):
            return [None] * len(x)
        with at_scale(self.model, 0.0), full_precision():
            return (predictions(self.model, x) == self.y).tolist()

    def wrong(self, x: Tensor, places: Tensor) -> Tensor:
        """Return a mask (B,) of the x (B, C, H, W), images `places` (B,), that are misclassified, or as the target.

        Raises `RunError` for logits that are not finite.
        """
        with full_precision():
            found = predictions(self.model, x)
        return found != self.y[places] if self.target is None else found == self.target[places]

    def score(self, x: Tensor) -> Tensor:
        """Return the score of candidates x of all images, on draws reserved for this choice; lower is more wrong."""
        verdict = self.verdict(x, "choose")
        return (verdict.right if self.target is None else -verdict.hit).to(x)
