"""Torture the product: hostile files, signals, full disks, lost ranks, load.

In the folder of the tests: `python -m torture [PART ...]`. What is done is kept, and a further start goes on there.
`--only inputs:123` runs one case again, and leaves what it made in its folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from torture.disks import Disks
from torture.inputs import Inputs
from torture.load import Load
from torture.outcomes import ROOT, Book, Line, Outcome, Part, tally
from torture.page import PAGE, page
from torture.ranks import Ranks
from torture.signals import Signals

PARTS: Sequence[Part] = (Inputs(), Signals(), Disks(), Ranks(), Load())
SAID = 30.0  # seconds between two lines of progress


def main() -> int:
    """Run what is asked for, print a tally, and return 1 if there is any fault."""
    asked = _arguments()
    parts = [part for part in PARTS if part.name in (asked.part or [part.name for part in PARTS])]
    if asked.only:
        return _run_one(asked)
    end = time.monotonic() + 60 * asked.budget
    books = {part.name: Book(asked.output, part, asked.seed) for part in parts}
    wanted = {part.name: range(part.short if asked.short else part.total) for part in parts}
    try:
        for part in parts if not asked.page else []:
            _run(part, books[part.name], wanted[part.name], asked, end)
    except KeyboardInterrupt:
        print("interrupted; what is done is kept, and the same command goes on from there", file=sys.stderr)
    found = {part.name: books[part.name].read() for part in parts}
    lines = [line for part in parts for line in tally(part, (found[part.name][n] for n in sorted(found[part.name])))]
    _print(lines)
    left = sum(number not in found[part.name] for part in parts for number in wanted[part.name])
    whole = parts == list(PARTS) and not asked.short and not left
    if whole or asked.page:
        (ROOT / PAGE).write_text(page(lines, sum(part.total for part in PARTS), asked.seed), encoding="utf-8")
    if left:
        print(f"{left} cases are left; the same command goes on from there", file=sys.stderr)
    return int(any(line.faults for line in lines))


def _arguments() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m torture", description="Torture the product.")
    parser.add_argument("part", nargs="*", choices=[*names, []], metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="some cases of each part, as continuous integration runs")
    parser.add_argument("--only", metavar="PART:NUMBER", help="run one case, and keep what it made")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MINUTES", help="then leave the rest")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "torture", metavar="FOLDER")
    parser.add_argument("--page", action="store_true", help=f"run nothing, and write {PAGE} from what is there")
    return parser.parse_args()


def _run(part: Part, book: Book, wanted: Sequence[int], asked: argparse.Namespace, end: float) -> None:
    """Run the cases of a part that are left, as long as there is time."""
    done = book.read()
    left = [number for number in wanted if number not in done]
    said, count = time.monotonic(), len(done)
    for outcome in _outcomes(part, left, asked, end):
        book.append(outcome)
        count += 1
        if outcome.fault is not None:
            print(f"{part.name}:{outcome.number} {outcome.group}: {outcome.fault}", flush=True)
        if time.monotonic() - said > SAID:
            said = time.monotonic()
            print(f"{part.name}: {count:,} of {len(wanted):,}", file=sys.stderr, flush=True)


def _outcomes(part: Part, numbers: Sequence[int], asked: argparse.Namespace, end: float) -> Iterator[Outcome]:
    for outcome in part.run(asked.seed, numbers, _folder(asked, part)):
        yield outcome
        if time.monotonic() > end:
            return


def _folder(asked: argparse.Namespace, part: Part) -> Path:
    folder: Path = asked.output.resolve() / part.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run_one(asked: argparse.Namespace) -> int:
    name, _, number = asked.only.partition(":")
    part = next(part for part in PARTS if part.name == name)
    (outcome,) = part.run(asked.seed, [int(number)], _folder(asked, part))
    print(outcome)
    return int(outcome.fault is not None)


def _print(lines: Sequence[Line]) -> None:
    for line in lines:
        peak = "" if line.peak is None else f"{line.peak / 2**20:8.0f} MiB"
        counts = f"{line.cases:7,} cases {line.faults:5} faults {line.slowest:6.1f} s"
        print(f"{line.title:10} {line.group:24} {counts}{peak}")


if __name__ == "__main__":
    sys.exit(main())
