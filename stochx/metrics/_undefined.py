"""Undefined scores, and the reasons for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from stochx.metrics import Score

ZERO, CONSTANT, NO_OBJECT = "the map is zero", "the map is constant", "the mask is empty"


def undefined(score: Score, reasons: Mapping[str, Tensor]) -> Score:
    """Set `score` to NaN where a reason (N,) holds, and record the first such reason.

    Other values that are not finite are undefined too: an altered network, or altered pixels, may overflow.
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
    """Return a mask (N,) of the maps (N, ...) that are zero everywhere."""
    return (relevance == 0).flatten(1).all(1)


def is_constant(relevance: Tensor) -> Tensor:
    """Return a mask (N,) of the maps (N, ...) that have the same value everywhere."""
    flat = relevance.flatten(1)
    return (flat == flat[:, :1]).all(1)
