"""The figure of robust accuracy over all radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stochx.reports.figure import (
    FAINT,
    OWN,
    TICK,
    as_label,
    new_figure,
    own_style,
    save_figure,
    style_axis,
)
from stochx.reports.fitting import legend_columns
from stochx.reports.maps import file_names
from stochx.reports.palette import line_style
from stochx.settings.figures import Look

LEVELS = 255  # of a pixel, the unit of radii in Linf
NOTES = ("95 % at one radius", "95 % at all radii")
TAIL = 0.01  # accuracy below which a curve is cut off


def draw_curves(path: Path, curves: Sequence[Mapping[str, Any]], eps: float, typed: str, look: Look = OWN) -> None:
    """Draw the curve of each network with Wilson's intervals and the band for all radii; `eps` is marked as typed."""
    save_figure(path, _curve_figure(curves, eps, typed), look)


@own_style()
def _curve_figure(curves: Sequence[Mapping[str, Any]], eps: float, typed: str) -> Figure:
    scale = LEVELS if curves[0]["norm"] == "linf" else 1
    figure = new_figure(5.2, 3.6)
    axis = figure.subplots()
    end = 1.02 * scale * max(eps, *map(_end, curves)) or 1.0
    labels = [as_label(name, 60) for name in file_names([curve["model"] for curve in curves])]
    drawn = [_step(axis, curve, scale, end, line_style(k)[0]) for k, curve in enumerate(curves)]
    axis.axvline(eps * scale, color=FAINT, linewidth=0.8, linestyle=":")
    axis.text(eps * scale, 1.02, f" eps = {typed}", fontsize=TICK, color=FAINT, va="top")
    axis.set_xlim(0, end)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=scale > 1))
    axis.set_ylim(-0.02, 1.02)
    unit = "in units of 1/255" if scale > 1 else "pixels in [0, 1]"
    axis.set_xlabel(f"radius eps ({curves[0]['norm']}, {unit})")
    axis.set_ylabel(f"robust accuracy (n = {curves[0]['n']})")
    style_axis(axis)
    handles, entries = [line for line, *_ in drawn] + drawn[-1][1:], [*labels, *NOTES]  # the notes once
    figure.legend(handles, entries, loc="outside lower center", ncols=legend_columns(entries, 5.2))
    return figure


def _step(axis: Axes, curve: Mapping[str, Any], scale: float, end: float, colour: str) -> list[Artist]:
    """Draw a step function, which keeps its last value up to the `end` of the axis; return line, interval and band."""
    x, mean, low, high = (np.array([*curve[key], curve[key][-1]]) for key in ("eps", "accuracy", "low", "high"))
    x = np.r_[x[:-1] * scale, max(end, x[-1] * scale)]
    (line,) = axis.plot(x, mean, drawstyle="steps-post", color=colour)
    interval = axis.fill_between(x, low, high, step="post", alpha=0.2, linewidth=0, color=colour)
    for edge in (mean - curve["band"], mean + curve["band"]):
        (band,) = axis.plot(x, edge.clip(0, 1), "--", drawstyle="steps-post", color=colour, linewidth=0.7)
    return [line, interval, band]


def _end(curve: Mapping[str, Any]) -> float:
    """Return the radius where a curve falls to `TAIL`, or its last one."""
    low = (eps for eps, accuracy in zip(curve["eps"], curve["accuracy"], strict=True) if accuracy <= TAIL)
    return float(next(low, curve["eps"][-1]))
