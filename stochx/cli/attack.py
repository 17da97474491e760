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
        Column("attack", lambda row: f"{row['attack']} ({row['label']})" if row["label"] else row["attack"]),
        interval("clean", "clean", "clean_low", "clean_high"),
        interval("robust", "robust", "low", "high"),
        number(
            "success",
            "{:.4f}",
            note="share of the clean accuracy that is lost (with `--target`: of the images that reach it)",
        ),
        *(column for key, column in optional.items() if any(row[key] is not None for row in rows)),
        number("n"),
        *([EOT] if any(row["estimand"] for row in rows) else []),
        number("forwards", "{:.1f}", note="forward passes per image", minor=True),
        number("backwards", "{:.1f}", note="backward passes per image", minor=True),
        number("seconds", "{:.1f}", minor=True),
    ]


# A radius is shown as it was typed.
RADIUS = Column("eps", lambda row: str(row["typed"]) if row["degree"] is None else f"{row['eps']:.4g}")
EOT = number("eot", note="draws averaged per gradient")
DEGREE = number("degree", "{:.4g}")


def _remark(document: Document) -> None:
    for check in document["checks"]:
        remark(f"{check['verdict']:4}", check["text"], COLOURS[check["verdict"]])
        if check["verdict"] != "ok":
            remark("    ", check["advice"])
    for needed in document["expectation"]:
        _remark_draws(needed)
    if any(row["label"] for row in document["results"]) and not document["args"].get("budget"):
        remark("warn", "an attack on one draw follows its noise: leave out `eot=1`", "yellow")
    saved, versus = document["saved"], document["versus"]
    if saved is not None and (saved["outside"] or saved["healed"]):
        outside = f"{saved['outside']} of {saved['images']} images out of the ball"
        remark("warn", f"rounding to 8 bits took {outside} and made {saved['healed']} correct again", "yellow")
    for curve in document["curve"] or ():
        name = "" if versus is None else f": {curve['model']}"
        remark("curve", f"{_median(curve, 'target' in document['args'])}, n = {curve['n']}{name}")
    if versus is not None:
        verdict = "not significant" if versus["p"] >= 0.05 else "significant at 5 %"
        gap = f"{versus['difference']:+.4f} ({versus['low']:+.4f} to {versus['high']:+.4f})"
        statistics = f"{gap}, p = {versus['p']:.2g}, n = {versus['n']}"
        remark("worst case, first minus second:", f"{statistics}: {verdict}")


def _remark_draws(needed: Document) -> None:
    """Say how many draws of the network's noise a gradient needs."""
    where = f"`{needed['model']}`" + ("" if needed["degree"] is None else f" at degree {needed['degree']:.4g}")
    verdict, more = ("warn", "more than ") if needed["capped"] else ("ok", "")
    found = f"{needed['draws']} draws (cosine of their mean to the true one: {needed['agreement']:.2f})"
    remark(f"{verdict:4}", f"a gradient of {where} needs {more}{found}", COLOURS[verdict])
    if needed["capped"]:
        remark("    ", "attacks take no more unless you set their `eot`")


def _median(curve: Document, targeted: bool) -> str:
    """Say how far the nearest misclassified points are, or those of the target class."""
    fate = "reach the target class" if targeted else "are misclassified"
    if curve["median"] is None:
        return f"less than half of the images {fate} at any radius"
    pixels = f" ({255 * curve['median']:.2f}/255)" if curve["norm"] == "linf" else ""
    return f"half of the images {fate} within {curve['median']:.4g}{pixels} in {curve['norm']}"


VIEW = View(_columns, _remark)
