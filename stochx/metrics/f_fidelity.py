"""F-Fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.ranking import channel_sum, positions
from stochx.engine.seeds import generator
from stochx.engine.statistics import UNBOUNDED, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import altered
from stochx.metrics._removal import better, replacement, with_unchanged

MOST_LIKELY = 0.5


@dataclass(frozen=True)
class FFidelity:
    """Accuracy lost when pixels among the most relevant ones are removed at random (Zheng et al., 2025).

        mean over s of (acc(x) - mean over masks of acc(x without each of its top s pixels, with min(1/2, beta d / s)))

    However large s is, about a share beta of all d pixels goes: images stay near those that the network knows. The
    paper tunes the network under random removal first, then explains and scores that one: give such a network where
    you have it. `order=least` is its Fid-, where lower is better.
    """

    examples: ClassVar[tuple[str, ...]] = ("shares=3,draws=4,read=probability",)  # settings that are tested

    shares: int = 20  # number of shares s, evenly spaced up to all pixels
    draws: int = 50  # random masks for each share, one forward pass each
    beta: float = 0.1  # largest expected share of pixels that a mask removes
    removal: Literal["mean", "black", "white", "blur", "uniform"] = "mean"  # replacement for removed pixels
    order: Literal["most", "least", "random"] = "most"  # remove among the most or the least relevant pixels
    read: Literal["accuracy", "probability", "logit", "margin"] = "accuracy"  # score whose loss counts
    reduce: Literal["abs", "signed"] = "abs"  # rank pixels by the absolute or the signed channel sum

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "share of pixels that may go"
    replaces: ClassVar[str] = "removal"

    def __post_init__(self) -> None:
        if self.shares < 1 or self.draws < 1:
            raise ValueError("shares and draws must be at least 1")
        if not 0 < self.beta <= 1:
            raise ValueError("beta must lie in (0, 1]")

    @property
    def height(self) -> str:
        """Label of the curve's y axis."""
        return f"loss of {self.read}"

    @property
    def reduction(self) -> str:
        """Quantity that ranks the pixels."""
        return f"{self.reduce} channel sum"

    @property
    def higher_is_better(self) -> bool | None:
        """Higher among the most relevant, lower among the least; None for a random order."""
        return better(self.order, True)

    @property
    def bounds(self) -> Bounds:
        """Losses of accuracy, or of a probability, are at most 1."""
        return (-1.0, 1.0) if self.read in ("accuracy", "probability") else UNBOUNDED

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        model, x, target, keys = evidence.model, evidence.x, evidence.target, evidence.keys
        place = positions(channel_sum(evidence.map, self.reduce).flatten(1), keys, self.order)
        pixels, place = place.shape[1], place.view(len(x), *x.shape[2:])
        other = replacement(self.removal, x, keys)
        share = torch.arange(1, self.shares + 1, dtype=x.dtype, device=x.device) / self.shares
        counts = (share * pixels).round().clamp(min=1)
        likely = (self.beta * pixels / counts).clamp(max=MOST_LIKELY)

        def build(image: Tensor, copy: Tensor) -> Tensor:
            step, draw = copy // self.draws, copy % self.draws
            luck = torch.stack([self._luck(keys[n], d, x) for n, d in zip(image.tolist(), draw.tolist(), strict=True)])
            gone = (place[image] < counts[step].view(-1, 1, 1)) & (luck < likely[step].view(-1, 1, 1))
            return torch.where(gone[:, None], other[image], x[image])

        left = altered(model, x, target, self.shares * self.draws, build, self.read)
        whole = altered(model, x, target, 1, lambda image, _: x[image], self.read)
        curve = whole - left.view(len(x), self.shares, self.draws).mean(2)
        return with_unchanged(Score(curve.mean(1), curve, share.cpu()), x, other)

    def _luck(self, key: str | int, draw: int, x: Tensor) -> Tensor:
        """Draw uniform values (H, W), the same for every share, map and precision."""
        source = generator(key, "f-fidelity", draw, device=x.device)
        return torch.rand(x.shape[2:], generator=source, device=x.device, dtype=torch.float32)
