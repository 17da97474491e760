"""The table of `stochx attack`, and its remarks: the verdicts of the checks, the comparison, a missed gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stochx.cli.output import View, interval, number, remark, text
from stochx.cli.table import Column, Row

if TYPE_CHECKING:
    from stochx.runs import Document

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns; models, radii, votes and noise only where the rows differ in them or have them."""
    optional = {
        "vote": number("vote", "{:.4f}", note="accuracy of the mean probabilities"),
        "robust_off": number("noise off", "{:.4f}", "robust_off", note="robust accuracy without the network's noise"),
    }
    return [
        *(column for column in (text("model"), RADIUS, DEGREE) if len({*map(column.cell, rows)}) > 1),
        text("attack"),
        interval("clean", "clean", "clean_low", "clean_high"),
        interval("robust", "robust", "low", "high"),
        number("success", "{:.4f}", note="share of the clean accuracy that is lost"),
        *(column for key, column in optional.items() if any(row[key] is not None for row in rows)),
        number("n"),
        number("forwards", "{:.1f}", note="forward passes per image", minor=True),
        number("seconds", "{:.1f}", minor=True),
    ]


# A radius is shown as it was typed.
RADIUS = Column("eps", lambda row: str(row["typed"]) if row["degree"] is None else f"{row['eps']:.4g}")
DEGREE = number("degree", "{:.4g}")


def _remark(document: Document) -> None:
    for check in document["checks"]:
        remark(f"{check['verdict']:4}", check["text"], COLOURS[check["verdict"]])
        if check["verdict"] != "ok":
            remark("    ", check["advice"])
    saved, versus = document["saved"], document["versus"]
    if saved is not None and (saved["outside"] or saved["healed"]):
        outside = f"{saved['outside']} of {saved['images']} images out of the ball"
        remark("warn", f"rounding to 8 bits took {outside} and made {saved['healed']} correct again", "yellow")
    if versus is not None:
        verdict = "not significant" if versus["p"] >= 0.05 else "significant at 5 %"
        gap = f"{versus['difference']:+.4f} ({versus['low']:+.4f} to {versus['high']:+.4f})"
        statistics = f"{gap}, p = {versus['p']:.2g}, n = {versus['n']}"
        remark("worst case, first minus second:", f"{statistics}: {verdict}")


VIEW = View(_columns, _remark)
