"""Make the texts of a figure fit: long ones take several lines, a title comes above all."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from stochx.wrapping import width, wrap

ENTRY, LETTER = 0.53, 0.062  # inches: width of a legend entry without its label, and of a letter of the label
NARROWEST, SAFE = 8, 0.93  # places of a line, and the share of its room, as some letters are wider


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """Return how many entries of a legend fit side by side into a width in inches."""
    entry = ENTRY + LETTER * max(map(width, labels), default=0)
    return max(1, min(6, len(labels), int(inches / entry)))


def add_title(figure: Figure, title: str, size: float) -> None:
    """Set a title in `size` points above the figure's own."""
    figure.suptitle("\n".join(filter(None, (title, figure.get_suptitle()))), fontsize=size)


def wrap_texts(figure: Figure) -> None:
    """Break texts that are wider than their part of the figure, and upright ones that are higher."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text().strip():
            across, down = _room(figure, text)
            box, upright = text.get_window_extent(), text.get_rotation() == 90
            taken, room = (box.height, down) if upright else (box.width, across)
            if taken > room:
                lines = text.get_text().split("\n")
                places = max(NARROWEST, floor(SAFE * max(map(width, lines)) * room / taken))
                text.set_text("\n".join(part for line in lines for part in wrap(line, places)))


def _room(figure: Figure, text: Text) -> tuple[float, float]:
    """Return the width and height in pixels of the part of the figure that a text's axes have, or of the figure."""
    place = text.axes.get_subplotspec() if isinstance(text.axes, Axes) else None
    whole = text.get_figure(root=False)
    if place is None or whole is None:
        return figure.bbox.width, figure.bbox.height
    rows, columns = place.get_gridspec().get_geometry()
    return whole.bbox.width / columns, whole.bbox.height / rows
