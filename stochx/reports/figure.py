"""Write figures whole or not at all, in one style that no matplotlibrc changes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stochx.engine.io.files import atomic
from stochx.errors import printable
from stochx.reports.fitting import add_title, wrap_texts
from stochx.reports.fonts import BASE, escape_missing, fit_fonts
from stochx.reports.formats import WRITERS, Target
from stochx.settings.figures import Look
from stochx.wrapping import shorten, wrap

INK, FAINT = "0.15", "0.45"  # greys of texts: of titles and labels, and of remarks
WRONG = "#B2182B"  # wrong predictions, doubtful maps
TITLE, LABEL, TICK = 9, 8, 7  # points
STYLE: Any = {  # matplotlib has a type for the keys, since 3.11
    "font.family": [BASE],
    "text.parse_math": False,  # a `$` in a name is a dollar
    "text.color": INK,
    "figure.dpi": Look.dpi,
    "savefig.dpi": "figure",
    "svg.hashsalt": "stochx",  # the same identifiers every time
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
TRUETYPE, OUTLINES = 42, 3  # fonts in a PDF: the first can be edited, but is wrong for fonts with cubic curves
OWN = Look()  # a figure as it is made


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


def save_figure(path: Path, figure: Figure, look: Look = OWN) -> None:
    """Write a figure in the format that the suffix of `path` names, the same bytes every time."""
    with atomic(path) as temporary:
        _write(temporary, path.suffix, figure, look)


def figure_bytes(figure: Figure, look: Look = OWN) -> bytes:
    """Return a figure as the content of a PNG file."""
    file = io.BytesIO()
    _write(file, ".png", figure, look)
    return file.getvalue()


@own_style()
def _write(target: Target, suffix: str, figure: Figure, look: Look) -> None:
    if look.title:
        add_title(figure, as_label(look.title), TITLE + 2)
    wrap_texts(figure)
    matplotlib.rcParams["pdf.fonttype"] = OUTLINES if fit_fonts(figure) else TRUETYPE
    scale = 1.0 if look.width is None else look.width / figure.get_figwidth()
    WRITERS[suffix](target, figure, look.dpi, scale)


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
    rest = as_label(text)
    broken = wrap(rest, length)
    if len(broken) > lines:
        broken = broken[: lines - 1]
        for line in broken:
            rest = rest[len(line) :].lstrip()
        broken.append(shorten(rest, length))
    return "\n".join(broken)
