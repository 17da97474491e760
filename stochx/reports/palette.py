"""Colours of classes and of methods, the same in every figure, distinguishable with red-green blindness."""

from __future__ import annotations

from collections.abc import Iterable

# Tol's bright scheme, four more colours, and ten that are as far from the others as three kinds of eyes allow.
COLOURS = (
    *("#4477AA", "#EE6677", "#CCBB44", "#228833", "#66CCEE", "#AA3377"),
    *("#7755CC", "#FFBB99", "#553311", "#BB99FF"),
    *("#66EEDD", "#113388", "#BB88AA", "#114433", "#BB3311", "#FF6655", "#FFCC33", "#BB1155", "#661155", "#FF99AA"),
)
OTHER = "#AAAAAA"  # what has no colour of its own
LINES = ("-", "--", ":", "-.")
METHODS = COLOURS[:10]


def class_colours(classes: Iterable[int]) -> dict[int, str]:
    """Return a colour for each class of a figure, by its index; the first have precedence.

    Each of the first twenty classes of a network has a colour of its own. A later one has that of an earlier class, or
    the next that is free where both are in the figure; classes for which none is left are grey.
    """
    order = list(dict.fromkeys(classes))
    colours = {k: COLOURS[k] for k in order if k < len(COLOURS)}
    for k in order:
        if k not in colours:
            turned = (COLOURS[(k + step) % len(COLOURS)] for step in range(len(COLOURS)))
            colours[k] = next((colour for colour in turned if colour not in colours.values()), OTHER)
    return {k: colours[k] for k in order}


def line_style(place: int) -> tuple[str, str]:
    """Return the colour and the dashes of the line of a method, by its place among the methods."""
    return METHODS[place % len(METHODS)], LINES[place // len(METHODS) % len(LINES)]
