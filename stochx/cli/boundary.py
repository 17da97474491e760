"""The table of `stochx boundary`."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.cli.output import Column, Row, View, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns; disagreement and distance in eps only where there are any."""
    optional = [number("disagreement", "{:.4f}"), number("distance_eps", "{:.3f}")]
    return [
        text("plane"),
        text("model"),
        number("agreement", "{:.4f}"),
        number("iou", "{:.4f}"),
        number("regions"),
        Column("classes", lambda row: str(len(row["shares"]))),
        number("confidence", "{:.4f}"),
        number("distance", "{:.4f}"),
        *(column for column in optional if any(row[column.name] is not None for row in rows)),
        Column("changed", lambda row: f"{row['changed']}/{row['n']}"),
        number("seconds", "{:.1f}"),
    ]


VIEW = View(_columns)
