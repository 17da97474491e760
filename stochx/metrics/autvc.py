"""AUTVC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.quadrature import simpson
from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score

FACTOR = 1.5
LEVELS = 6  # of a 224-pixel map down to 30
SMALLEST = 30
PERCENTILE = 0.99
AT_ONCE = 2**23  # pixels of maps in work at a time


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
        heights = [self._variations(part.sum(1, keepdim=True), sides) for part in torch.split(evidence.map, chunk)]
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

    def _variations(self, level: Tensor, sides: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """(N, L) total variations per pixel of maps (N, 1, H, W), and whether a level is constant (N,)."""
        level = level.abs() if self.order == "abs" else level
        heights, flat = [], torch.zeros(len(level), dtype=torch.bool, device=level.device)
        for size in sides:
            if size != sides[0]:
                level = F.interpolate(_blurred(level), size, mode="bilinear", align_corners=False)
            scaled, constant = _normalised(level.squeeze(1).abs())
            flat |= constant
            total = self._length(scaled.diff(dim=1)) + self._length(scaled.diff(dim=2))
            heights.append(total / math.prod(size))
        return torch.stack(heights, 1), flat

    def _length(self, differences: Tensor) -> Tensor:
        """The norm of all differences in one direction, (N,)."""
        length: Tensor = torch.linalg.vector_norm(differences.flatten(1), self.norm, dim=1)
        return length


def _blurred(level: Tensor) -> Tensor:
    """A Gaussian of standard deviation 2 * 1.5 / 6, cut at four of them, as scikit-image's: (b a | a b c | c b)."""
    sigma = 2 * FACTOR / 6
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=level.dtype, device=level.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows, columns = (_mirrored(n, reach).to(level.device) for n in level.shape[2:])
    tall = F.conv2d(level[:, :, rows], kernel.view(1, 1, -1, 1))
    return F.conv2d(tall[..., columns], kernel.view(1, 1, 1, -1))


def _mirrored(length: int, reach: int) -> Tensor:
    """Which of `length` places stands at each place from -reach on: the border belongs to its mirror image."""
    places = torch.arange(-reach, length + reach) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


def _normalised(strength: Tensor) -> tuple[Tensor, Tensor]:
    """(N, H, W) from the least value to the 99th percentile as 0 to 1, clipped; and where these are equal (N,)."""
    flat = strength.flatten(1)
    place = PERCENTILE * (flat.shape[1] - 1)
    top = flat.topk(flat.shape[1] - math.floor(place), dim=1).values
    below, above = top[:, -1], top[:, -2] if top.shape[1] > 1 else top[:, -1]
    high, low = torch.lerp(below, above, place - math.floor(place)), flat.amin(1)
    span = high - low
    constant = span <= 0
    scaled = (strength - low.view(-1, 1, 1)) / span.where(~constant, 1.0).view(-1, 1, 1)
    return scaled.clamp(0, 1), constant
