"""AUTVC."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._quadrature import simpson

FACTOR = 1.5
LEVELS = 6  # of a 224-pixel map down to 30
SMALLEST = 30
PERCENTILE = 0.99
AT_ONCE = 2**19  # pixels of maps in work at a time: fits the caches
BLOCK = 8  # pixels that are compared by their highest first

Taps = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AUTVC:
    """Area under the curve of total variation over scales: how noisy a map is (Goh et al., 2020).

    A Gaussian pyramid of the channel sum, each level smaller by 1.5; |level| from its least value to its 99th
    percentile becomes 0 to 1; its total variation per pixel is one point of the curve, its area Simpson's.
    Blurring a map lowers it: it says nothing of what the map is worth, and is only read beside a measure that does.
    """

    norm: float = 1.0  # order of the norm of the differences; above 1 the rows' and the columns' norms are added
    order: Literal["signed", "abs"] = "signed"  # pyramid of the signed map (the authors' code) or of |map| (their text)
    smallest: int = 0  # short side of the last level in pixels; 0 means 30, or what gives a small map six levels

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    reduction: ClassVar[str] = "|channel sum| of each level of the pyramid"
    axis: ClassVar[str] = "level of the pyramid"

    def __post_init__(self) -> None:
        if self.norm < 1:
            raise ValueError("norm must be at least 1")
        if self.smallest < 0:
            raise ValueError("smallest must not be negative")

    def __call__(self, evidence: Evidence) -> Score:
        sides = self._sides(*evidence.map.shape[2:])
        chunk = max(1, AT_ONCE // math.prod(sides[0]))
        steps = itertools.pairwise(sides)
        smaller = [[_taps(*lengths, evidence.map) for lengths in zip(*step, strict=True)] for step in steps]
        heights = [self._variations(part.sum(1), smaller) for part in torch.split(evidence.map, chunk)]
        curve, flat = torch.cat([h for h, _ in heights]), torch.cat([f for _, f in heights])
        return Score(
            value=simpson(curve).masked_fill(flat, torch.nan),
            curve=curve,
            places=torch.arange(len(sides), dtype=curve.dtype),
            why=dict.fromkeys(flat.nonzero().flatten().tolist(), "a level of the map is constant"),
            setting=f"{len(sides)} levels, {min(sides[0])} to {min(sides[-1])} px",
        )

    def _sides(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of each level."""
        sides = [(height, width)]
        while (smaller := (math.ceil(sides[-1][0] / FACTOR), math.ceil(sides[-1][1] / FACTOR))) != sides[-1]:
            sides.append(smaller)
        if self.smallest:
            kept = [s for s in sides if min(s) >= self.smallest]
        else:
            kept = [s for s in sides if min(s) >= SMALLEST]
            kept = kept if len(kept) >= LEVELS else [s for s in sides[:LEVELS] if min(s) >= 4]
        if len(kept) < 2:
            raise InputError(
                f"a map of {height} x {width} has {len(kept)} levels of at least {self.smallest or 4} pixels",
                "use a smaller `autvc:smallest=`, or larger maps",
            )
        return kept

    def _variations(self, level: Tensor, smaller: Sequence[Sequence[Taps]]) -> tuple[Tensor, Tensor]:
        """(N, L) total variations per pixel of maps (N, H, W), and whether a level is constant (N,)."""
        level = level.abs() if self.order == "abs" else level
        heights, flat = [], torch.zeros(len(level), dtype=torch.bool, device=level.device)
        for taps in [[], *smaller]:
            for taken in taps:  # the rows, then the columns
                level = _taken(level, *taken).mT.contiguous()
            clipped, span = _clipped(level.abs())
            constant = span <= 0
            flat |= constant
            total = self._length(clipped.diff(dim=1)) + self._length(clipped.diff(dim=2))
            heights.append(total / span.where(~constant, 1.0) / level[0].numel())
        return torch.stack(heights, 1), flat

    def _length(self, differences: Tensor) -> Tensor:
        """The norm of all differences in one direction, (N,)."""
        length: Tensor = torch.linalg.vector_norm(differences.flatten(1), self.norm, dim=1)
        return length


def _taps(length: int, smaller: int, like: Tensor) -> Taps:
    """What each of `smaller` places takes of `length`: weights and places, both (T, smaller).

    A Gaussian of standard deviation 2 * 1.5 / 6, cut at four of them, as scikit-image's: (b a | a b c | c b); then
    linear interpolation. Both are sums along a line: together they are one matrix, with few values in a column.
    """
    sigma = 2 * FACTOR / 6
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    lines = torch.eye(length, dtype=like.dtype, device=like.device)[:, None, _mirrored(length, reach).to(like.device)]
    matrix = F.interpolate(F.conv1d(lines, kernel.view(1, 1, -1)), smaller, mode="linear", align_corners=False)
    weights, places = matrix.squeeze(1).topk(min(2 * reach + 2, length), dim=0)  # all others are zero
    return weights, places


def _mirrored(length: int, reach: int) -> Tensor:
    """Which of `length` places stands at each place from -reach on: the border belongs to its mirror image."""
    places = torch.arange(-reach, length + reach) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


def _taken(level: Tensor, weights: Tensor, places: Tensor) -> Tensor:
    """Rows made of rows: (N, H, W) -> (N, smaller, W)."""
    total = weights[0, :, None] * level.index_select(1, places[0])
    for weight, place in zip(weights[1:], places[1:], strict=True):
        total.addcmul_(weight[:, None], level.index_select(1, place))
    return total


def _clipped(strength: Tensor) -> tuple[Tensor, Tensor]:
    """(N, H, W) cut at the 99th percentile, and how far that is from the least value (N,).

    Differences do not see what is taken from all, and are divided when they are summed.
    """
    flat = strength.flatten(1)
    place = PERCENTILE * (flat.shape[1] - 1)
    top = _highest(flat, flat.shape[1] - math.floor(place))
    below, above = top[:, -1], top[:, -2] if top.shape[1] > 1 else top[:, -1]
    high = torch.lerp(below, above, place - math.floor(place))
    return strength.minimum(high.view(-1, 1, 1)), high - flat.amin(1)


def _highest(values: Tensor, count: int) -> Tensor:
    """The `count` highest of each row (N, D) of non-negative values, in falling order.

    They lie in the blocks that have the `count` highest maxima: most values are only compared within their block.
    """
    blocks = F.pad(values, (0, -values.shape[1] % BLOCK)).view(len(values), BLOCK, -1)
    chosen = blocks.amax(1).topk(min(count, blocks.shape[2]), dim=1, sorted=False).indices
    candidates = blocks.gather(2, chosen[:, None].expand(-1, BLOCK, -1)).flatten(1)
    return candidates.topk(count, dim=1).values
