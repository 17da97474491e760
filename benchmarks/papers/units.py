"""Units of work whose results are kept beside a page, so that pieces of any length on any machine add up to it.

A unit is an arm of a comparison with one training seed. What it came to stands in a small file of its own: for every
image the number of draws that were right, under each attack. A page is written from these files alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from stochx.engine.io.files import write_text
from stochx.engine.io.store import FolderInUseError, locked
from stochx.engine.statistics import Estimate

DIGITS = string.digits + string.ascii_lowercase  # one letter holds the number of right draws of an image
MOST_DRAWS = len(DIGITS) - 1


class OutOfTimeError(Exception):
    """The budget of a piece of work is spent."""


@dataclass(frozen=True)
class Unit:
    """An arm with one training seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """The stem of its file."""
        words = re.sub(r"[^a-z0-9]+", "_", self.arm.lower()).strip("_")
        return f"{words}-{self.seed}"


class Outcome(Protocol):
    """What a unit came to, with the `settings` that it depends on, in a file of its own."""

    @property
    def arm(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def write(self, path: Path) -> None:
        """Write the unit's file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the unit's file."""


class Plain:
    """A dataclass of what JSON knows, whose file holds its fields as they are."""

    def write(self, path: Path) -> None:
        """Write the unit's file."""
        write_text(path, json.dumps(asdict(self)) + "\n")  # type: ignore[call-overload]  # a dataclass

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the unit's file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


R = TypeVar("R", bound=Outcome)


@dataclass(frozen=True)
class Result:
    """The outcome of attacks on a unit: `right` holds the share of right draws by image, for every way to evaluate it.

    `draws` is the number of draws a gradient was averaged over, and `checks` says how it was found to be enough.
    """

    arm: str
    seed: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    draws: int
    checks: Sequence[Mapping[str, Any]]
    right: Mapping[str, Sequence[float]]

    def write(self, path: Path) -> None:
        """Write a unit's file, in which the shares of an attack are one letter an image."""
        packed = {way: _pack(shares) for way, shares in self.right.items()}
        write_text(path, json.dumps(asdict(replace(self, right={})) | {"right": packed}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a unit's file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        right = {
            way: [DIGITS.index(c) / packed["of"] for c in packed["right"]] for way, packed in content["right"].items()
        }
        return cls(**content | {"right": right})


def _pack(shares: Sequence[float]) -> dict[str, Any]:
    """Return shares as the fewest draws that they are shares of, and a letter for each that tells how many."""
    for of in range(1, MOST_DRAWS + 1):
        counts = [round(share * of) for share in shares]
        if all(abs(share * of - count) < 1e-6 for share, count in zip(shares, counts, strict=True)):
            return {"of": of, "right": "".join(DIGITS[count] for count in counts)}
    raise ValueError(f"these are not shares of {MOST_DRAWS} draws or fewer")


def kept(bench: Bench[R], units: Sequence[Unit]) -> list[R]:
    """Return the results of all units that have one; raises `ValueError` for one that was made with other settings."""
    results = []
    for unit in units:
        path = bench.folder / f"{unit.name}.json"
        if path.exists():
            result = bench.kind.read(path)
            if result.settings != bench.settings(unit):
                raise ValueError(f"`{path}` was made with other settings: use these again, or another `--results`")
            results.append(result)
    return results


@dataclass(frozen=True)
class Bench(Generic[R]):
    """How units are worked on: where their files are, how one is made, with which settings, and its cost in seconds."""

    kind: type[R]
    folder: Path
    settings: Callable[[Unit], Mapping[str, Any]]
    make: Callable[[Unit], R]
    cost: Callable[[Unit], float]
    write_page: Callable[[Sequence[R]], None]


def work_through(bench: Bench[R], units: Sequence[Unit], minutes: float, partial: bool) -> None:
    """Work on the units in their order until the minutes are spent, and write the page after each.

    A unit that does not fit into what is left is begun only if `partial`: what is done of it stays on this machine.
    Several processes may work on the same page: one that meets a unit of another goes on with the next.
    """
    deadline = time.time() + 60 * minutes
    results = kept(bench, units)
    done = {(result.arm, result.seed) for result in results}
    waiting = [unit for unit in units if (unit.arm, unit.seed) not in done]
    for unit in waiting:
        print(f"{unit.name}: about {bench.cost(unit) / 60:.0f} min", flush=True)
    print(f"{len(waiting)} of {len(units)} units: about {sum(map(bench.cost, waiting)) / 3600:.1f} h", flush=True)
    bench.write_page(results)
    with contextlib.suppress(OutOfTimeError):
        while waiting:
            busy = [unit for unit in waiting if not _work_on(bench, unit, units, deadline, partial)]
            waiting = busy if len(busy) < len(waiting) else []


def _work_on(bench: Bench[R], unit: Unit, units: Sequence[Unit], deadline: float, partial: bool) -> bool:
    """Make a unit and write the page; return False where another process is at it, or at what it stands on.

    Raises `OutOfTimeError` where it does not fit into what is left, or did not.
    """
    left, path = deadline - time.time(), bench.folder / f"{unit.name}.json"
    if left <= 0 or (bench.cost(unit) > left and not partial):
        print(f"{unit.name}: not begun, {max(0.0, left) / 60:.1f} min are left", flush=True)
        raise OutOfTimeError
    try:
        with locked(bench.folder / unit.name), time_limit(left):
            if not path.exists():
                bench.make(unit).write(path)
    except FolderInUseError:
        print(f"{unit.name}: another process is at it", flush=True)
        return False
    except OutOfTimeError:
        print(f"{unit.name}: interrupted, the same command continues it", flush=True)
        raise
    bench.write_page(kept(bench, units))
    return True


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in what runs inside after this time; without end for infinity."""
    if math.isinf(seconds):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def points(value: Estimate) -> str:
    """Format a difference and its interval in percentage points."""
    interval = "" if math.isnan(value.low) else f" ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
    return f"{100 * value.mean:+.1f}{interval}"


def percent(value: Estimate) -> str:
    """Format a share and half of its interval in percent."""
    return f"{100 * value.mean:.1f} ± {100 * value.half:.1f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def folded(summary: str, lines: Sequence[str]) -> list[str]:
    """Return lines that are hidden until their summary is clicked."""
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>", ""]
