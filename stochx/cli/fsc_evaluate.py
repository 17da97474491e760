"""The table of `stochx fsc-test`; with another network, the paired difference to it."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.cli.output import Column, Row, View, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    columns = [
        text("domain"),
        number("way"),
        number("shot"),
        _percent("accuracy %", "accuracy", "ci95"),
        number("n"),
        text("inference"),
    ]
    if any("difference" in row for row in rows):
        columns += [
            _percent("versus %", "accuracy_versus", "ci95_versus"),
            _percent("difference", "difference", "ci95_difference", "{:+.2f}"),
            number("p", "{:.2g}"),
        ]
    return columns


def _percent(name: str, key: str, ci95: str, pattern: str = "{:.2f}") -> Column:
    """Make a column of percentages with their intervals."""
    return Column(name, lambda row: f"{pattern.format(100 * row[key])} ± {100 * row[ci95]:.2f}")


VIEW = View(_columns)
