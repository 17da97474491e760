"""Colours of maps, those of `engine/colours.py`, and what figures say about them: colour bars and legends."""

from __future__ import annotations

from matplotlib.colors import LinearSegmentedColormap

from stochx.engine.colours import PURPLES, STOPS
from stochx.engine.colours import colours_of as colours_of
from stochx.engine.colours import overlay as overlay
from stochx.engine.colours import scale_of as scale_of


def colour_map(signed: bool = True) -> LinearSegmentedColormap:
    """Return the same colours for a colour bar."""
    return LinearSegmentedColormap.from_list("stochx", (STOPS if signed else PURPLES).tolist())


def legend_of_colours(signed: bool, unsigned: bool) -> str:
    """Return what the colours of a figure mean that has maps of these kinds."""
    parts = ["red: for the class, blue: against it"] if signed else []
    parts += ["purple: strength alone, as the sign of the map is no evidence"] if unsigned else []
    return "; ".join([*parts, "colours end at the 99th percentile of each map"])
