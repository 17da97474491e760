"""The verdict on images: in full precision, and where the network is stochastic on draws that no attack has seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stochx.engine.device import full_precision
from stochx.engine.gradients import logits
from stochx.engine.losses import Goal, margin
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import at_scale, noise_layers
from stochx.engine.seeds import seeded
from stochx.errors import RunError


@dataclass(frozen=True)
class Verdict:
    """What a network says of N images: `right` (N,), the share of draws that give the label; `hit` (N,), the target.

    `said` (N,) is the class of the mean probabilities; `margin` (N,) by how much the label's logit is above the largest
    other one, a mean over draws.
    """

    right: Tensor
    hit: Tensor
    said: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Judge:
    """Asks a network about the images of one batch; the noise of each question depends on its name and the batch."""

    model: Classifier
    y: Tensor
    target: Tensor | None
    draws: int
    seed: int
    batch: str

    @property
    def noisy(self) -> bool:
        """Whether two forwards may differ."""
        return self.model.noise != "none"

    def __getitem__(self, places: Tensor) -> Judge:
        """The judge of some of the images."""
        target = None if self.target is None else self.target[places]
        return Judge(self.model, self.y[places], target, self.draws, self.seed, self.batch)

    def verdict(self, x: Tensor, question: str) -> Verdict:
        """The verdict on x (N, C, H, W), over all draws; raises `RunError` for logits that are not finite."""
        right, hit, ahead = (torch.zeros(len(x), dtype=torch.float64) for _ in range(3))
        mean = torch.zeros(0)
        for d in range(self.draws if self.noisy else 1):
            with seeded(self.seed, question, d, self.batch), full_precision():
                out = logits(self.model, x)
            if not out.isfinite().all():
                raise RunError("the model's logits are not finite", "check the weights and the normalisation")
            top, probabilities = out.argmax(1), out.softmax(1)
            right += (top == self.y).cpu()
            hit += (top == self.target).cpu() if self.target is not None else 0.0
            ahead -= margin(out, Goal(self.y)).cpu()
            mean = mean + probabilities if d else probabilities
        draws = self.draws if self.noisy else 1
        return Verdict(right / draws, hit / draws, mean.argmax(1).cpu(), ahead / draws)

    def without_noise(self, x: Tensor) -> list[bool | None]:
        """Whether the network with its noise off is right about x (N, C, H, W); None where it has no noise layers."""
        if not (self.noisy and noise_layers(self.model)):
            return [None] * len(x)
        with at_scale(self.model, 0.0), full_precision():
            return (logits(self.model, x).argmax(1) == self.y).tolist()

    def wrong(self, x: Tensor, places: Tensor) -> Tensor:
        """Whether a deterministic network is wrong about images `places` (B,) at x (B, C, H, W), or says the target."""
        with full_precision():
            said = logits(self.model, x).argmax(1)
        return said != self.y[places] if self.target is None else said == self.target[places]

    def score(self, x: Tensor) -> Tensor:
        """What choosing between candidates x of all images goes by, on draws kept for it: lower is more wrong."""
        found = self.verdict(x, "choose")
        return (found.right if self.target is None else -found.hit).to(x)
