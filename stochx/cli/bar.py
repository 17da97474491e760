"""The bar of a training on a terminal's stderr; elsewhere a line an epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stochx.cli import output

BETWEEN = 0.2  # seconds between two looks at the loss
MEASURES = ("accuracy", "clean", "robust")


def facts(row: Mapping[str, Any], epochs: int) -> str:
    """`epoch 3/30  loss 1.2345  accuracy 0.5123  clean 0.6010  robust 0.3320  812 images/s`."""
    shown = [f"{key} {row[key]:.4f}" for key in MEASURES if row.get(key) is not None]
    speed = f"{row['images_per_second']:.0f} images/s"
    return "  ".join([f"epoch {row['epoch']}/{epochs}", f"loss {row['loss']:.4f}", *shown, speed])


class Silent:
    """Says nothing while an epoch runs, and a line after it through `tell`."""

    def __init__(self, epochs: int, tell: Callable[[str], None]) -> None:
        self.epochs, self.tell = epochs, tell

    def step(self, epoch: int, images: int, loss: Any) -> None:
        """So many images were learnt in epoch `epoch`, from 0."""

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        """An epoch is over; `again` if an earlier run has told of it."""
        if not again:
            self.tell(facts(row, self.epochs))


class Bar(Silent):
    """Loss, accuracies of the last epoch, images/s and time left, moved on by every step."""

    def __init__(self, epochs: int, images: int, bar: Any) -> None:
        super().__init__(epochs, lambda text: None)
        self.images, self.bar, self.last, self.looked = images, bar, "", 0.0
        self.task = bar.add_task("", total=epochs * images)
        self.start, self.seen = time.perf_counter(), 0

    def step(self, epoch: int, images: int, loss: Any) -> None:
        self.seen += images
        now = time.perf_counter()
        if now - self.looked > BETWEEN:
            self.looked = now
            speed = self.seen / (now - self.start)
            text = f"epoch {epoch + 1}/{self.epochs}  loss {float(loss):.4f}{self.last}  {speed:.0f} images/s"
            self.bar.update(self.task, description=text)
        self.bar.advance(self.task, images)

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        known = [f"{key} {row[key]:.4f}" for key in MEASURES if row.get(key) is not None]
        self.last = "".join(f"  {text}" for text in known)
        self.bar.update(self.task, completed=row["epoch"] * self.images)


@contextlib.contextmanager
def training_bar(epochs: int, images: int, quiet: bool) -> Iterator[Silent]:
    """A bar over `epochs` passes of `images` images; nothing if `quiet`."""
    console = output.stderr()
    if quiet or not console.is_terminal:
        yield Silent(epochs, lambda text: None if quiet else console.print(text, highlight=False, soft_wrap=True))
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Bar(epochs, images, bar)
