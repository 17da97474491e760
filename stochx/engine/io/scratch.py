"""Tensors that may be too large for memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stochx.errors import InputError

IN_MEMORY = 2 * 2**30  # bytes


def scratch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, in memory or, above 2 GiB, in a memory-mapped file that is deleted with it.

    The file is in the folder for temporary files (`TMPDIR`). Raises `InputError` if there is no space for it.
    """
    count = math.prod(shape)
    size = count * torch.empty(0, dtype=dtype).element_size()
    if size <= IN_MEMORY:
        return torch.empty(*shape, dtype=dtype)
    try:
        with tempfile.NamedTemporaryFile(prefix="stochx-") as file:
            _reserve(file.fileno(), size)
            return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(*shape)
    except (OSError, RuntimeError) as error:
        folder = Path(tempfile.gettempdir())
        raise InputError(f"{size / 2**30:.1f} GiB do not fit into `{folder}`: {error}", "set TMPDIR") from None


def _reserve(file: int, size: int) -> None:
    """Make a file `size` bytes long, all of them on the disk: a page that finds no space would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
