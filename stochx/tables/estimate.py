"""The table of `--dry-run`, and the whole estimate in a sentence."""

from __future__ import annotations

from stochx.tables.quantities import duration, rate, size
from stochx.tables.view import Column, Document, Remark, Row, View, number, text


def needs(seconds: float, memory: int, threads: int, device: str) -> str:
    """Return `about 12 min and 1.4 GiB on 2 threads of this CPU`."""
    place = f"{threads} thread{'s' * (threads > 1)} of this CPU" if device == "cpu" else f"`{device}`"
    return f"about {duration(seconds)} and {size(memory)} on {place}"


def _speed(row: Row) -> str:
    return "" if row["items"] is None else rate(row["items"], row["seconds"])


def _remarks(document: Document) -> list[Remark]:
    estimate = document["estimate"]
    text = needs(estimate["seconds"], estimate["memory"], document["threads"], document["device"])
    remarks = [Remark("estimate:", text)]
    free = estimate["available"]
    if document["device"] == "cpu" and free is not None and estimate["memory"] > free:
        remarks.append(Remark("warning:", f"only {size(free)} of memory are free", "warn"))
    return remarks


VIEW = View(
    lambda rows: [
        text("stage"),
        number("items"),
        Column("rate", _speed, numeric=True),
        Column("time", lambda row: duration(row["seconds"]), numeric=True),
    ],
    remarks=_remarks,
)
