"""Figure of an explanation: the image, its most probable classes, and every method's map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from stochx.engine.io.images import to_picture
from stochx.reports.colours import colour_map, colours_of, legend_of_colours, overlay, scale_of
from stochx.reports.figure import (
    FAINT,
    OWN,
    TICK,
    TITLE,
    WRONG,
    as_label,
    hide_frame,
    new_figure,
    own_style,
    save_figure,
    style_axis,
    wrapped_label,
)
from stochx.reports.palette import class_colours
from stochx.settings.figures import Look
from stochx.tasks.doubts import doubt
from stochx.tasks.explain import Explained, ExplanationRow

TOP = 5  # most probable classes
ACROSS = 5  # blocks in a row: the image, or a method's map above its overlay
SIDE, BAR = 2.1, 0.55  # inches: a map, and its colour bar
LETTERS = 27  # of a title line above a map


def draw_explanation(path: Path, explained: Explained, classes: Sequence[str], look: Look = OWN) -> None:
    """Draw the image as the network saw it, then for each method its map above and its overlay below."""
    save_figure(path, make_figure(explained, classes), look)


@own_style()
def make_figure(explained: Explained, classes: Sequence[str]) -> Figure:
    """Return the figure, in rows of at most five blocks; the first has the image and its most probable classes."""
    image = to_picture(explained.image)
    blocks = 1 + len(explained.rows)
    lines = -(-blocks // ACROSS)
    columns = -(-blocks // lines)
    aspect = image.shape[0] / image.shape[1]
    figure = new_figure(columns * (SIDE + BAR) + 0.5, lines * (2 * SIDE * aspect + 0.75) + 0.7)
    axes = figure.subplots(2 * lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    _draw_input(axes[:2, 0], image, explained, classes)
    for place, row in enumerate(explained.rows, start=1):
        line, column = divmod(place, columns)
        above, below = axes[2 * line : 2 * line + 2, column]
        _draw_method(figure, (above, below), image, explained, row)
        if column == (1 if line == 0 else 0):
            above.set_ylabel("map")
            below.set_ylabel("map on the image")
    figure.suptitle(_headline(explained, classes), fontsize=TITLE + 2)
    signed = any(row.method not in explained.unsigned for row in explained.rows)
    figure.supxlabel(legend_of_colours(signed, bool(explained.unsigned)), fontsize=TICK, color=FAINT)
    return figure


def _draw_input(axes: np.ndarray, image: np.ndarray, explained: Explained, classes: Sequence[str]) -> None:
    """Draw the image above the probabilities of its most probable classes."""
    above, below = axes
    above.set_visible(True)
    above.imshow(image, interpolation="nearest")
    above.set_title("network input")
    hide_frame(above)
    _draw_bars(below, explained, classes)


def _draw_bars(axis: Axes, explained: Explained, classes: Sequence[str]) -> None:
    """Draw the probabilities of the most probable classes in the colours of these; the explained class is bold."""
    top = explained.probabilities.topk(min(TOP, len(classes)))
    places = top.indices.tolist()
    colours = class_colours(places)
    axis.set_visible(True)
    axis.barh(range(len(places)), top.values.tolist(), color=list(colours.values()), height=0.35)
    axis.set_yticks([])
    axis.set_ylim(len(places) - 0.5, -0.7)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1])
    axis.set_xlabel("probability")
    style_axis(axis)
    for y, k in enumerate(places):
        weight = "bold" if k == explained.rows[0].target else "normal"
        axis.text(0.01, y - 0.24, as_label(classes[k], LETTERS), va="bottom", fontsize=TICK, fontweight=weight)


def _draw_method(
    figure: Figure, axes: tuple[Axes, Axes], image: np.ndarray, explained: Explained, row: ExplanationRow
) -> None:
    """Draw a map with its colour bar, and below it the map on the image, with what is known of its accuracy."""
    above, below = axes
    values = explained.maps[row.method].sum(0).numpy()
    scale, signed = scale_of(values), row.method not in explained.unsigned
    for axis in axes:
        axis.set_visible(True)
    above.imshow(colours_of(values, scale, signed), interpolation="nearest")
    above.set_title(wrapped_label(row.method, LETTERS))
    below.imshow(overlay(image, values, scale, signed), interpolation="nearest")
    below.set_xlabel(_quality(row), fontsize=TICK, color=FAINT if doubt(row) is None else WRONG)
    for axis in axes:
        hide_frame(axis)
    bar = ScalarMappable(Normalize(-scale if signed else 0, scale), colour_map(signed))
    drawn = figure.colorbar(bar, ax=above, fraction=0.045, pad=0.02)
    below.set_anchor(above.get_anchor())  # the bar has moved the map
    drawn.outline.set_visible(False)
    drawn.ax.tick_params(labelsize=TICK - 1, width=0.5)
    drawn.set_label("relevance" if signed else "|relevance|", fontsize=TICK)


def _headline(explained: Explained, classes: Sequence[str]) -> str:
    """Return the true and the predicted class, and the explained one where it is another."""
    first, top = explained.rows[0], int(explained.probabilities.argmax())
    parts = [] if explained.true is None else [f"true: {as_label(explained.true, 40)}"]
    parts.append(f"predicted: {as_label(classes[top], 40)} (p = {float(explained.probabilities[top]):.3f})")
    if first.target != top:
        parts.append(f"explained: {as_label(first.class_name, 40)} (p = {first.probability:.3f})")
    return "    ".join(parts)


def _quality(row: ExplanationRow) -> str:
    """Return the lines under a map: its Monte-Carlo error and samples, and its completeness gap, if they exist."""
    drawn = [] if row.error is None else [f"Monte-Carlo error {row.error:.2f}"]
    if row.used is not None:
        drawn.append(f"n = {row.used}")
    gap = [] if row.gap is None else [f"gap {row.gap:+.2f} of logit {row.logit:.1f}"]
    return "\n".join([", ".join(drawn), *gap]).strip()
