"""Replacement of removed pixels, and the curves that result from removing them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stochx.engine.baselines import BASELINES
from stochx.engine.ranking import Order, Reduction, channel_sum, positions
from stochx.engine.seeds import Key, generator
from stochx.metrics import Evidence, Score
from stochx.metrics._perturb import Read, altered
from stochx.metrics._quadrature import mean_height

ROUNDING = 1e-5  # rounding error of a mean or a blur; pixels come in steps of 1 / 255


def better(order: Order, higher: bool) -> bool | None:
    """Return if higher is better: `higher` with the most relevant first, its negation with the least, else None."""
    return {"most": higher, "least": not higher, "random": None}[order]


def replacement(removal: str, x: Tensor, keys: Sequence[Key]) -> Tensor:
    """Return the pixels (N, C, H, W) that replace removed ones: a baseline, or `uniform` noise seeded by `keys`."""
    if removal in BASELINES:
        return BASELINES[removal](x)
    sources = [generator(key, "removal", device=x.device) for key in keys]
    return torch.stack(
        [torch.rand(x.shape[1:], generator=g, device=x.device, dtype=torch.float32) for g in sources]
    ).to(x.dtype)


def exchange(evidence: Evidence, place: Tensor, counts: Tensor, before: Tensor, after: Tensor, read: Read) -> Tensor:
    """Return the scores (N, P) after the first `counts` (P,) features changed from `before` to `after`.

    `place` (N, C or 1, H, W) is each feature's rank in the order, from 0.
    """
    assert evidence.model is not None and evidence.target is not None

    def build(image: Tensor, step: Tensor) -> Tensor:
        gone = place[image] < counts[step].view(-1, 1, 1, 1)
        return torch.where(gone, after[image], before[image])

    return altered(evidence.model, before, evidence.target, len(counts), build, read)


def pixel_exchange(
    evidence: Evidence, steps: int, removal: str, order: Order, read: Read, reduce: Reduction, *, insert: bool
) -> Score:
    """Return the mean score while pixels of x are removed, or inserted into its replacement, in the map's order."""
    assert evidence.x is not None
    x, pixels = evidence.x, evidence.x.shape[2:].numel()
    strength = channel_sum(evidence.map, reduce).flatten(1)
    place = positions(strength, evidence.keys, order).view(len(x), 1, *x.shape[2:])
    share = torch.linspace(0, 1, steps + 1, dtype=x.dtype, device=x.device)
    other = replacement(removal, x, evidence.keys)
    before, after = (other, x) if insert else (x, other)
    curve = exchange(evidence, place, (share * pixels).round(), before, after, read)
    return with_unchanged(Score(mean_height(curve, share), curve, share.cpu()), x, other)


def with_unchanged(score: Score, x: Tensor, other: Tensor) -> Score:
    """Mark `score` undefined for images equal to their replacement."""
    same = ((x - other).abs() < ROUNDING).flatten(1).all(1)
    why = dict.fromkeys(same.nonzero().flatten().tolist(), "the image equals what would replace its pixels")
    return Score(
        score.value.masked_fill(same, torch.nan), score.curve, score.places, {**score.why, **why}, score.setting
    )
