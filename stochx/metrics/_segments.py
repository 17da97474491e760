"""Superpixels: segments of an image that are alike in colour and close together."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

STEPS = 10  # rounds of assignment and update
COMPACTNESS = 10.0  # weight of a distance of one cell, in units of CIELAB
WHITE = (0.95047, 1.0, 1.08883)
TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))


def superpixels(x: Tensor, segments: int) -> tuple[Tensor, int]:
    """Return the segment (N, H, W) of each pixel of x (N, C, H, W) in [0, 1], and their number, about `segments`.

    SLIC is a k-means of colour and place (Achanta et al., 2012), which begins with the cells of a grid of squares. A
    pixel chooses among the centres of its own cell and the eight around it. Segments may fall apart, or be empty.
    """
    height, width = x.shape[2:]
    side = math.sqrt(height * width / segments)
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    row, column = (torch.arange(n, device=x.device) * cells // n for n, cells in ((height, rows), (width, columns)))
    cell = (row[:, None] * columns + column).flatten()
    near = _near(rows, columns).to(x.device)[cell]  # (H W, 9)
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).to(x)
    features = torch.cat([_lab(x).flatten(2), (place.flatten(1) * COMPACTNESS / side).expand(len(x), -1, -1)], 1)
    found = torch.stack([_clusters(image.T.contiguous(), cell, near, rows * columns) for image in features])
    return found.view(len(x), height, width), rows * columns


def _near(rows: int, columns: int) -> Tensor:
    """Return the cells (R C, 9) around each cell of a grid, itself first; beyond the border, itself again."""
    table = torch.arange(rows * columns).view(rows, columns)
    steps = sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda step: (abs(step[0]) + abs(step[1]), step))
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None]
    moved = []
    for down, right in steps:
        inside = (row + down >= 0) & (row + down < rows) & (column + right >= 0) & (column + right < columns)
        moved.append(
            table[(row + down).clamp(0, rows - 1), (column + right).clamp(0, columns - 1)].where(inside, table)
        )
    return torch.stack(moved, -1).flatten(0, 1)


def _clusters(features: Tensor, cell: Tensor, near: Tensor, count: int) -> Tensor:
    """Return the cluster (P,) of each pixel's features (P, F), from the `cell` where it begins."""
    segment, centres = cell, features.new_zeros(count, features.shape[1])
    for _ in range(STEPS):
        size = torch.bincount(segment, minlength=count)[:, None]
        total = torch.zeros_like(centres).index_add_(0, segment, features)
        centres = torch.where(size > 0, total / size.clamp(min=1), centres)
        distance = torch.stack([(features - centres[other]).square().sum(1) for other in near.T], 1)
        before, segment = segment, near.gather(1, distance.argmin(1, keepdim=True)).squeeze(1)
        if torch.equal(before, segment):
            break
    return segment


def _lab(x: Tensor) -> Tensor:
    """Return pixels in CIELAB (D65) for three channels in sRGB, and in percent for any others."""
    if x.shape[1] != 3:
        return 100 * x
    x = x.clamp(0, 1)
    linear = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    share = torch.einsum("dc,nchw->ndhw", x.new_tensor(TO_XYZ), linear) / x.new_tensor(WHITE).view(1, 3, 1, 1)
    a, b, c = torch.where(share > 0.008856, share.clamp(min=1e-9) ** (1 / 3), 7.787 * share + 16 / 116).unbind(1)
    return torch.stack([116 * b - 16, 500 * (a - b), 200 * (b - c)], 1)
