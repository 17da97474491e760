"""What stands in the place of removed pixels, and the curves that removing them draws."""

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

ROUNDING = 1e-5  # of a mean or a blur; pixels themselves come in steps of 1 / 255


def better(order: Order, higher: bool) -> bool | None:
    """Whether more is better, if with the most relevant first it is `higher`; None for a random order."""
    return {"most": higher, "least": not higher, "random": None}[order]


def replacement(removal: str, x: Tensor, keys: Sequence[Key]) -> Tensor:
    """(N, C, H, W) pixels for what is removed: a reference image, or `uniform` noise that the keys decide."""
    if removal in BASELINES:
        return BASELINES[removal](x)
    sources = [generator(key, "removal", device=x.device) for key in keys]
    return torch.stack(
        [torch.rand(x.shape[1:], generator=g, device=x.device, dtype=torch.float32) for g in sources]
    ).to(x.dtype)


def exchange(evidence: Evidence, place: Tensor, counts: Tensor, before: Tensor, after: Tensor, read: Read) -> Tensor:
    """The score while the features in front go from `before` to `after`: (N, P) for `counts` (P,) of them.

    `place` (N, C or 1, H, W) is each feature's place in the order, 0 first.
    """
    assert evidence.model is not None and evidence.target is not None

    def build(image: Tensor, step: Tensor) -> Tensor:
        gone = place[image] < counts[step].view(-1, 1, 1, 1)
        return torch.where(gone, after[image], before[image])

    return altered(evidence.model, before, evidence.target, len(counts), build, read)


def pixel_exchange(
    evidence: Evidence, steps: int, removal: str, order: Order, read: Read, reduce: Reduction, *, insert: bool
) -> Score:
    """The mean score while pixels of x are removed, or inserted into its replacement, in the map's order."""
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
    """`score`, undefined for images that their replacement leaves as they are."""
    same = ((x - other).abs() < ROUNDING).flatten(1).all(1)
    why = dict.fromkeys(same.nonzero().flatten().tolist(), "the image equals what would replace its pixels")
    return Score(
        score.value.masked_fill(same, torch.nan), score.curve, score.places, {**score.why, **why}, score.setting
    )
