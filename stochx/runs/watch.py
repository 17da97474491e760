"""Progress of a run: the command line draws it, a library user may ignore it."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from stochx.tasks.explain import Explained


class TrainingWatch(Protocol):
    """Follows a training."""

    def step(self, epoch: int, items: int, loss: Any) -> None:
        """Note that `items` more items of epoch `epoch`, counted from 0, were learnt at `loss`, a tensor."""

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        """Note the end of an epoch; `again` if it was already reported before a resume."""


class Watch(Protocol):
    """Follows a run."""

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""

    def opened(self, folder: Path) -> None:
        """Note the folder that the run writes to."""

    def passed(self, rows: int) -> None:
        """Note that rows (images, noisy copies of them) have passed through a network."""

    def progress(self, label: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Open a stage of `total` steps, or of an unknown number; yields the function that advances it."""

    def training(self, epochs: int, items: int, unit: str) -> AbstractContextManager[TrainingWatch]:
        """Open the bar of a training over `epochs` passes of `items` items."""

    def preview(self, explained: Explained) -> None:
        """Show an image and its maps."""

    def restarted(self) -> Watch:
        """Return the same watch with a clock that starts now, for a command within another one."""

    def begin_step(self, number: str, title: str, why: str, line: str) -> None:
        """Tell what happens next, why, and the command line that does it."""

    def end_step(self, finding: str, seconds: float) -> None:
        """Tell what a step has shown, and how long it took."""


class Quiet:
    """A watch that shows nothing."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def opened(self, folder: Path) -> None:
        pass

    def passed(self, rows: int) -> None:
        pass

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda steps: None

    @contextlib.contextmanager
    def training(self, epochs: int, items: int, unit: str) -> Iterator[TrainingWatch]:
        yield QuietTraining()

    def preview(self, explained: Explained) -> None:
        pass

    def restarted(self) -> Self:
        other = copy.copy(self)
        other._start = time.perf_counter()
        return other

    def begin_step(self, number: str, title: str, why: str, line: str) -> None:
        pass

    def end_step(self, finding: str, seconds: float) -> None:
        pass


class QuietTraining:
    """Follows a training and shows nothing."""

    def step(self, epoch: int, items: int, loss: Any) -> None:
        pass

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        pass
