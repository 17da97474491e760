"""Ranking of a map: channel sums, and pixels and windows by relevance, with ties in a seeded random order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stochx.engine.device import as_float64
from stochx.engine.seeds import Key, generator

Reduction = Literal["abs", "signed"]
Order = Literal["most", "least", "random"]


def channel_sum(relevance: Tensor, reduction: Reduction = "abs") -> Tensor:
    """Return the sum over channels, or its absolute value: (N, C, H, W) -> (N, H, W)."""
    total = relevance.sum(1)
    return total.abs() if reduction == "abs" else total


def lots(keys: Sequence[Key], shape: Sequence[int], device: torch.device, what: str = "ties") -> Tensor:
    """Return uniform draws (N, *shape) that depend on the keys alone, to break ties."""
    sources = [generator(key, what, device=device) for key in keys]
    return torch.stack([torch.rand(*shape, generator=source, device=device, dtype=torch.float32) for source in sources])


def positions(strength: Tensor, keys: Sequence[Key], order: Order = "most") -> Tensor:
    """Return the rank (N, D), from 0, of each feature in the order of `strength` (N, D)."""
    draw = lots(keys, strength.shape[1:], strength.device).argsort(1)
    if order == "random":
        ranked = draw
    else:
        shuffled = strength.gather(1, draw)
        inner = shuffled.sort(dim=1, descending=order == "most", stable=True).indices
        ranked = draw.gather(1, inner)
    place = torch.empty_like(ranked)
    return place.scatter_(1, ranked, torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked))


def window_means(strength: Tensor, side: int) -> Tensor:
    """Return the mean over every side x side window: (N, H, W) -> (N, H - side + 1, W - side + 1).

    It sums rows, then columns, so that equal windows have equal means, unlike differences of integral images.
    """
    total = as_float64(strength)
    for axis in (1, 2):
        first, *others = (total.narrow(axis, k, total.shape[axis] - side + 1) for k in range(side))
        total = first.clone()
        for other in others:
            total += other
    means = total / side**2
    return means if means.device == strength.device else means.to(strength)


def fitting_regions(height: int, width: int, side: int) -> int:
    """Return the number of windows that a greedy choice without overlap always finds, wherever the first ones lie."""
    places = (height - side + 1) * (width - side + 1)
    return -(-places // (2 * side - 1) ** 2) if places > 0 and height >= side and width >= side else 0


def regions(strength: Tensor, side: int, count: int, keys: Sequence[Key], order: Order = "most") -> Tensor:
    """Return the corners (N, count, 2) of windows chosen greedily, each the best that overlaps no earlier one."""
    value = window_means(strength, side)
    draw = lots(keys, value.shape[1:], value.device)
    value = {"most": value, "least": -value, "random": draw.clone()}[order]
    near = torch.arange(1 - side, side, device=value.device)
    everyone = torch.arange(len(value), device=value.device)
    corners = []
    for _ in range(count):
        corner = _best(value, draw)
        corners.append(corner)
        rows, columns = ((corner[:, axis, None] + near).clamp(0, value.shape[axis + 1] - 1) for axis in (0, 1))
        value[everyone[:, None, None], rows[:, :, None], columns[:, None, :]] = -torch.inf
    return torch.stack(corners, 1)


def _best(value: Tensor, draw: Tensor) -> Tensor:
    """Return the position (N, 2) of the maximum of each table (N, R, C), with ties broken by `draw`.

    Ties are searched only in the rows that hold the maximum, usually a single one.
    """
    tops = value.amax(2)
    image, row = (tops == tops.amax(1, keepdim=True)).nonzero(as_tuple=True)
    equal = value[image, row] == tops[image, row, None]
    luck, column = draw[image, row].where(equal, -1.0).max(1)
    lucky = draw.new_full(tops.shape, -1.0).index_put((image, row), luck).argmax(1)
    columns = torch.zeros_like(tops, dtype=torch.long).index_put((image, row), column)
    return torch.stack([lucky, columns.gather(1, lucky[:, None]).squeeze(1)], 1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation (N,) of the rows of a and b (N, D): 0 for constant rows, NaN for non-finite ones."""
    return _correlation(_centred_ranks(a), _centred_ranks(b))


def disagreement(maps: Sequence[Tensor]) -> Tensor:
    """Return the mean (N,) over pairs of maps (N, H, W) of 1 - the rank correlation of their absolute values.

    NaN for fewer than two maps.
    """
    ranks = [_centred_ranks(relevance.abs().flatten(1)) for relevance in maps]
    pairs = [1 - _correlation(a, b) for a, b in itertools.combinations(ranks, 2)]
    return torch.stack(pairs).mean(0) if pairs else maps[0].new_full((len(maps[0]),), torch.nan)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    spread = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return (a * b).sum(1) / spread.where(spread != 0, 1)


def _centred_ranks(values: Tensor) -> Tensor:
    """Return ranks (N, D) with mean 0; equal values get their mean rank."""
    values = values.contiguous()  # or each search copies them
    rising = values.sort(1).values
    ranks = torch.searchsorted(rising, values) + torch.searchsorted(rising, values, right=True)
    centred = (ranks - values.shape[1]).to(values.dtype) / 2
    return centred.where(values.isfinite(), torch.nan)
