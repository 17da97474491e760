"""Memory that a training frees is memory that it needs again."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's mallopt


@cache
def retain_freed_memory() -> None:
    """From now on this process keeps what it frees, where its C library is glibc; elsewhere nothing happens.

    By itself glibc returns large blocks to the system at once and gets them back page by page: with tensors of some
    hundred megabytes that took 60 % of a training step's CPU time. The price is some more memory.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # raises AttributeError in other libraries
        library.mallopt(TRIM_THRESHOLD, -1)  # never
        library.mallopt(MMAP_MAX, 0)
