"""Numbers as a report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def percent(value: float) -> str:
    """Return a share as `43.1 %`."""
    return f"{100 * value:.1f} %"


def within(row: Mapping[str, Any], low: str = "low", high: str = "high", n: str = "n") -> str:
    """Return `95 % interval 36.2 to 50.1 %, n = 100` of a share, as far as it is there."""
    count = f"n = {row[n]}" if row.get(n) is not None else ""
    if row.get(low) is None or row.get(high) is None:
        return count
    ends = f"95 % interval {100 * row[low]:.1f} to {100 * row[high]:.1f} %"
    return f"{ends}, {count}" if count else ends


def listed(names: Iterable[str]) -> str:
    """Return `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def short(path: object) -> str:
    """Return the last two parts of a path: enough to tell networks apart."""
    return "/".join(str(path).replace("\\", "/").rstrip("/").split("/")[-2:])


def folder_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of different folders, with as many of their parents as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return [str(Path(*part[-depth:])) for part in parts]


def shared_folder(names: Iterable[str]) -> str:
    """Return the folder of all names, with its slash; empty where they have several, or none."""
    folders = {name.rpartition("/")[0] for name in names}
    return f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""


def duration(seconds: float) -> str:
    """Return `12 s`, `3 min 20 s` or `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
