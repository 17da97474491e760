"""Vectors of unit length."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor, dim: int) -> Tensor:
    """X over its length along `dim`; vectors of zeros stay, and pass gradients as they are.

    Clamping the length instead, as is usual, multiplies their gradients by 1e12.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length > 1e-12, length, 1)
