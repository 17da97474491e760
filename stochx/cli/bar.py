"""The bar of a training on a terminal's stderr; elsewhere a line an epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stochx.cli import output

BETWEEN = 0.2  # seconds between two looks at the loss
MEASURES = ("accuracy", "clean", "robust", "validation")


def facts(row: Mapping[str, Any], epochs: int, unit: str = "images") -> str:
    """`epoch 3/30  loss 1.2345  accuracy 0.5123  clean 0.6010  robust 0.3320  812 images/s`."""
    shown = [f"{key} {row[key]:.4f}" for key in MEASURES if row.get(key) is not None]
    speed = f"{rounded(row['images_per_second'])} {unit}/s"
    return "  ".join([f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", *shown, speed])


def rounded(speed: float) -> str:
    """Whole numbers from 10 on."""
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


class Silent:
    """Says nothing while an epoch runs, and a line after it through `tell`."""

    def __init__(self, epochs: int, unit: str, tell: Callable[[str], None]) -> None:
        self.epochs, self.unit, self.tell = epochs, unit, tell

    def step(self, epoch: int, images: int, loss: Any) -> None:
        """So many images were learnt in epoch `epoch`, from 0."""

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        """An epoch is over; `again` if an earlier run has told of it."""
        if not again:
            self.tell(facts(row, self.epochs, self.unit))


class Bar(Silent):
    """Loss, accuracies of the last epoch, images/s and time left, moved on by every step."""

    def __init__(self, epochs: int, images: int, unit: str, bar: Any) -> None:
        super().__init__(epochs, unit, lambda text: None)
        self.images, self.bar, self.last, self.looked = images, bar, "", 0.0
        self.task = bar.add_task("", total=epochs * images)
        self.start, self.seen = time.perf_counter(), 0

    def step(self, epoch: int, images: int, loss: Any) -> None:
        self.seen += images
        now = time.perf_counter()
        if now - self.looked > BETWEEN:
            self.looked = now
            speed = self.seen / (now - self.start)
            text = f"epoch {epoch + 1}/{self.epochs}  loss {float(loss):.4f}{self.last}  {rounded(speed)} {self.unit}/s"
            self.bar.update(self.task, description=text)
        self.bar.advance(self.task, images)

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        known = [f"{key} {row[key]:.4f}" for key in MEASURES if row.get(key) is not None]
        self.last = "".join(f"  {text}" for text in known)
        self.bar.update(self.task, completed=row["epoch"] * self.images)


@contextlib.contextmanager
def training_bar(epochs: int, images: int, quiet: bool, unit: str = "images") -> Iterator[Silent]:
    """A bar over `epochs` passes of `images` images, or whatever the `unit` is; nothing if `quiet`."""
    console = output.stderr()
    if quiet or not console.is_terminal:
        yield Silent(epochs, unit, lambda text: None if quiet else console.print(text, highlight=False, soft_wrap=True))
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Bar(epochs, images, unit, bar)
