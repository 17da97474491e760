"""The table of `stochx boundary`."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.tables.view import Column, Row, View, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns; disagreement, draws and distance in eps only where there are any."""
    noisy = any(row["disagreement"] is not None and "draws" in row for row in rows)  # older ones have none
    optional = [
        number("disagreement", "{:.4f}", note="share of draws that do not predict the class"),
        *([number("draws", "{:.1f}", note="mean draws computed at a point", minor=True)] if noisy else []),
        number("distance_eps", "{:.3f}", note="distance in units of eps"),
    ]
    return [
        text("plane"),
        text("model"),
        number("agreement", "{:.4f}", note="share of points with the same class as the first network"),
        number("iou", "{:.4f}", minor=True),
        number("regions"),
        Column("classes", lambda row: str(len(row["shares"])), numeric=True, minor=True),
        number("confidence", "{:.4f}"),
        number("distance", "{:.4f}", note="to the next class, in L2"),
        *(column for column in optional if any(row[column.name] is not None for row in rows)),
        Column("changed", lambda row: f"{row['changed']}/{row['n']}", numeric=True),
        number("seconds", "{:.1f}", minor=True),
    ]


VIEW = View(_columns, keys=("plane", "model"))
