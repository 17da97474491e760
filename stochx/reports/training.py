"""Figure of a training run: loss and accuracies by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stochx.reports.figure import FAINT, OWN, new_figure, own_style, save_figure, style_axis
from stochx.reports.palette import COLOURS
from stochx.settings.figures import Look

# Training, validation and attack have the colour of their own in both panels.
ROLES = {"clean": COLOURS[0], "validation": COLOURS[0], "robust": COLOURS[1], "accuracy": FAINT}


def draw_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, attacked: bool, look: Look = OWN
) -> None:
    """Draw loss and accuracies by epoch; a vertical line marks the epoch whose weights were kept.

    With `attacked`, training accuracy is that on adversarial images.
    """
    save_figure(path, _make_figure(rows, best, attacked), look)


@own_style()
def _make_figure(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, attacked: bool) -> Figure:
    figure = new_figure(7.2, 3.1)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    _line(left, epochs, [row["loss"] for row in rows], "", ROLES["accuracy"])
    names = {
        "accuracy": "training, attacked" if attacked else "training",
        "clean": "validation",
        "robust": "validation, attacked (PGD-10)",
        "validation": "validation classes",
    }
    for key, name in names.items():
        if key in rows[-1]:
            _line(right, epochs, [row.get(key) for row in rows], name, ROLES[key])
    if best is not None:
        for axis in (left, right):
            label = f"kept: epoch {best['epoch']}" if axis is right else ""
            axis.axvline(best["epoch"], color="0.3", linestyle=":", linewidth=1, label=label)
    left.set_ylabel("training loss")
    right.set_ylabel("accuracy")
    right.set_ylim(-0.02, 1.02)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        style_axis(axis)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _line(axis: Axes, epochs: Sequence[int], values: Sequence[float | None], name: str, colour: str) -> None:
    """Draw a line with gaps where there is no value."""
    heights = [float("nan") if value is None else value for value in values]
    axis.plot(epochs, heights, marker="o", label=name, color=colour)
