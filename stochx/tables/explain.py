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
        Column("range", _sigmas, numeric=True, note="sigmas that are as good, as far as the noise of a search shows"),
        number("objective", "{:.3f}", note="what sigma minimises, on fresh draws"),
        number("noise", "{:.3f}", note="standard deviation of the objective in the search"),
        number("seconds", "{:.2f}", minor=True),
    ]


def _sigmas(row: Row) -> str:
    low, high = row.get("sigma_low"), row.get("sigma_high")
    return "" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def _fold(rows: Sequence[Row]) -> tuple[Sequence[Row], list[Column]]:
    """Leave out the folder that all images share."""
    _, *others = _columns(rows)
    folders = {row["image"].rpartition("/")[0] for row in rows}
    start = len("".join(folders)) + 1 if len(folders) == 1 and "" not in folders else 0
    return rows, [Column("image", lambda row: str(row["image"])[start:]), *others]


VIEW = View(_columns, fold=_fold, keys=("image", "method"))
