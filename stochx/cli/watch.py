"""The progress of a run on stderr: bars on a terminal; elsewhere a line a minute, and one for each epoch.

Both show the rate and the time that is left, wherever there is something to count.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stochx.background import Thread
from stochx.cli import output
from stochx.runs.watch import Quiet, QuietTraining, TrainingWatch
from stochx.tables.estimate import needs
from stochx.tables.quantities import duration, rate

if TYPE_CHECKING:
    from stochx.tasks.explain import Explained

INTERVAL = 60.0  # seconds between two lines
LONG = 60.0  # seconds of a run that is announced
SURE = 5.0  # seconds after which the pace of a run tells how long it takes
MEASURES = ("accuracy", "clean", "robust", "validation")


class Stage(Protocol):
    """A part of a run that is shown: how far it is, and what it is called."""

    def advance(self, steps: int) -> None: ...

    def describe(self, label: str) -> None: ...

    def reach(self, done: int) -> None: ...


class Display(Protocol):
    """Shows the stages that are open, one within the other; `refresh` seconds lie between two descriptions.

    A `note` of what is finished is printed where no bar shows it.
    """

    refresh: float

    def stage(self, label: str, total: int | None) -> contextlib.AbstractContextManager[Stage]: ...

    def passed(self, rows: int) -> None: ...

    def note(self, text: str) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class TerminalWatch(Quiet):
    """Shows every stage of a run, from its first second to its last, unless `quiet`.

    What no stage covers is the run's start, or its end. `folder` is the one that the run writes to, once it has one.
    A long run is announced as soon as its pace is known, with `estimated`.
    """

    def __init__(self, quiet: bool, estimated: bool = False) -> None:
        super().__init__()
        self.folder: Path | None = None
        self._announces = estimated and not quiet
        self._display: Display | None = None
        if not quiet and output.stderr().is_terminal:
            from stochx.cli.bars import Bars

            self._display = Bars(output.stderr())
        elif not quiet:
            self._display = Lines(lambda: self.seconds)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the run for the block."""
        if self._display is None:
            yield
            return
        self._display.start()
        try:
            with self._display.stage("starting", None) as self._rest:
                yield
        finally:
            self._display.stop()

    def opened(self, folder: Path) -> None:
        self.folder = folder

    def passed(self, rows: int) -> None:
        if self._display is not None:
            self._display.passed(rows)

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        if self._display is None or total == 0:
            yield lambda steps: None
            return
        with self._display.stage(label, total) as stage:
            yield self._announcing(stage.advance, total)
        self._rest.describe("finishing")

    @contextlib.contextmanager
    def training(self, epochs: int, items: int, unit: str) -> Iterator[TrainingWatch]:
        if self._display is None:
            yield QuietTraining()
            return
        with self._display.stage("training", epochs * items) as stage:
            paced = self._announcing(stage.advance, epochs * items)
            yield ShownTraining(epochs, items, unit, stage, self._display, paced)
        self._rest.describe("finishing")

    def _announcing(self, advance: Callable[[int], None], total: int | None) -> Callable[[int], None]:
        """Return `advance`, which announces a long run once."""
        if not (self._announces and total):
            return advance
        start, done = time.perf_counter(), 0

        def paced(steps: int) -> None:
            nonlocal done
            advance(steps)
            done += steps
            spent = time.perf_counter() - start
            if self._announces and spent >= SURE and done:
                self._announces = False
                if spent / done * total >= LONG:
                    announce(spent / done * total)

        return paced

    def preview(self, explained: Explained) -> None:
        from stochx.cli.preview import preview

        preview(explained)

    def begin_step(self, number: str, title: str, why: str, line: str) -> None:
        if self._display is not None:
            from stochx.cli.narration import tell_step

            tell_step(number, title, why, line)

    def end_step(self, finding: str, seconds: float) -> None:
        if self._display is not None:
            from stochx.cli.narration import tell_finding

            tell_finding(finding, seconds)


class Lines:
    """Prints the innermost stage once a minute."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds, self._stages = seconds, list[LineStage]()
        self._ended = threading.Event()
        self._thread = Thread(self._print, name="progress")
        self.refresh, self._passes = 1.0, 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def passed(self, rows: int) -> None:
        self._passes += rows

    def note(self, text: str) -> None:
        output.stderr().print(text, markup=False)

    @contextlib.contextmanager
    def stage(self, label: str, total: int | None) -> Iterator[Stage]:
        stage, self._passes = LineStage(label, total), 0
        self._stages.append(stage)
        try:
            yield stage
        finally:
            self._stages.remove(stage)

    def _print(self) -> None:
        while not self._ended.wait(INTERVAL):
            for stage in self._stages[-1:]:
                passes = f", {self._passes} passes" if self._passes else ""
                self.note(f"{stage}{passes}, {duration(self._seconds())} so far")


class LineStage:
    """A stage as `explaining: 12 of 60, 3.1/s, 16 s left`."""

    def __init__(self, label: str, total: int | None) -> None:
        self._label, self._total, self._done = label, total, 0
        self._start = time.perf_counter()

    def advance(self, steps: int) -> None:
        self._done += steps

    def describe(self, label: str) -> None:
        self._label = label

    def reach(self, done: int) -> None:
        self._done = done

    def __str__(self) -> str:
        if self._total is None:
            return self._label
        seconds, text = time.perf_counter() - self._start, f"{self._label}: {self._done} of {self._total}"
        if not self._done:
            return text
        left = duration(seconds / self._done * (self._total - self._done))
        return f"{text}, {rate(self._done, seconds)}, {left} left"


class ShownTraining:
    """Shows loss, measures of the last epoch and items per second, and notes the end of each epoch."""

    def __init__(
        self, epochs: int, items: int, unit: str, stage: Stage, display: Display, advance: Callable[[int], None]
    ) -> None:
        self._epochs, self._items, self._unit, self._stage, self._display = epochs, items, unit, stage, display
        self._advance = advance
        self._start, self._seen, self._refreshed, self._measures = time.perf_counter(), 0, 0.0, ""

    def step(self, epoch: int, items: int, loss: Any) -> None:
        self._seen += items
        now = time.perf_counter()
        if now - self._refreshed > self._display.refresh:
            self._refreshed = now
            speed = _rounded(self._seen / (now - self._start))
            text = f"epoch {epoch + 1}/{self._epochs}  loss {float(loss):.4f}{self._measures}  {speed} {self._unit}/s"
            self._stage.describe(text)
        self._advance(items)

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        self._measures = "".join(f"  {text}" for text in _measures(row))
        self._stage.reach(row["epoch"] * self._items)
        if not again:
            self._display.note(epoch_line(row, self._epochs, self._unit))


def announce(seconds: float) -> None:
    """Say how long a run takes, and what memory, as far as it is known when it has just begun."""
    import torch

    from stochx.engine.device import current
    from stochx.engine.memory import resident_memory

    needed = needs(seconds, resident_memory() or 0, torch.get_num_threads(), str(current().device))
    output.remark("estimate:", f"{needed}; `--dry-run` shows only this")


def epoch_line(row: Mapping[str, Any], epochs: int, unit: str) -> str:
    """Return `epoch 3/30  loss 1.2345  accuracy 0.5123  clean 0.6010  robust 0.3320  812 images/s`."""
    speed = f"{_rounded(row['images_per_second'])} {unit}/s"
    return "  ".join([f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", *_measures(row), speed])


def _measures(row: Mapping[str, Any]) -> list[str]:
    return [f"{key} {row[key]:.4f}" for key in MEASURES if row.get(key) is not None]


def _rounded(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"
