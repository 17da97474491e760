"""Torture the product: hostile files, signals, full disks, lost ranks, load.

In the folder of the tests: `python -m torture [PART ...]`. What is done is kept, and a further start goes on there.
`--only inputs:123` runs one case again, and leaves what it made in its folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torture.outcomes import ROOT, Book, Line, tally
from torture.page import PAGE, page
from torture.workers import PARTS, Work, folder_of, share_out


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
            done = books[part.name].read()
            left = [number for number in wanted[part.name] if number not in done]
            share_out(Work(part.name, asked.seed, asked.output, end), left, asked.jobs)
    except KeyboardInterrupt:
        print("interrupted; what is done is kept, and the same command goes on from there", file=sys.stderr)
    found = {part.name: books[part.name].read() for part in parts}
    lines = [line for part in parts for line in tally(part, (found[part.name][n] for n in sorted(found[part.name])))]
    _print(lines)
    missing = sum(number not in found[part.name] for part in parts for number in wanted[part.name])
    whole = parts == list(PARTS) and not asked.short and not missing
    if whole or asked.page:
        (ROOT / PAGE).write_text(page(lines, sum(part.total for part in PARTS), asked.seed), encoding="utf-8")
    if missing:
        print(f"{missing} cases are left; the same command goes on from there", file=sys.stderr)
    return int(any(line.faults for line in lines))


def _arguments() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m torture", description="Torture the product.")
    parser.add_argument("part", nargs="*", choices=[*names, []], metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="some cases of each part, as continuous integration runs")
    parser.add_argument("--only", metavar="PART:NUMBER", help="run one case, and keep what it made")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="cases at once: one a core")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="MINUTES", help="then leave the rest")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "torture", metavar="FOLDER")
    parser.add_argument("--page", action="store_true", help=f"run nothing, and write {PAGE} from what is there")
    return parser.parse_args()


def _run_one(asked: argparse.Namespace) -> int:
    name, _, number = asked.only.partition(":")
    part = next(part for part in PARTS if part.name == name)
    (outcome,) = part.run(asked.seed, [int(number)], folder_of(asked.output, part))
    print(outcome)
    return int(outcome.fault is not None)


def _print(lines: Sequence[Line]) -> None:
    for line in lines:
        peak = "" if line.peak is None else f"{line.peak / 2**20:8.0f} MiB"
        counts = f"{line.cases:7,} cases {line.faults:5} faults {line.slowest:6.1f} s"
        print(f"{line.title:10} {line.group:24} {counts}{peak}")


if __name__ == "__main__":
    sys.exit(main())
