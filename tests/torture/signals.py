"""Signals at random moments of every command: it leaves with its code, and what it had finished is resumed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torture.commands import DEMO, PRINTS, RUNS, Ended, difference, left_over, length_of, prepared, run, start, typed
from torture.outcomes import Outcome

KINDS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
NAMES = [*RUNS, *PRINTS, "report", DEMO]
ROUNDS = 30  # of each command and kind
FRESH, TWICE, RESUMED = 6, 5, 2  # every so many rounds: in a process that also imports; with a second signal; resumed
WITHIN = 0.3  # seconds between two signals
SOON = 3.0  # seconds in which a second signal ends what a busy machine runs
LATE = 10.0  # seconds after a signal in which a command hangs
CLOCK = 0.02  # seconds by which the times of files are off
BEGIN = 4.0  # seconds of the demo that are tortured: it takes ten minutes
TRIES = 8


@dataclass(frozen=True)
class Case:
    """A command and its signals; `moment` is a share of the processor's time that it takes."""

    name: str
    kind: signal.Signals
    second: signal.Signals | None
    fresh: bool
    resumed: bool
    moment: float
    pause: float


def case(seed: int, number: int) -> Case:
    """Return the case of a number: all commands, then all again with the next kind of signal."""
    chance = random.Random(f"{seed} {number}")
    part, place = divmod(number, len(NAMES))
    turn = part // len(KINDS)
    second = chance.choice(KINDS) if turn % TWICE == TWICE - 1 else None
    kind = KINDS[(place + part) % len(KINDS)]
    fresh, resumed = turn % FRESH == FRESH - 1, turn % RESUMED == 0
    return Case(NAMES[place], kind, second, fresh, resumed, chance.random(), chance.uniform(0, WITHIN))


class Signals:
    """Every command, met by each signal at random moments; `seconds` are those from the signal to the end."""

    name, title = "signals", "signals"
    total = len(NAMES) * len(KINDS) * ROUNDS
    short = len(NAMES) // 2

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Run the cases."""
        place = prepared(folder.parents[1])
        lengths: dict[tuple[str, bool], float] = {}
        for number in numbers:
            this = case(seed, number)
            if (this.name, this.fresh) not in lengths:
                lengths[this.name, this.fresh] = _length(place, this, folder / "whole")
            own = folder / str(number)
            shutil.rmtree(own, ignore_errors=True)
            fault, seconds = _torture(place, this, lengths[this.name, this.fresh], own)
            if fault is None:
                shutil.rmtree(own, ignore_errors=True)
            group = f"{this.kind.name}{', then another' if this.second else ''}"
            yield Outcome(number, group, fault and f"{fault} ({this.name})", seconds)


def _output(this: Case, own: Path) -> Path:
    return own / "report.html" if this.name == "report" else own / "out"


def _length(place: Path, this: Case, own: Path) -> float:
    """Return the processor's time that a command takes, once it listens to signals."""
    if this.name == DEMO:
        return BEGIN
    if this.name in RUNS and not this.fresh:
        return length_of(place, this.name)
    shutil.rmtree(own, ignore_errors=True)
    return start(typed(this.name, _output(this, own)), place, own / "streams", fresh=this.fresh).length()


def _torture(place: Path, this: Case, length: float, own: Path) -> tuple[str | None, float]:
    """Return the fault of a case, and the seconds from its signal to its end."""
    output, share = _output(this, own), this.moment
    for _ in range(TRIES):
        started = start(typed(this.name, output), place, own / "streams", fresh=this.fresh)
        if started.reaches(share * length):
            break
        started.wait()
        shutil.rmtree(own)
        share *= 0.9
    else:
        return "ended before its signal", 0.0
    sent, begin = time.time(), time.monotonic()
    started.send(this.kind)
    if this.second:
        time.sleep(this.pause)
        begin = time.monotonic()
        started.send(this.second)
    ended = started.wait(SOON if this.second else LATE)
    seconds = time.monotonic() - begin
    return _fault(place, this, ended, own, sent), seconds


def _fault(place: Path, this: Case, ended: Ended | None, own: Path, sent: float) -> str | None:
    if ended is None:
        return "hang"
    output = _output(this, own)
    allowed = {128 + number for number in (this.kind, this.second) if number}
    if ended.code == 0:  # a process that has done all takes a moment to leave
        files = [own / "streams" / "stdout", *(path for path in output.rglob("*") if path.is_file())]
        late = max(file.stat().st_mtime for file in files) - sent
        if late > CLOCK or not ended.stdout:
            return f"lost: wrote {late:.2f} s after the signal, and ended with 0"
    elif ended.code not in allowed:
        return ended.traceback or f"exit {ended.code} in place of {128 + this.kind}"
    if ended.stderr.count("error:") > 1:
        return f"said twice: {ended.stderr.splitlines()[-1]}"
    left = None if this.second else left_over(own)
    return ended.traceback or left or _afterwards(place, this, own)


def _afterwards(place: Path, this: Case, own: Path) -> str | None:
    """Return the fault of what was written, and of a run that goes on from there."""
    output = _output(this, own)
    if (
        this.name == "report"
        and output.exists()
        and not output.read_text(encoding="utf-8").rstrip().endswith("</html>")
    ):
        return "lost: half a report"
    if this.name not in RUNS or not this.resumed:
        return None
    again = run(f"{typed(this.name, output)} --resume", place, own / "again")
    if again is None or again.code:
        return "hang of `--resume`" if again is None else f"`--resume`: {again.traceback or again.stderr[-200:]}"
    return left_over(own) or difference(place, this.name, output)
