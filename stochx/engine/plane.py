"""Planes in image space, their grids, and connected regions of labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stochx.errors import InputError

MARGIN = 0.1  # share of the box around three images added on each side (Somepalli et al., 2022)
FLAT = 1e-6  # smallest orthogonal part of a vector, relative to its length


@dataclass(frozen=True)
class Plane:
    """The plane origin + a * axes[0] + b * axes[1], for a and b between `low` and `high`.

    `origin` is (C, H, W), `axes` (2, C, H, W), orthogonal and of equal L2 length; `marks` (M, 2) are the coordinates of
    the images that define it. A new plane is float64 on the CPU.
    """

    origin: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor
    marks: Tensor

    @property
    def length(self) -> float:
        """L2 length of either axis; coordinates times this are distances."""
        return float(self.axes[0].norm())

    def to(self, like: Tensor) -> Plane:
        """Return the plane with points of the type and on the device of `like`."""
        return replace(self, origin=self.origin.to(like), axes=self.axes.to(like))

    def points(self, places: Tensor) -> Tensor:
        """Return the images (N, C, H, W) at coordinates (N, 2); they may leave [0, 1]."""
        return self.origin + torch.einsum("np,pchw->nchw", places.to(self.axes), self.axes)

    def grid(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Return coordinates a (W,), b (H,) of square cells covering the range, `resolution` along the longer side."""
        size = self.high - self.low
        pitch = size.max() / (resolution - 1)
        counts = [math.ceil(cells - 1e-9) + 1 for cells in (size / pitch).tolist()]
        first, second = (
            middle + pitch * (torch.arange(count, dtype=torch.float64) - (count - 1) / 2)
            for middle, count in zip((self.low + self.high) / 2, counts, strict=True)
        )
        return first, second


def through(images: Tensor) -> Plane:
    """Return the plane of three images (3, C, H, W), with orthonormal axes: coordinates are distances from the first.

    v1 = (x2 - x1) / |x2 - x1|, v2 = Gram-Schmidt of x3 - x1; the range is the images' box plus a tenth on each side
    (Somepalli et al., 2022). Raises `InputError` for equal images and for three on a line.
    """
    first, second, third = images.double()
    if first.equal(second) or first.equal(third) or second.equal(third):
        raise InputError("two of the three images are equal", "choose three different ones with `--images`")
    rest = off(third - first, second - first)
    if rest.norm() <= FLAT * (third - first).norm():
        raise InputError("the three images lie on a line and do not span a plane", "choose another one with `--images`")
    axes = torch.stack([(second - first) / (second - first).norm(), rest / rest.norm()])
    marks = torch.einsum("mchw,pchw->mp", images.double() - first, axes)
    low, high = marks.amin(0), marks.amax(0)
    return Plane(first, axes, low - MARGIN * (high - low), high + MARGIN * (high - low), marks)


def across(image: Tensor, direction: Tensor, other: Tensor, reach: float) -> Plane:
    """Return the plane of an image (C, H, W), a `direction`, and the part of `other` orthogonal to it, of equal length.

    Both axes range from -reach to reach. Raises `InputError` for directions that do not span a plane.
    """
    first, second = direction.double(), other.double()
    rest = off(second, first)
    if not rest.norm() > FLAT * second.norm():
        raise InputError("the two directions do not span a plane", "choose another `--seed`")
    end = torch.full((2,), reach, dtype=torch.float64)
    axes = torch.stack([first, rest * (first.norm() / rest.norm())])
    return Plane(image.double(), axes, -end, end, torch.zeros(1, 2, dtype=torch.float64))


def off(vector: Tensor, other: Tensor) -> Tensor:
    """Return the part of `vector` that is orthogonal to `other`."""
    return vector - other * ((vector * other).sum() / other.square().sum())


def regions(labels: Tensor) -> Tensor:
    """Return the connected region (H, W), from 0, of each cell among equal labels (H, W) of four neighbours.

    Every cell points to a smaller one of its region. Where neighbours have different roots, the larger root is pointed
    at the smaller one; then all pointers are followed to their ends, until no roots differ (Shiloach & Vishkin, 1982).
    """
    cell = torch.arange(labels.numel()).view(labels.shape)
    right, below = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    first = torch.cat([cell[:, :-1][right], cell[:-1][below]])
    second = torch.cat([cell[:, 1:][right], cell[1:][below]])
    root = cell.flatten()
    while (unequal := root[first] != root[second]).any():
        ends = torch.stack([root[first[unequal]], root[second[unequal]]])
        root = root.scatter_reduce(0, ends.amax(0), ends.amin(0), "amin")
        while not (further := root[root]).equal(root):
            root = further
    order = (root == cell.flatten()).cumsum(0) - 1
    return order[root].view(labels.shape)
