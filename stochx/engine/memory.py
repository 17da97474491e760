"""Memory of this machine and of this process, in bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stochx.engine.threads import SELF, groups

UNLIMITED = 2**60  # groups of version 1 have a number like this instead of no limit
MEMINFO = Path("/proc/meminfo")


def total_memory(proc: Path = SELF) -> int:
    """Return the memory that this process may use: the machine's, or the limit of its control groups if smaller."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *(limit for limit, _ in _limits(proc))])


def available_memory(proc: Path = SELF, meminfo: Path = MEMINFO) -> int | None:
    """Return what is free of it, or can be freed; None where the system does not say."""
    line = re.search(r"^MemAvailable:\s*(\d+) kB", _read(meminfo), re.MULTILINE)
    if line is None:
        return None
    return max(0, min([1024 * int(line[1]), *(limit - used for limit, used in _limits(proc))]))


def resident_memory(proc: Path = SELF) -> int | None:
    """Return what this process occupies; None where the system does not say."""
    pages = _read(proc / "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _limits(proc: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group that has one, and what is used of it; files in the cache count as free."""
    for group in groups(proc, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            numbers = [_read(group / name).strip() for name in (limit, used)]
            if all(number.isdecimal() for number in numbers) and int(numbers[0]) < UNLIMITED:
                cached = re.search(r"^(?:total_)?inactive_file (\d+)", _read(group / "memory.stat"), re.MULTILINE)
                yield int(numbers[0]), int(numbers[1]) - (int(cached[1]) if cached else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:  # not Linux, no such controller, or no permission
        return ""
