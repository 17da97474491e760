"""Square attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState
from stochx.attacks._squares import NUMBERS, coloured, moved, stripes, tiles
from stochx.engine.ascent import loss_value
from stochx.engine.device import full_precision
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.seeds import Key, generator
from stochx.engine.threat import Ball, Norm

BLOCK = 100  # queries whose random numbers are drawn at once
ROUNDING = 8  # units in the last place of the logits; a gain below is that of another order of additions
SHRINK = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, of 10,000, after which the share halves
SQUARES: dict[Norm, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "linf": (stripes, coloured),
    "l2": (tiles, moved),
    "l1": (tiles, moved),
}


@dataclass(frozen=True)
class Square:
    """Random search over squares that raise the loss, from scores without gradients (Andriushchenko et al., 2020).

    In Linf a square is set to +-eps in each channel; in L2 and L1 (Croce & Hein, 2021) the perturbation of one square
    moves into another. `p`, the share of the pixels that a square covers, shrinks with the queries: it halves after 10,
    50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000. Where this attack beats attacks that follow gradients, the
    gradients are masked.
    """

    black_box: ClassVar[bool] = True  # uses no gradient of the attacked network
    examples: ClassVar[tuple[str, ...]] = ("queries=120", "queries=40,rescale=false")  # settings that are tested

    queries: int = 5000  # queries per image
    p: float = 0.8  # share of the pixels in the first squares
    rescale: bool = True  # stretch the schedule of p over the queries, if these are not 10,000
    loss: Literal["margin", "ce"] = "margin"  # loss to maximise
    eot: int = 0  # draws of a stochastic network averaged per query; 0: as many as a gradient needs

    def __post_init__(self) -> None:
        if self.queries < 1 or self.eot < 0:
            raise ValueError("queries must be at least 1, and eot must not be negative")
        if not 0 < self.p <= 1:
            raise ValueError("p must lie in (0, 1]")

    def side(self, proposal: int, x: Tensor) -> int:
        """Return the side in pixels of the square number `proposal`, from 0."""
        pace = 10_000 / self.queries if self.rescale else 1
        share = self.p / 2 ** sum(proposal * pace > place for place in SHRINK)
        return max(1, round(math.sqrt(share * x.shape[2] * x.shape[3])))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run, goal, loss = AttackState(x, y, context), Goal(y, context.target), LOSSES[self.loss]
        (start, propose), eot = SQUARES[ball.norm], self.eot or context.eot
        center, points = x, start(x, run.keys, ball)
        best, top = points, torch.full_like(x[:, 0, 0, 0], -torch.inf)
        best_query, numbers = torch.zeros_like(y), x[:, :0]
        for query in range(self.queries):
            if query % BLOCK == 0:
                numbers = _numbers(run.keys, query // BLOCK, x)
            if query:
                points = propose(center, best, ball, self.side(query - 1, x), numbers[:, query % BLOCK])
            with full_precision():  # small gains vanish in bfloat16
                evaluation = loss_value(model, points, goal[run.active], loss, eot)
            run.count(evaluation.forwards, evaluation.backwards)
            rounding = ROUNDING * torch.finfo(x.dtype).eps * evaluation.logits.abs().amax(1)
            better = evaluation.loss > top + rounding
            best, top = points.where(better.view(-1, 1, 1, 1), best), evaluation.loss.where(better, top)
            best_query = torch.where(better, query, best_query)
            stays = run.leave(points, evaluation.logits, query, 0)
            if run.over:
                break
            if run.lost(stays):
                center, best, top, best_query, numbers = (
                    part[stays] for part in (center, best, top, best_query, numbers)
                )
        run.finish(best, lambda _: top, best_query, 0)
        return run.attempt


def _numbers(keys: Sequence[Key], block: int, x: Tensor) -> Tensor:
    """Draw each image's own random numbers for a block of queries: (A, BLOCK, 5 + C)."""
    size, device = (BLOCK, NUMBERS + x.shape[1]), x.device
    rows = [torch.rand(size, generator=generator(key, "square", block, device=device), device=device) for key in keys]
    return torch.stack(rows).to(x.dtype)
