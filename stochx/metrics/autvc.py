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

from stochx.engine.statistics import Bounds
from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._quadrature import simpson

FACTOR = 1.5
LEVELS = 6  # levels of a 224-pixel map down to 30
SMALLEST = 30
PERCENTILE = 0.99
AT_ONCE = 2**19  # pixels of maps processed at a time: fits the caches
BLOCK = 8  # pixels first compared by their maximum

Taps = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AUTVC:
    """Area under the curve of total variation over scales: the noisiness of a map (Goh et al., 2020).

    A Gaussian pyramid of the channel sum, each level smaller by a factor of 1.5. |level| is scaled from its minimum and
    99th percentile to [0, 1]; its total variation per pixel is one point of the curve, whose area follows Simpson's
    rule. Blurring a map lowers it: it does not measure faithfulness, so read it only beside a metric that does.
    """

    norm: float = 1.0  # order of the norm of differences; above 1, norms of rows and columns are added
    order: Literal["signed", "abs"] = "signed"  # pyramid of the signed map (authors' code) or of |map| (paper)
    smallest: int = 0  # shorter side of the last level in pixels; 0 means 30, or six levels for small maps

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    reduction: ClassVar[str] = "|channel sum| of each level of the pyramid"
    axis: ClassVar[str] = "level of the pyramid"
    bounds: ClassVar[Bounds] = (0.0, math.inf)
    height: ClassVar[str] = "total variation per pixel"

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
        """Return height and width of each level."""
        sides = [(height, width)]
        while (smaller := (math.ceil(sides[-1][0] / FACTOR), math.ceil(sides[-1][1] / FACTOR))) != sides[-1]:
            sides.append(smaller)
        if self.smallest:
            levels = [s for s in sides if min(s) >= self.smallest]
        else:
            levels = [s for s in sides if min(s) >= SMALLEST]
            levels = levels if len(levels) >= LEVELS else [s for s in sides[:LEVELS] if min(s) >= 4]
        if len(levels) < 2:
            raise InputError(
                f"a map of {height} x {width} has {len(levels)} levels of at least {self.smallest or 4} pixels",
                "use a smaller `autvc:smallest=`, or larger maps",
            )
        return levels

    def _variations(self, level: Tensor, smaller: Sequence[Sequence[Taps]]) -> tuple[Tensor, Tensor]:
        """Return total variations per pixel (N, L) of maps (N, H, W), and a mask (N,) of maps with a constant level."""
        level = level.abs() if self.order == "abs" else level
        heights, flat = [], torch.zeros(len(level), dtype=torch.bool, device=level.device)
        for taps in [[], *smaller]:
            for axis_taps in taps:  # the rows, then the columns
                level = _resampled(level, *axis_taps).mT.contiguous()
            clipped, span = _clipped(level.abs())
            constant = span <= 0
            flat |= constant
            total = self._length(clipped.diff(dim=1)) + self._length(clipped.diff(dim=2))
            heights.append(total / span.where(~constant, 1.0) / level[0].numel())
        return torch.stack(heights, 1), flat

    def _length(self, differences: Tensor) -> Tensor:
        """Return the norm (N,) of all differences in one direction."""
        length: Tensor = torch.linalg.vector_norm(differences.flatten(1), self.norm, dim=1)
        return length


def _taps(length: int, smaller: int, like: Tensor) -> Taps:
    """Return the weights and source positions, both (T, smaller), that resample a line of `length` values.

    A Gaussian of standard deviation 2 * 1.5 / 6, truncated at four of them, as in scikit-image: (b a | a b c | c b);
    then linear interpolation. Both are linear along the line: together they form one sparse matrix.
    """
    sigma = 2 * FACTOR / 6
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    lines = torch.eye(length, dtype=like.dtype, device=like.device)[:, None, _mirrored(length, reach).to(like.device)]
    matrix = F.interpolate(F.conv1d(lines, kernel.view(1, 1, -1)), smaller, mode="linear", align_corners=False)
    weights, places = matrix.squeeze(1).topk(min(2 * reach + 2, length), dim=0)  # all other weights are zero
    return weights, places


def _mirrored(length: int, reach: int) -> Tensor:
    """Return the index at each position from -reach on, with the `length` values mirrored at the border."""
    places = torch.arange(-reach, length + reach) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


def _resampled(level: Tensor, weights: Tensor, places: Tensor) -> Tensor:
    """Resample rows: (N, H, W) -> (N, smaller, W)."""
    total = weights[0, :, None] * level.index_select(1, places[0])
    for weight, place in zip(weights[1:], places[1:], strict=True):
        total.addcmul_(weight[:, None], level.index_select(1, place))
    return total


def _clipped(strength: Tensor) -> tuple[Tensor, Tensor]:
    """Clip (N, H, W) at the 99th percentile; also return the percentile minus the minimum (N,).

    The minimum is not subtracted, as differences do not depend on it; they are divided by the span after summation.
    """
    flat = strength.flatten(1)
    place = PERCENTILE * (flat.shape[1] - 1)
    top = _highest(flat, flat.shape[1] - math.floor(place))
    below, above = top[:, -1], top[:, -2] if top.shape[1] > 1 else top[:, -1]
    high = torch.lerp(below, above, place - math.floor(place))
    return strength.minimum(high.view(-1, 1, 1)), high - flat.amin(1)


def _highest(values: Tensor, count: int) -> Tensor:
    """Return the `count` largest values of each row (N, D), non-negative, in descending order.

    They lie in the blocks with the `count` largest maxima, so most values are only compared within their block.
    """
    blocks = F.pad(values, (0, -values.shape[1] % BLOCK)).view(len(values), BLOCK, -1)
    chosen = blocks.amax(1).topk(min(count, blocks.shape[2]), dim=1, sorted=False).indices
    candidates = blocks.gather(2, chosen[:, None].expand(-1, BLOCK, -1)).flatten(1)
    return candidates.topk(count, dim=1).values
