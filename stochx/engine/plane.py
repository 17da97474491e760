"""Planes through the space of images, their grids, and the regions of a map of labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stochx.errors import InputError

MARGIN = 0.1  # of the box around three images, added on each side (Somepalli et al., 2022)
FLAT = 1e-6  # how short, of its own length, a vector's part off another one may be


@dataclass(frozen=True)
class Plane:
    """origin + a * axes[0] + b * axes[1], looked at for a and b between `low` and `high`.

    `origin` is (C, H, W), `axes` (2, C, H, W), orthogonal, of one length in L2; `marks` (M, 2) are the coordinates of
    the images that it was made for. A new plane is float64 on the CPU.
    """

    origin: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor
    marks: Tensor

    @property
    def length(self) -> float:
        """The L2 length of either axis: coordinates times this are distances."""
        return float(self.axes[0].norm())

    def to(self, like: Tensor) -> Plane:
        """The plane whose points have the type of `like` and are on its device."""
        return replace(self, origin=self.origin.to(like), axes=self.axes.to(like))

    def points(self, places: Tensor) -> Tensor:
        """Coordinates (N, 2) -> images (N, C, H, W), which may leave [0, 1]."""
        return self.origin + torch.einsum("np,pchw->nchw", places.to(self.axes), self.axes)

    def grid(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Coordinates a (W,) and b (H,) of square cells, `resolution` along the longer side, the range covered."""
        size = self.high - self.low
        pitch = size.max() / (resolution - 1)
        counts = [math.ceil(cells - 1e-9) + 1 for cells in (size / pitch).tolist()]
        first, second = (
            middle + pitch * (torch.arange(count, dtype=torch.float64) - (count - 1) / 2)
            for middle, count in zip((self.low + self.high) / 2, counts, strict=True)
        )
        return first, second


def through(images: Tensor) -> Plane:
    """The plane of three images (3, C, H, W), with orthonormal axes: coordinates are L2 distances from the first.

    v1 = (x2 - x1) / |x2 - x1|, v2 = Gram-Schmidt of x3 - x1; the range is the images' box and a tenth more on each
    side (Somepalli et al., 2022). Raises `InputError` for equal images and for three on a line.
    """
    first, second, third = images.double()
    if first.equal(second) or first.equal(third) or second.equal(third):
        raise InputError("two of the three images are equal", "name three different ones with `--images`")
    rest = off(third - first, second - first)
    if rest.norm() <= FLAT * (third - first).norm():
        raise InputError("the three images lie on one line and span no plane", "choose another one with `--images`")
    axes = torch.stack([(second - first) / (second - first).norm(), rest / rest.norm()])
    marks = torch.einsum("mchw,pchw->mp", images.double() - first, axes)
    low, high = marks.amin(0), marks.amax(0)
    return Plane(first, axes, low - MARGIN * (high - low), high + MARGIN * (high - low), marks)


def across(image: Tensor, direction: Tensor, other: Tensor, reach: float) -> Plane:
    """The plane of an image (C, H, W), a `direction`, and the part of `other` that is orthogonal to it, as long.

    It reaches from -reach to reach along both. Raises `InputError` for directions that span no plane.
    """
    first, second = direction.double(), other.double()
    rest = off(second, first)
    if not rest.norm() > FLAT * second.norm():
        raise InputError("the two directions span no plane", "choose another `--seed`")
    end = torch.full((2,), reach, dtype=torch.float64)
    axes = torch.stack([first, rest * (first.norm() / rest.norm())])
    return Plane(image.double(), axes, -end, end, torch.zeros(1, 2, dtype=torch.float64))


def off(vector: Tensor, other: Tensor) -> Tensor:
    """The part of `vector` that is orthogonal to `other`."""
    return vector - other * ((vector * other).sum() / other.square().sum())


def regions(labels: Tensor) -> Tensor:
    """The connected regions of equal labels (H, W), by four neighbours: each cell's region, 0 to the last, (H, W).

    Every cell points to a smaller one of its region: where neighbours have different roots, the larger root is pointed
    to the smaller one, then all pointers are followed to their ends, until no two differ (Shiloach & Vishkin, 1982).
    """
    cell = torch.arange(labels.numel()).view(labels.shape)
    right, below = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    one = torch.cat([cell[:, :-1][right], cell[:-1][below]])
    two = torch.cat([cell[:, 1:][right], cell[1:][below]])
    root = cell.flatten()
    while (apart := root[one] != root[two]).any():
        ends = torch.stack([root[one[apart]], root[two[apart]]])
        root = root.scatter_reduce(0, ends.amax(0), ends.amin(0), "amin")
        while not (further := root[root]).equal(root):
            root = further
    order = (root == cell.flatten()).cumsum(0) - 1
    return order[root].view(labels.shape)
