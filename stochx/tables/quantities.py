"""Counts, times, sizes and rates as people read them."""

from __future__ import annotations

MINUTE, HOUR, DAY = 60, 3600, 86400


def plural(count: int, noun: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return `3 s`, `12 min`, `5.5 h` or `2.1 days`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * MINUTE:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.{0 if seconds >= 10 * HOUR else 1}f} h"
    return f"{seconds / DAY:.{0 if seconds >= 10 * DAY else 1}f} days"


def size(count: float) -> str:
    """Return a number of bytes as `120 MiB` or `1.4 GiB`."""
    mib = count / 2**20
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def rate(count: float, seconds: float) -> str:
    """Return `812/s`, `3.1/s`, or per minute or hour what is slower than one a second; empty before the first."""
    if not count or seconds <= 0:
        return ""
    for unit, length in (("s", 1), ("min", MINUTE), ("h", HOUR)):
        speed = count / seconds * length
        if speed >= 1 or unit == "h":
            return f"{speed:.0f}/{unit}" if speed >= 10 else f"{speed:.1f}/{unit}"
    raise AssertionError("an hour is the longest unit")
