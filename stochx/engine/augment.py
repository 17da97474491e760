"""Random shifts and mirror images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(x: Tensor, places: slice, count: int, source: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) shifted by up to an eighth of its side, zeros coming in, and mirrored half of the time.

    x is the part `places` of a batch of `count` images, all of which are drawn for: ranks that share a batch see what
    one process sees.
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
    found = padded.movedim(1, 3)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found.movedim(3, 1)
