"""The torture run finds faults: each kind is planted, and seen by what watches the cases."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from torture.commands import start
from torture.inputs import watch
from torture.outcomes import Book, Outcome, tally

from stochx.errors import InputError


def refused(folder: Path) -> None:
    raise InputError("damaged")


def broken(folder: Path) -> None:
    raise KeyError("x")


def endless(folder: Path) -> None:
    signal.raise_signal(signal.SIGALRM)  # as when the time is over


def large(folder: Path) -> None:
    bytearray(watch.MOST)[:: 2**12] = b"1" * (watch.MOST // 2**12)


def elsewhere(folder: Path) -> None:
    (folder.parent / "other").write_text("")


def makes_the_file(folder: Path) -> None:
    (folder / watch.CANARY).write_text("")


def runs_text(folder: Path) -> None:
    exec(f"{watch.CANARY} = 1")


def runs_a_file(folder: Path) -> None:
    exec(compile("1", folder / "code.py", "exec"))


def starts(folder: Path) -> None:
    subprocess.run(["true"])


def leaves(folder: Path) -> None:
    (folder / ".stochx-1").mkdir()


def dies(folder: Path) -> None:
    os._exit(1)


PLANTED = {
    refused: None,
    broken: "traceback: KeyError: 'x'",
    endless: "hang",
    elsewhere: "written outside: ",
    makes_the_file: "code run",
    runs_text: "code run: compile",
    runs_a_file: "code run: ",
    starts: "code run: subprocess.Popen",
    leaves: "left over: .stochx-1",
    dies: "crash",
}


def test_every_kind_of_fault_is_seen_and_the_cases_go_on(tmp_path: Path) -> None:
    planted = list(PLANTED)
    cases = watch.Cases(lambda number: planted[number].__name__, lambda number, folder: planted[number](folder))
    outcomes = list(watch.watched(cases, range(len(planted)), tmp_path))
    assert [outcome.number for outcome in outcomes] == list(range(len(planted)))
    for outcome, expected in zip(outcomes, PLANTED.values(), strict=True):
        assert outcome.fault == expected if expected is None else str(outcome.fault).startswith(expected), outcome
        assert (tmp_path / str(outcome.number) / "fault.txt").exists() is (expected is not None)


def test_a_case_that_takes_much_memory_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST", 2**28)
    (outcome,) = watch.watched(watch.Cases(lambda number: "large", lambda number, folder: large(folder)), [0], tmp_path)
    assert str(outcome.fault).startswith("memory: ")


class Planted:
    name, title, total, short = "planted", "planted", 3, 1


def test_outcomes_are_kept_and_those_of_another_seed_do_not_count(tmp_path: Path) -> None:
    found = [Outcome(0, "a", None, 1.0, 5), Outcome(1, "b", "lost", 2.0), Outcome(0, "a", "hang", 3.0, 4)]
    for outcome in found:
        Book(tmp_path, Planted(), 0).append(outcome)
    with (tmp_path / "planted.jsonl").open("a") as file:
        file.write('{"seed"')
    assert Book(tmp_path, Planted(), 1).read() == {}
    kept = Book(tmp_path, Planted(), 0).read()
    assert kept == {0: found[2], 1: found[1]}
    lines = tally(Planted(), kept.values())
    assert [(line.group, line.cases, line.faults, line.slowest, line.peak) for line in lines] == [
        ("a", 1, 1, 3.0, 4),
        ("b", 1, 1, 2.0, None),
    ]


def test_a_process_that_ends_before_its_moment_is_not_waited_for(tmp_path: Path) -> None:
    started = start("list attacks", tmp_path, tmp_path / "streams", fresh=True)
    assert not started.reaches(1e6)
    ended = started.wait()
    assert ended is not None and ended.code == 0 and "pgd" in ended.stdout
