"""Figure of a training run: loss and accuracies by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stochx.reports.figure import save_figure, style_axis

COLOURS = {"clean": "#2166ac", "validation": "#2166ac", "robust": "#b2182b", "accuracy": "0.55"}


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, attacked: bool) -> None:
    """Draw loss and accuracies by epoch; a vertical line marks the epoch whose weights were kept.

    With `attacked`, training accuracy is that on adversarial images.
    """
    figure = Figure(figsize=(9.0, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    _line(left, epochs, [row["loss"] for row in rows], "training", "0.25")
    names = {
        "accuracy": "training, attacked" if attacked else "training",
        "clean": "validation",
        "robust": "validation, attacked (PGD-10)",
        "validation": "validation classes",
    }
    for key, name in names.items():
        if key in rows[-1]:
            _line(right, epochs, [row.get(key) for row in rows], name, COLOURS[key])
    if best is not None:
        right.axvline(best["epoch"], color="0.3", linestyle=":", linewidth=1, label=f"kept: epoch {best['epoch']}")
    left.set_ylabel("loss", fontsize=9)
    right.set_ylabel("accuracy", fontsize=9)
    right.set_ylim(-0.02, 1.02)
    for axis in (left, right):
        axis.set_xlabel("epoch", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        style_axis(axis)
    right.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save_figure(path, figure)


def _line(axis: Axes, epochs: Sequence[int], values: Sequence[float | None], name: str, colour: str) -> None:
    """Draw a line with gaps where there is no value."""
    heights = [float("nan") if value is None else value for value in values]
    axis.plot(epochs, heights, marker="o", markersize=3, label=name, color=colour)
