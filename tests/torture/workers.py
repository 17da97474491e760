"""The processes that share the cases of a part, each in a folder of its own."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torture.disks import Disks
from torture.inputs import Inputs
from torture.load import Load
from torture.outcomes import Book, Outcome, Part
from torture.ranks import Ranks
from torture.signals import Signals

PARTS: Sequence[Part] = (Inputs(), Signals(), Disks(), Ranks(), Load())
SAID = 30.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Work:
    """The cases of a part under a seed, whose outcomes are kept in a folder; `end` is a time of the monotonic clock."""

    name: str
    seed: int
    output: Path
    end: float

    @property
    def part(self) -> Part:
        """The part, which another process has to find by its name."""
        return next(part for part in PARTS if part.name == self.name)


def share_out(work: Work, numbers: Sequence[int], jobs: int) -> None:
    """Run cases in so many processes, as long as there is time; raises `RuntimeError` if one of them fails."""
    spawn = multiprocessing.get_context("spawn")
    shares = [numbers[place::jobs] for place in range(jobs)]
    workers = [spawn.Process(target=_run, args=(work, share, place)) for place, share in enumerate(shares) if share]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed := [worker for worker in workers if worker.exitcode]:
        raise RuntimeError(f"{len(failed)} of {len(workers)} processes ended before their cases")


def folder_of(output: Path, part: Part, place: int = 0) -> Path:
    """Return the folder of a part in process `place`."""
    folder = output.resolve() / f"process-{place}" / part.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(work: Work, numbers: Sequence[int], place: int) -> None:
    """Run the cases that one process has."""
    book, said = Book(work.output, work.part, work.seed), time.monotonic()
    try:
        for count, outcome in enumerate(_in_time(work, numbers, place), 1):
            book.append(outcome)
            if outcome.fault is not None:
                print(f"{work.name}:{outcome.number} {outcome.group}: {outcome.fault}", flush=True)
            if time.monotonic() - said > SAID:
                said = time.monotonic()
                print(f"{work.name}, process {place}: {count:,} of {len(numbers):,}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return


def _in_time(work: Work, numbers: Sequence[int], place: int) -> Iterator[Outcome]:
    for outcome in work.part.run(work.seed, numbers, folder_of(work.output, work.part, place)):
        yield outcome
        if time.monotonic() > work.end:
            return
