"""Augmentation: random shifts, crops, flips and colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.io.images import LUMA, RGB


def augment(x: Tensor, places: slice, count: int, source: torch.Generator) -> Tensor:
    """Shift each image (N, C, H, W) by up to an eighth of its side, with zero padding, and flip half of them.

    x is the part `places` of a batch of `count` images. Random numbers are drawn for the whole batch, so that ranks
    that share it get the same images as a single process.
    """
    height, width = x.shape[2:]
    reach = height // 8, width // 8
    dy, dx = (torch.randint(0, 2 * r + 1, (count, 1), generator=source)[places] for r in reach)
    mirrored = (torch.rand(count, 1, generator=source) < 0.5)[places]
    across = torch.arange(width)
    rows = (torch.arange(height) + dy).to(x.device)
    columns = (torch.where(mirrored, across.flip(0), across) + dx).to(x.device)
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    image = torch.arange(len(x), device=x.device)
    shifted = padded.movedim(1, 3)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted.movedim(3, 1)


MIN_AREA, ASPECT, COLOUR = 0.08, 4 / 3, 0.4  # smallest area of a crop, largest aspect ratio, largest colour change


def views(x: Tensor, places: slice, count: int, source: torch.Generator) -> Tensor:
    """Crop, flip and recolour every image of x (E, I, C, H, W) in [0, 1], as in few-shot training.

    Crops keep 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3 and are resized back; brightness, contrast and
    saturation change by up to 40 % (Chen et al., 2019). x is the part `places` of `count`, as in `augment`.
    """
    chance = torch.rand(count, x.shape[1], 8, generator=source)[places].flatten(0, 1).to(x.device, x.dtype)
    area = MIN_AREA + (1 - MIN_AREA) * chance[:, 0]
    ratio = ASPECT ** (2 * chance[:, 1] - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = (1 - width) * (2 * chance[:, 2] - 1), (1 - height) * (2 * chance[:, 3] - 1)
    width = torch.where(chance[:, 4] < 0.5, -width, width)
    none = torch.zeros_like(width)
    grid = torch.stack([torch.stack([width, none, across], 1), torch.stack([none, height, down], 1)], 1)
    images = x.flatten(0, 1)
    flow = F.affine_grid(grid, list(images.shape), align_corners=False)
    images = F.grid_sample(images, flow, padding_mode="border", align_corners=False)
    brighter, sharper, stronger = (1 + COLOUR * (2 * chance[:, 5:] - 1)).view(-1, 3, 1, 1, 1).unbind(1)
    images = images * brighter
    weights = LUMA if images.shape[1] == RGB else (1 / images.shape[1],) * images.shape[1]
    grey = (images * images.new_tensor(weights).view(-1, 1, 1)).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    images = mean + sharper * (grey + stronger * (images - grey) - mean)
    return images.clamp(0, 1).view(x.shape)
