"""The table of `stochx fsc-test`; with another network, the paired difference to it."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.tables.view import Column, Row, View, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    columns = [
        text("domain"),
        number("way"),
        number("shot"),
        _percent("accuracy %", "accuracy", ""),
        number("n"),
        text("inference"),
    ]
    if any("difference" in row for row in rows):
        columns += [
            _percent("versus %", "accuracy_versus", "_versus"),
            _percent("difference", "difference", "_difference", "+"),
            number("p", "{:.2g}", note="paired sign-flip test over episodes"),
        ]
    return columns


def _percent(name: str, key: str, ends: str, sign: str = "") -> Column:
    """Make a column of percentages with the ends of their intervals, whose keys end with `ends`."""

    def cell(row: Row) -> str:
        mean, low, high = (f"{100 * row[k]:{sign}.2f}" for k in (key, f"low{ends}", f"high{ends}"))
        return f"{mean} [{low}, {high}]"

    return Column(name, cell, numeric=True)


VIEW = View(_columns, keys=("way", "shot", "inference", "domain"))
