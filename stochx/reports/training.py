"""The curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stochx.engine.io.store import atomic

COLOURS = {"clean": "#2166ac", "validation": "#2166ac", "robust": "#b2182b", "accuracy": "0.55"}


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, attacked: bool) -> None:
    """Loss, and accuracies, by epoch; a line marks the epoch whose weights were kept.

    `attacked` says that training accuracy is counted on attacked images.
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
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    right.legend(fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    with atomic(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary)


def _line(axis: Axes, epochs: Sequence[int], values: Sequence[float | None], name: str, colour: str) -> None:
    found = [float("nan") if value is None else value for value in values]
    axis.plot(epochs, found, marker="o", markersize=3, label=name, color=colour)
