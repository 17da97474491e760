"""The table of `stochx fsc-test`; with another network, the paired difference to it."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.tables.power import power_remark
from stochx.tables.view import Column, Document, Remark, Row, View, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    several = len({(row["network"], row["head"]) for row in rows if "network" in row}) > 1
    columns = [
        *([Column("network", _name)] if several or any(row.get("frozen") for row in rows) else []),
        text("domain"),
        number("way"),
        number("shot"),
        _percent("accuracy %", "accuracy", "", note="with the interval over episodes of these classes and images"),
        _ends("open", "low_open", "high_open", note="the interval of accuracy over other classes and their images"),
        number("n"),
        text("inference"),
    ]
    if any("difference" in row for row in rows):
        columns += [
            _percent("versus %", "accuracy_versus", "_versus"),
            _percent("difference", "difference", "_difference", "+", note="paired by episode"),
            _ends("open difference", "low_difference_open", "high_difference_open", "+"),
            number("p", "{:.2g}", note="paired sign-flip test over episodes"),
        ]
    return columns


def _name(row: Row) -> str:
    return f"{row['network']}, frozen, {row['head']}" if row["frozen"] else str(row["network"])


def _ends(name: str, low: str, high: str, sign: str = "", note: str = "") -> Column:
    """Make a column of intervals in percent; empty where there is none, and in results of older versions."""

    def cell(row: Row) -> str:
        if row.get(low) is None:
            return ""
        return f"[{100 * row[low]:{sign}.1f}, {100 * row[high]:{sign}.1f}]"

    return Column(name, cell, numeric=True, note=note)


def _percent(name: str, key: str, ends: str, sign: str = "", note: str = "") -> Column:
    """Make a column of percentages with the ends of their intervals, whose keys end with `ends`."""

    def cell(row: Row) -> str:
        if row.get(key) is None:
            return ""
        mean, low, high = (f"{100 * row[k]:{sign}.2f}" for k in (key, f"low{ends}", f"high{ends}"))
        return f"{mean} [{low}, {high}]"

    return Column(name, cell, numeric=True, note=note)


def _remarks(document: Document) -> list[Remark]:
    return [_power(row) for row in document.get("power", ())]  # results of older versions have none


def _power(row: Row) -> Remark:
    """Say what a comparison of networks could have found, over episodes of these classes and images."""
    what = (
        f"{row['way']}-way {row['shot']}-shot of {row['domain']}, to {row['versus'] or 'a network on other episodes'}"
    )
    return power_remark(row, what, "episodes", lambda value: f"{100 * value:.2f} %")


VIEW = View(_columns, _remarks, keys=("way", "shot", "inference", "network", "domain"))
