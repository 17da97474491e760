"""Where a score is no number, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from stochx.metrics import Score

ZERO, CONSTANT, NO_OBJECT = "the map is zero", "the map is constant", "the mask is empty"


def undefined(score: Score, reasons: Mapping[str, Tensor]) -> Score:
    """`score` with NaN where a reason (N,) holds, and the first of the reasons that do.

    What else is not finite is undefined too: a network that is altered, or meets altered pixels, may overflow.
    """
    holds = {**reasons, "a logit or a map behind the score is not finite": ~score.value.isfinite()}
    why = dict(score.why)
    for reason, images in holds.items():
        for n in images.nonzero().flatten().tolist():
            why.setdefault(n, reason)
    value = score.value.clone()
    value[list(why)] = torch.nan
    return replace(score, value=value, why=dict(sorted(why.items())))


def is_zero(relevance: Tensor) -> Tensor:
    """Which maps (N, ...) are zero everywhere: (N,)."""
    return (relevance == 0).flatten(1).all(1)


def is_constant(relevance: Tensor) -> Tensor:
    """Which maps (N, ...) have one value everywhere: (N,)."""
    flat = relevance.flatten(1)
    return (flat == flat[:, :1]).all(1)
