"""The table of `stochx compare`, and its remarks: what changed in the settings, and what has no partner."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stochx.tables.quantities import plural
from stochx.tables.view import Column, Document, Gate, Remark, Row, View, number, text

ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
DIGEST = re.compile("[0-9a-f]{64}")
LONGEST = 3  # names in a remark


def _columns(rows: Sequence[Row]) -> list[Column]:
    return [
        text("of", "label"),
        Column("measure", lambda row: f"{row['measure']}{ARROWS[row['better']]}"),
        number("old", "{:.4g}"),
        number("new", "{:.4g}"),
        Column("difference", _difference, numeric=True, note="new minus old, with its 95 % interval"),
        number("p", "{:.2g}", note="paired sign-flip test, adjusted for all rows"),
        Column("paired", lambda row: str(row["paired"] or ""), numeric=True, note="images or episodes of both runs"),
        number("n old", key="n_old", minor=True),
        number("n new", key="n_new", minor=True),
    ]


def _difference(row: Row) -> str:
    ends = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
    return f"{row['difference']:+.4f}{ends}"


def _remarks(document: Document) -> list[Remark]:
    remarks = [Remark("changed", _change(change)) for change in document["changes"]]
    for side, rows in (("old", document["only_old"]), ("new", document["only_new"])):
        if rows:
            remarks.append(Remark("warn", f"only in the {side} run: {_some(rows)}", "warn"))
    if not document["same_images"]:
        remarks.append(Remark("warn", "the data differ: the means are compared as independent ones", "warn"))
    for side in ("old", "new"):
        if document[side]["failed"]:
            text = f"{plural(document[side]['failed'], 'image')} of the {side} run could not be used"
            remarks.append(Remark("warn", text, "warn"))
    return remarks


def _change(change: Row) -> str:
    old, new = (_value(change[side]) for side in ("old", "new"))
    return f"{change['name'].replace('_', '-')}: {old} → {new}"


def _value(value: object) -> str:
    if value is None:
        return "unset"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"`{text[:12] if DIGEST.fullmatch(text) else text}`"


def _some(names: Sequence[str]) -> str:
    more = len(names) - LONGEST
    return ", ".join(names[:LONGEST]) + (f" and {more} more" if more > 0 else "")


def _gates(document: Document) -> list[Gate]:
    delta = document["args"].get("fail_on_regression")
    if delta is None:
        return []
    option = f"--fail-on-regression {delta:g}"
    regressed = [row for row in document["results"] if row["regression"]]
    missed = [Gate(f"{option}: {_name(row)}", _regression(row, delta), True) for row in regressed]
    for name in document["only_old"]:
        missed.append(Gate(f"{option}: {name}", f"the new run has no {name}, which the old one has", True))
    kept = f"no measure got worse by more than {delta:g} and significantly"
    return missed or [Gate(option, kept, False)]


def _regression(row: Row, delta: float) -> str:
    evidence = "" if row["p"] is None else f", p = {row['p']:.2g}, n = {row['paired']}"
    return f"{_name(row)} changed by {_difference(row)}{evidence}: worse by more than {delta:g}"


def _name(row: Row) -> str:
    return f"{row['measure']} of {row['label']}" if row["label"] else str(row["measure"])


VIEW = View(_columns, _remarks, _gates, keys=("label", "measure"))
