"""Allocator settings: memory that training frees is soon needed again."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of glibc's mallopt


@cache
def retain_freed_memory() -> None:
    """Make glibc keep freed memory in this process; with other C libraries nothing happens.

    By default glibc returns large blocks to the system at once and gets them back page by page: with tensors of some
    hundred megabytes that took 60 % of the CPU time of a training step. The price is a little more memory.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # raises AttributeError in other libraries
        library.mallopt(TRIM_THRESHOLD, -1)  # never
        library.mallopt(MMAP_MAX, 0)
