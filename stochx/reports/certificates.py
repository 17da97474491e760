"""The figure of certificates: certified accuracy over the radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stochx.reports.figure import FAINT, LABEL, OWN, new_figure, own_style, save_figure, style_axis
from stochx.reports.palette import line_style
from stochx.settings.figures import Look
from stochx.tasks.certify import certified_accuracy, is_certified

ROOM = 1.06  # of the radius axis, beyond the largest radius


def draw_certified(path: Path, records: Sequence[Mapping[str, Any]], largest: float, look: Look = OWN) -> None:
    """Draw certified accuracy with its 95 % band over the radius; a line marks the `largest` that draws can certify."""
    save_figure(path, _figure(records, largest), look)


@own_style()
def _figure(records: Sequence[Mapping[str, Any]], largest: float) -> Figure:
    steps = sorted({record["radius"] for record in records if is_certified(record, 0.0)})
    rows = certified_accuracy(records, [0.0, *steps, np.nextafter(steps[-1] if steps else 0.0, np.inf), ROOM * largest])
    x, mean, low, high = np.array([(row.radius, row.certified, row.low, row.high) for row in rows]).T
    figure = new_figure(4.6, 3.2)
    axis = figure.subplots()
    colour, _ = line_style(0)
    axis.plot(x, mean, color=colour, drawstyle="steps-pre")  # it falls behind the radius of an image
    axis.fill_between(x, low, high, alpha=0.13, linewidth=0, color=colour, step="pre")
    axis.axvline(largest, color=FAINT, linestyle=":", linewidth=1)
    axis.annotate(
        f"largest with\n{records[0]['draws']} draws",
        (largest, 1.0),
        (-4, 0),
        textcoords="offset points",
        ha="right",
        va="top",
        color=FAINT,
        fontsize=LABEL,
    )
    axis.set_xlabel("radius (L2, pixels in [0, 1])")
    axis.set_ylabel(f"certified accuracy (n = {len(records)})")
    axis.set_xlim(0, ROOM * largest)
    axis.set_ylim(-0.02, 1.02)
    style_axis(axis)
    return figure
