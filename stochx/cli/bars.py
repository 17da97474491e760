"""Bars of the stages of a run on a terminal, with rate and time left where there is something to count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stochx.tables.quantities import rate


class Bars:
    """Draws the stages that are open, below one another, and erases them at the end."""

    refresh = 0.2

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            _Count(),
            _Rate(),
            TimeElapsedColumn(),
            _Left(),
            TextColumn("{task.fields[passes]}"),
        )
        self._progress, self._tasks = Progress(*columns, console=console, transient=True), list[TaskID]()
        self._passes = 0

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def passed(self, rows: int) -> None:
        """Count rows that pass through networks, in the innermost stage."""
        self._passes += rows
        if self._tasks:
            self._progress.update(self._tasks[-1], passes=f"{self._passes} passes")

    def note(self, text: str) -> None:
        """Print nothing: the bars show it."""

    @contextlib.contextmanager
    def stage(self, label: str, total: int | None) -> Iterator[Bar]:
        """Show a stage for the block; one around it that counts nothing is hidden meanwhile."""
        around = self._tasks[-1] if self._tasks and self._progress.tasks[-1].total is None else None
        if around is not None:
            self._progress.update(around, visible=False)
        task, self._passes = self._progress.add_task(label, total=total, passes=""), 0
        self._tasks.append(task)
        try:
            yield Bar(self._progress, task)
        finally:
            self._tasks.remove(task)
            self._progress.remove_task(task)
            if around is not None:
                self._progress.update(around, visible=True)


class Bar:
    """The bar of a stage."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int) -> None:
        self._progress.advance(self._task, steps)

    def describe(self, label: str) -> None:
        self._progress.update(self._task, description=label)

    def reach(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


class _Count(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Rate(ProgressColumn):
    """What is done per second, minute or hour, over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else rate(task.speed or 0.0, 1.0), style="progress.data.speed")


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)
