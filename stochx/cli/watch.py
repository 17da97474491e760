"""The progress of a run on a terminal's stderr; elsewhere a line for each epoch of a training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stochx.cli import output
from stochx.runs.watch import Quiet, QuietTraining, TrainingWatch

if TYPE_CHECKING:
    from stochx.tasks.explain import Explained

REFRESH = 0.2  # seconds between two readings of the loss
MEASURES = ("accuracy", "clean", "robust", "validation")


class TerminalWatch(Quiet):
    """Draws bars on a terminal's stderr, unless `quiet`."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self._quiet = quiet

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        if self._quiet or not output.stderr().is_terminal or total == 0:
            yield lambda steps: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=output.stderr(), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda steps: bar.advance(task, steps)

    @contextlib.contextmanager
    def training(self, epochs: int, items: int, unit: str) -> Iterator[TrainingWatch]:
        if self._quiet:
            yield QuietTraining()
        elif not output.stderr().is_terminal:
            yield TrainingLines(epochs, unit)
        else:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn())
            with Progress(*columns, console=output.stderr(), transient=True) as bar:
                yield TrainingBar(epochs, items, unit, bar)

    def preview(self, explained: Explained) -> None:
        from stochx.cli.preview import preview

        preview(explained)


class TrainingLines(QuietTraining):
    """Prints a line at the end of each epoch."""

    def __init__(self, epochs: int, unit: str) -> None:
        self._epochs, self._unit = epochs, unit

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        if not again:
            output.stderr().print(epoch_line(row, self._epochs, self._unit), markup=False)


class TrainingBar:
    """Shows loss, measures of the last epoch, items per second and the time left."""

    def __init__(self, epochs: int, items: int, unit: str, bar: Any) -> None:
        self._epochs, self._items, self._unit, self._bar = epochs, items, unit, bar
        self._task = bar.add_task("", total=epochs * items)
        self._start, self._seen, self._refreshed, self._measures = time.perf_counter(), 0, 0.0, ""

    def step(self, epoch: int, items: int, loss: Any) -> None:
        self._seen += items
        now = time.perf_counter()
        if now - self._refreshed > REFRESH:
            self._refreshed = now
            speed = _rounded(self._seen / (now - self._start))
            text = f"epoch {epoch + 1}/{self._epochs}  loss {float(loss):.4f}{self._measures}  {speed} {self._unit}/s"
            self._bar.update(self._task, description=text)
        self._bar.advance(self._task, items)

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        self._measures = "".join(f"  {text}" for text in _measures(row))
        self._bar.update(self._task, completed=row["epoch"] * self._items)


def epoch_line(row: Mapping[str, Any], epochs: int, unit: str) -> str:
    """Return `epoch 3/30  loss 1.2345  accuracy 0.5123  clean 0.6010  robust 0.3320  812 images/s`."""
    speed = f"{_rounded(row['images_per_second'])} {unit}/s"
    return "  ".join([f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", *_measures(row), speed])


def _measures(row: Mapping[str, Any]) -> list[str]:
    return [f"{key} {row[key]:.4f}" for key in MEASURES if row.get(key) is not None]


def _rounded(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"
