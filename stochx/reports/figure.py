"""Write figures whole or not at all, in a common style."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stochx.engine.io.store import atomic


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format that the suffix of `path` names."""
    with atomic(path) as temporary:
        figure.savefig(temporary)


def style_axis(axis: Axes, label_size: float = 8) -> None:
    """Draw a faint grid and only the left and bottom spines, with tick labels of `label_size` points."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=label_size)


def shorten(text: str, length: int) -> str:
    """Cut a label to `length` characters, the last of them an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
