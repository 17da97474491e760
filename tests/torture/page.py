"""The page of the manual that says what came of the torture run."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from textwrap import fill

import torch
from torture.outcomes import ROOT, Line

from stochx import __version__
from stochx.engine.memory import total_memory

PAGE, WIDTH = "docs/reliability.md", 120

PROMISES = {
    "A weights file, an image or a data set never runs code": (
        "test_hostile_pickles_run_nothing_and_end",
        "test_postscript_is_refused_as_it_would_start_a_program",
    ),
    "A wrong value in a header is one error that names it": ("test_a_wrong_value_is_refused_by_the_name_of_its_field",),
    "A pipe or a device in the place of a file is refused, not waited for": (
        "test_a_pipe_is_refused_and_not_waited_for",
        "test_a_device_is_refused_and_not_read",
    ),
    "Sizes are checked before memory is taken": (
        "test_a_huge_image_is_refused_from_its_header",
        "test_a_map_has_a_bound",
    ),
    "Memory that runs out makes the batch smaller, and changes no result": (
        "test_memory_that_runs_out_is_said_once_and_changes_no_result",
    ),
    "A signal ends a command with its code, also where Python swallows it; a second one at once": (
        "test_a_signal_that_python_swallows_ends_the_command_at_the_next_batch",
        "test_a_second_signal_leaves_at_once",
    ),
    "What was finished before a signal or a crash is kept, and resumed to the same result": (
        "test_a_training_that_is_killed_and_resumed_writes_the_same_weights",
        "test_a_line_that_a_crash_cut_off_is_not_joined_to_the_next",
    ),
    "A disk that is full, read-only or gone is one error, and older files stay as they were": (
        "test_a_full_disk_is_one_error_and_leaves_the_old_file",
        "test_a_disk_that_turns_read_only_is_one_error_and_leaves_the_old_file",
        "test_a_folder_that_is_gone_is_one_error",
    ),
    "A lost rank ends all others with one sentence": ("test_a_lost_rank_is_named",),
    "A damaged run folder is one error that names the file": ("test_a_damaged_file_of_a_folder_is_named",),
}


def page(lines: Sequence[Line], total: int, seed: int) -> str:
    """Return the page of a tally; `total` cases are a whole run."""
    cases, faults = sum(line.cases for line in lines), sum(line.faults for line in lines)
    count = f"{cases:,}" if cases == total else f"{cases:,} of {total:,}"
    return TEXT.format(
        answer=fill(ANSWER.format(f"{count} cases, {faults or 'no'} fault{'' if faults == 1 else 's'}"), WIDTH),
        promises="\n".join(f"| {promise} | {_listed(tests)} |" for promise, tests in PROMISES.items()),
        rows="\n".join(map(_row, lines)),
        machine=_machine(),
        seed=seed,
    )


def _listed(tests: Sequence[str]) -> str:
    return ", ".join(f"`{test}`" for test in tests)


def _row(line: Line) -> str:
    peak = "" if line.peak is None else f"{line.peak / 2**30:.2f} GiB"
    return f"| {line.title} | {line.group} | {line.cases:,} | {line.faults} | {line.slowest:.1f} s | {peak} |"


def _machine() -> str:
    """Say when, on what machine, and of what versions."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return (
        f"{day}; {os.cpu_count()} cores, {total_memory() / 2**30:.0f} GiB; {platform.system()}, Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}; stochx {__version__} at commit {commit.strip()}"
    )


ANSWER = (
    "**{}** in the last `make torture`: hostile files, signals, full disks, lost processes, load. A fault is a "
    "traceback, code of a file that runs, a file written elsewhere than asked, anything lost, another exit code than "
    "the documented one, or more than 10 seconds of the processor or 2 GiB of memory for a file."
)
TEXT = """\
# What is reliable

{answer}

## What is promised

Each promise names a test that proves it; what repeats is on [its own page](repeatable.md), and what is trusted in
[SECURITY.md](../SECURITY.md).

| promise | test |
|---|---|
{promises}

## The last run

{machine}.
Seed {seed}; the seed and a case's number make it again.

| part | kind | cases | faults | slowest | largest peak |
|---|---|---|---|---|---|
{rows}

## Run it again

```
make torture
```

It takes hours with a process for each core, goes on where it was interrupted, and writes this page when all is done.
"""
