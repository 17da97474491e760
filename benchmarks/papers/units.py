"""Units of work whose results are kept beside their page, so that any checkout goes on where the last one stopped."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stochx import __version__
from stochx.engine.io.store import write_text

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Shelf:
    """The results of units, a small JSON file each, in a folder of the page's name."""

    page: Path

    @property
    def folder(self) -> Path:
        """The folder beside the page."""
        return self.page.with_suffix("")

    def read(self) -> Results:
        """Return the results that are kept, by unit."""
        files = sorted(self.folder.glob("*.json"))
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

    def keep(self, unit: str, result: dict[str, Any]) -> None:
        """Keep the result of a unit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{unit}.json", json.dumps(result))


def work_through(
    shelf: Shelf,
    units: Sequence[str],
    work: Callable[[str], dict[str, Any]],
    settings: dict[str, Any],
    minutes: float = math.inf,
) -> Iterator[Results]:
    """Yield all results, first those that are kept, and then again after each unit that was missing.

    A unit is not begun that would end after `minutes`, if it takes as long as the longest one before. `settings`,
    `seconds` and `version` are added to what `work` returns; units of other settings are not mixed with these.
    """
    begun, results = time.perf_counter(), shelf.read()
    for unit, result in results.items():
        if result["settings"] != settings:
            sys.exit(f"`{shelf.folder / unit}.json` has the settings {result['settings']}: use these, or another page")
    yield results
    for unit in units:
        if unit in results:
            continue
        longest = max((result["seconds"] for result in results.values()), default=0.0)
        start = time.perf_counter()
        if start + longest > begun + 60 * minutes:
            return
        found = work(unit)
        seconds = round(time.perf_counter() - start, 1)
        results[unit] = {"version": __version__, "seconds": seconds, "settings": settings, **found}
        shelf.keep(unit, results[unit])
        yield results


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Return a value with a few significant digits, as it is kept."""
    return None if value is None else float(f"{value:.{digits}g}")
