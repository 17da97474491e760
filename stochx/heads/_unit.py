"""Vectors of unit length."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor, dim: int) -> Tensor:
    """Divide x by its length along `dim`; zero vectors, and their gradients, stay as they are.

    The usual clamping of the length would multiply these gradients by 1e12.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / torch.where(length > 1e-12, length, 1)
