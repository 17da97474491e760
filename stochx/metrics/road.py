"""ROAD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.ranking import channel_sum, positions
from stochx.engine.seeds import generator
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._imputation import impute
from stochx.metrics._perturb import READ_BOUNDS, altered
from stochx.metrics._removal import better, replacement


@dataclass(frozen=True)
class ROAD:
    """Mean probability after remove-and-debias: removed pixels are imputed from their neighbours (Rong et al., 2022).

    A removed pixel becomes the weighted mean of its neighbours, obtained from a linear system, plus a little noise, so
    that the shape of the removed area does not reveal the class. The mean is over 10 % to 90 % removed. Any `removal`
    but that from neighbours is there for comparison.
    """

    shares: int = 9  # number of shares to remove, evenly spaced between 0 and 1
    noise: float = 0.01  # standard deviation of the noise on imputed pixels
    removal: Literal["neighbours", "mean", "black", "white", "blur", "uniform"] = "neighbours"  # what pixels become
    order: Literal["most", "least", "random"] = "most"  # remove the most or the least relevant pixels first
    read: Literal["logit", "probability", "margin"] = "probability"  # score that the curve records
    reduce: Literal["abs", "signed"] = "abs"  # rank pixels by the absolute or the signed channel sum

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "share of pixels removed"
    replaces: ClassVar[str] = "removal"

    def __post_init__(self) -> None:
        if self.shares < 1:
            raise ValueError("shares must be at least 1")
        if self.noise < 0:
            raise ValueError("noise must not be negative")

    @property
    def reduction(self) -> str:
        """Quantity that ranks the pixels."""
        return f"{self.reduce} channel sum"

    @property
    def higher_is_better(self) -> bool | None:
        """Lower with the most relevant first, higher with the least; None for a random order."""
        return better(self.order, False)

    @property
    def bounds(self) -> Bounds:
        """The range of the score that the curve records."""
        return READ_BOUNDS[self.read]

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        x, keys = evidence.x, evidence.keys
        place = positions(channel_sum(evidence.map, self.reduce).flatten(1), keys, self.order)
        place = place.view(len(x), *x.shape[2:])
        share = torch.arange(1, self.shares + 1, dtype=x.dtype, device=x.device) / (self.shares + 1)
        counts = (share * place[0].numel()).round()
        other = None if self.removal == "neighbours" else replacement(self.removal, x, keys)

        def draw(n: int, step: int) -> Tensor:
            source = generator(keys[n], "road", step, device=x.device)
            return torch.randn(x.shape[1:], generator=source, device=x.device, dtype=torch.float32).to(x.dtype)

        def build(image: Tensor, step: Tensor) -> Tensor:
            removed = place[image] < counts[step].view(-1, 1, 1)
            filled = (
                impute(x[image], removed) if other is None else torch.where(removed[:, None], other[image], x[image])
            )
            if not self.noise:
                return filled
            noise = torch.stack([draw(n, s) for n, s in zip(image.tolist(), step.tolist(), strict=True)])
            return torch.where(removed[:, None], filled + self.noise * noise, filled)

        curve = altered(evidence.model, x, evidence.target, self.shares, build, self.read)
        return Score(curve.mean(1), curve, share.cpu())
