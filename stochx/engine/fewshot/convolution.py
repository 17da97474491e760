"""Fast 3x3 convolutions of small maps and products of many rows, in float32 on CPUs; torch's own elsewhere.

`benchmarks/convolution.py` measures speed and accuracy.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

TOUCH = 120  # cost of transforming a value, which is memory-bound, in products
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # plus infinity: points with small errors (Barabasz et al., 2020)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x w^T + b for many rows: x (..., I), w (O, I), b (O) -> (..., O).

    On a CPU torch computes float32 products with MKL, which reserves its fastest code for Intel's processors, and
    convolutions with oneDNN, which does not: as a 1x1 convolution a product takes half the time on an AMD EPYC, and the
    same on a Xeon. The dilation, without effect on 1x1 kernels, makes torch choose oneDNN on a single thread too.
    """
    if not _ours(x):
        return F.linear(x, weight, bias)
    pixels = x.flatten(0, -2)[None, None].permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """Compute conv2d of stride 1: x (N, C, H, W), w (O, C, K, L), b (O) -> (N, O, H', W').

    3x3 kernels use minimal filtering where it is faster (Winograd, 1980; Lavin & Gray, 2016): 36 products for 4x4
    outputs instead of 144. Errors are then up to 1e-5 of the largest output instead of 1e-6. As maps are small, each
    transform, including padding and tiling, is a product with a single matrix.
    """
    size = [side + 2 * padding - 2 for side in x.shape[2:]]
    if not _ours(x) or weight.shape[2:] != (3, 3) or not _pays(*weight.shape[:2], *size):
        return F.conv2d(x, weight, bias, 1, padding)
    (images, channels), outputs = x.shape[:2], len(weight)
    into, kernel, out = _transforms(*x.shape[2:], padding)
    products, tiles = into.shape[:2]
    v = into.flatten(0, 1) @ x.reshape(images * channels, -1).mT
    u = kernel @ weight.reshape(outputs * channels, -1).mT
    rows, kernels = v.view(products, tiles * images, channels), u.view(products, outputs, channels)
    outputs_by_point = torch.stack([linear(*pair) for pair in zip(rows.unbind(), kernels.unbind(), strict=True)])
    y = (outputs_by_point.view(-1, images * outputs).mT @ out).view(images, outputs, *size)
    return y if bias is None else y + bias[:, None, None]


def convolve_back(x: Tensor, weight: Tensor, padding: int = 0, exact: bool = False) -> Tensor:
    """Compute conv_transpose2d of stride 1, with torch if `exact`: x (N, O, H', W'), w (O, C, K, L) -> (N, C, H, W)."""
    if exact or weight.shape[2:] != (3, 3):
        return F.conv_transpose2d(x, weight, None, 1, padding)
    return convolve(x, weight.flip(2, 3).transpose(0, 1), None, 2 - padding)


def _ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _pays(outputs: int, channels: int, height: int, width: int) -> bool:
    """Return True if minimal filtering is faster than direct sums; independent of the batch size."""
    pixels, both = height * width, outputs * channels
    products = math.prod(tiles * (tile + 2) for tiles, tile in map(_tiles, (height, width)))
    return products * (both + (pixels + TOUCH) * (outputs + channels)) < 9 * pixels * both


def _tiles(side: int) -> tuple[int, int]:
    """Return the number and the size of tiles that cover `side` outputs with the fewest products."""
    return min(((math.ceil(side / tile), tile) for tile in (2, 3, 4)), key=lambda each: each[0] * (each[1] + 2))


@functools.lru_cache(64)
def _transforms(height: int, width: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the transforms of maps to P points of T tiles (P, T, H W), of kernels (P, 9), and back (P T, H' W')."""
    rows, columns = (_axis(side, padding) for side in (height, width))
    letters = ("atp,buq->abtupq", "ai,bj->abij", "atp,buq->abtupq")
    into, kernel, out = (torch.einsum(*each).float() for each in zip(letters, rows, columns, strict=True))
    return into.flatten(4).flatten(2, 3).flatten(0, 1), kernel.flatten(2).flatten(0, 1), out.flatten(4).flatten(0, 3)


def _axis(side: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Toom-Cook transforms along one axis, in float64: (K, T, side), (K, 3) and (K, T, outputs)."""
    outputs = side + 2 * padding - 2
    tiles, tile = _tiles(outputs)
    points = torch.tensor(POINTS[: tile + 1], dtype=torch.float64)
    inverse = torch.linalg.inv(_powers(points, tile + 2)).mT
    into, out = points.new_zeros(tile + 2, tiles, tiles * tile + 2), points.new_zeros(tile + 2, tiles, tiles * tile)
    for t in range(tiles):
        into[:, t, t * tile : t * tile + tile + 2] = inverse
        out[:, t, t * tile : (t + 1) * tile] = _powers(points, tile)
    return F.pad(into, (-padding, padding + side - into.shape[2])), _powers(points, 3), out[:, :, :outputs]


def _powers(points: Tensor, count: int) -> Tensor:
    """Return the values (K, count) of 1, x, x^2, ... at the points and at infinity, where only the last is nonzero."""
    infinity = F.one_hot(torch.tensor([count - 1]), count).to(points)
    return torch.cat([torch.linalg.vander(points, N=count), infinity])
