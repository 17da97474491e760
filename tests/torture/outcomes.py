"""Cases of the torture run and what came of them, kept in files so that a run goes on where it was left."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of a case, which the seed and its number make again.

    `fault` is None, or its kind and first line: `traceback: KeyError: 'x'`, `hang`, `memory: 3.1 GiB`, `lost`. `group`
    is what was tortured, such as `headers` or `SIGTERM`; `seconds` are those of the case, of the processor where others
    may keep it waiting, and `peak` its bytes.
    """

    number: int
    group: str
    fault: str | None
    seconds: float
    peak: int | None = None


class Part(Protocol):
    """A part of the torture run: `total` cases in the whole run, of which the first `short` are the short form."""

    name: str
    title: str
    total: int
    short: int

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Run the cases of these numbers; `folder` is theirs, and what is left there of a fault shows it."""


class Book:
    """The outcomes of a part under one seed, a line each; those of other seeds and of other code do not count."""

    def __init__(self, folder: Path, part: Part, seed: int) -> None:
        self._file, self._key = folder / f"{part.name}.jsonl", {"seed": seed, "code": code_of(part)}

    def read(self) -> dict[int, Outcome]:
        """Return the outcomes by number; of a case that was run again, the last."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        return {outcome.number: outcome for outcome in self._outcomes(lines)}

    def _outcomes(self, lines: Iterable[str]) -> Iterator[Outcome]:
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:  # the run was killed as it wrote this
                continue
            if {name: values.pop(name) for name in self._key} == self._key:
                yield Outcome(**values)

    def append(self, outcome: Outcome) -> None:
        """Add an outcome."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self._key, **asdict(outcome)}) + "\n")


def code_of(part: Part) -> str:
    """Return a hash of the product's code, and of that which makes the cases of a part."""
    made = Path(sys.modules[type(part).__module__].__file__ or "")
    own = made.parent.rglob("*.py") if made.name == "__init__.py" else [made]
    shared = Path(__file__).with_name("commands.py")
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "stochx").rglob("*.py"), *own, shared]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Line:
    """A line of the tally: the outcomes of a group."""

    title: str
    group: str
    cases: int
    faults: int
    slowest: float
    peak: int | None


def tally(part: Part, outcomes: Iterable[Outcome]) -> list[Line]:
    """Return a line for each group of a part, in the order in which they are found."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.group, []).append(outcome)
    return [
        Line(
            part.title,
            group,
            len(found),
            sum(outcome.fault is not None for outcome in found),
            max(outcome.seconds for outcome in found),
            max((outcome.peak for outcome in found if outcome.peak is not None), default=None),
        )
        for group, found in groups.items()
    ]
