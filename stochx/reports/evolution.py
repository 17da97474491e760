"""Figures of a boundary over training: an animation, and curves of its numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from stochx.engine.io.files import atomic
from stochx.reports.boundary import Panel, Scene, make_figure, scale_end
from stochx.reports.figure import OWN, as_label, figure_bytes, new_figure, own_style, save_figure, style_axis
from stochx.reports.fitting import LETTER
from stochx.reports.palette import COLOURS
from stochx.settings.figures import Look
from stochx.tasks.boundary import BoundaryRow
from stochx.wrapping import width

FRAME, LAST = 700, 2500  # milliseconds
MOST_NAMES = 12  # networks that are named below an axis


def animate(path: Path, scene: Scene, panels: Sequence[Panel], look: Look = OWN) -> None:
    """Write a GIF with a frame for each network, all on the same scales."""
    first, *others = [_frame(scene, panel, scale_end(panels), look) for panel in panels]
    times = [FRAME] * len(others) + [LAST]
    with atomic(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=times, loop=0, optimize=False)


def _frame(scene: Scene, panel: Panel, largest: float | None, look: Look) -> Image.Image:
    """Draw a frame in 256 colours, which keep rare colours of the legend."""
    with Image.open(io.BytesIO(figure_bytes(make_figure(scene, [panel], largest), look))) as picture:
        return picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)


CURVES: dict[str, Callable[[BoundaryRow], float | None]] = {
    "agreement with the first": lambda row: row.agreement,
    "regions": lambda row: row.regions,
    "mean confidence": lambda row: row.confidence,
    "mean disagreement of draws": lambda row: row.disagreement,
    "distance to the boundary (L2)": lambda row: row.distance,
}


def draw_evolution(path: Path, names: Sequence[str], rows: Sequence[BoundaryRow], look: Look = OWN) -> None:
    """Draw each number over the networks in their order, in a small plot of its own, with gaps where it is missing."""
    save_figure(path, _curves(names, rows), look)


@own_style()
def _curves(names: Sequence[str], rows: Sequence[BoundaryRow]) -> Figure:
    shown = {title: [of(row) for row in rows] for title, of in CURVES.items()}
    shown = {title: values for title, values in shown.items() if any(value is not None for value in values)}
    named = len(names) <= MOST_NAMES
    labels = [as_label(name, 24) for name in names] if named else []
    below = LETTER * max(map(width, labels), default=6)  # names stand nearly upright
    figure = new_figure(2.3 * len(shown), 2.2 + below)
    for axis, (title, values) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axis.plot([float("nan") if value is None else value for value in values], "o-", color=COLOURS[0])
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.set_xlim(-0.3, len(rows) - 0.7)
        style_axis(axis)
        if named:
            axis.set_xticks(range(len(names)), labels, rotation=60, ha="right", rotation_mode="anchor")
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_xlabel("network, in the order given")
    return figure
