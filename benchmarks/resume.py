"""Time what `attack --resume` does with the records of finished images: reading, the table, and the files.

    python benchmarks/resume.py --records 1000000

The records are those of two attacks, some 770 bytes each. `read` checks every line and finds its image; after it, the
attack goes on. `table` and `write` follow when the last image is done, whether a run was resumed or not. Memory is what
is used beyond that of an empty run. The target is 5 s and 500 MiB for `read` of a million.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stochx.engine.io.lines import as_line
from stochx.engine.io.records import Records
from stochx.engine.io.store import RunFolder
from stochx.runs._evaluation import record_kind
from stochx.runs._results import earlier_records, merge_records
from stochx.tasks.attack import AttackRecord, Outcome
from stochx.tasks.robustness import summarise

ATTACKS = ("pgd:steps=40", "apgd-ce")


def record(index: int) -> dict[str, Any]:
    """Return the record of an image that one of two attacks changes."""
    outcomes = {
        name: Outcome(
            correct=float(k),
            hit=0.0,
            vote=bool(k),
            off=None,
            prediction=k,
            margin=k - 0.42856913805007935 + index * 1e-9,
            linf=0.03137254901960784,
            l2=1.0500000119209290,
            step=39,
            restart=0,
            forwards=41,
            backwards=40,
        )
        for k, name in enumerate(ATTACKS)
    }
    seconds = dict.fromkeys(ATTACKS, 0.0007331849992624484)
    row = AttackRecord(index, name(index), 1, 1.0, True, None, 1, 0.57, outcomes, 0.0, ATTACKS[0], seconds)
    return dataclasses.asdict(row)


def name(index: int) -> str:
    return f"photos/test/{index:07d}.png"


def measure(folder: Path, count: int) -> None:
    """Print a line for each step of a resumed run in which one image was left."""
    names = [name(index) for index in range(count)]
    empty = peak()

    def step(title: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{title:8} {wall:6.2f} s wall  {cpu:6.2f} s CPU  {peak() - empty:6.0f} MiB", flush=True)
        return result

    def read() -> tuple[RunFolder, Records]:
        run = RunFolder(folder, {}, resume=True, kind=record_kind(2, ATTACKS))
        return run, earlier_records(run, names)

    run, before = step("read", read)
    assert len(before) == count - 1
    records = merge_records(before, [record(count - 1)])
    (row, *_) = step("table", lambda: summarise(records, ATTACKS, noisy=False, targeted=False))
    assert (row.n, row.robust) == (count, 0.0)
    step("write", lambda: run.finish(records, {}))


def peak() -> float:
    """Return the most memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="images of the run")
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "records.jsonl").open("wb") as file:
            file.writelines(as_line(record(index)) for index in range(count - 1))
            print(f"{count:,} records of {file.tell() / count:.0f} bytes")
        measure(Path(folder), count)


if __name__ == "__main__":
    main()
