"""The table of `stochx explain`."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.tables.view import Column, Row, View, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    return [
        text("image"),
        text("method"),
        number("target", minor=True),
        text("class", "class_name"),
        number("probability", "{:.3f}"),
        number("gap", "{:+.3f}", note="sum of the map minus that of a complete one, in logits"),
        number("error", "{:.3f}", note="Monte-Carlo error relative to the map"),
        number("used", note="samples behind the map"),
        number("sigma", "{:.3f}", note="the noise that was chosen"),
        number("objective", "{:.3f}", note="what the noise minimises, on fresh draws"),
        number("seconds", "{:.2f}", minor=True),
    ]


def _fold(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Column]]:
    """Leave out the folder that all images share."""
    _, *others = _columns(rows)
    folders = {row["image"].rpartition("/")[0] for row in rows}
    start = len("".join(folders)) + 1 if len(folders) == 1 and "" not in folders else 0
    return rows, [Column("image", lambda row: str(row["image"])[start:]), *others]


VIEW = View(_columns, fold=_fold, keys=("image", "method"))
