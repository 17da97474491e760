"""Write figures whole or not at all, in one style that no matplotlibrc changes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stochx.engine.io.store import atomic
from stochx.errors import printable
from stochx.reports.fonts import BASE, escape_missing, fit_fonts
from stochx.wrapping import shorten, width, wrap

INK, FAINT = "0.15", "0.45"  # greys of texts: of titles and labels, and of remarks
WRONG = "#B2182B"  # wrong predictions, doubtful maps
TITLE, LABEL, TICK = 9, 8, 7  # points
ENTRY, LETTER = 0.53, 0.062  # inches: width of a legend entry without its label, and of a letter of the label
STYLE: Any = {  # matplotlib has a type for the keys, since 3.11
    "font.family": [BASE],
    "text.parse_math": False,  # a `$` in a name is a dollar
    "text.color": INK,
    "figure.dpi": 120,
    "savefig.dpi": "figure",
    "axes.titlesize": TITLE,
    "axes.labelsize": LABEL,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "xtick.labelsize": TICK,
    "ytick.labelsize": TICK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": LABEL,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.6,
}


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw under our settings, whatever the user's matplotlibrc says: a context, or a decorator.

    Matplotlib's own remarks, e.g. about letters that a font lacks, stay unsaid; `fonts` says what matters.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def new_figure(across: float, down: float) -> Figure:
    """Return an empty figure, in inches, whose parts make room for one another."""
    return Figure(figsize=(across, down), layout="constrained")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format that the suffix of `path` names."""
    with atomic(path) as temporary:
        write_figure(temporary, figure)


def write_figure(target: Path | IO[bytes], figure: Figure) -> None:
    """Write a figure, as a PNG where `target` has no suffix, with fonts that have the letters of its texts."""
    with own_style():
        fit_fonts(figure)
        figure.savefig(target)


def style_axis(axis: Axes) -> None:
    """Draw a faint grid and only the left and bottom spines."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def hide_frame(axis: Axes) -> None:
    """Leave an axis its content, title and labels, without ticks and spines."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def as_label(text: str, length: int = 0) -> str:
    """Return a name from elsewhere as it can be drawn: control characters and letters without a font escaped.

    It is cut to `length` places, the last of them an ellipsis; 0 cuts nothing.
    """
    label = escape_missing(printable(text))
    return shorten(label, length) if length else label


def wrapped_label(text: str, length: int, lines: int = 3) -> str:
    """Return a name from elsewhere on several lines of `length` places."""
    broken = wrap(as_label(text), length)
    if len(broken) > lines:
        broken = [*broken[: lines - 1], shorten("".join(broken[lines - 1 :]), length)]
    return "\n".join(broken)


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """Return how many entries of a legend fit side by side into a width in inches."""
    entry = ENTRY + LETTER * max(map(width, labels), default=0)
    return max(1, min(6, len(labels), int(inches / entry)))
