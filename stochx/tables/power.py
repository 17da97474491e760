"""The line that says what a run could have found, and what it would take to find a difference."""

from __future__ import annotations

from collections.abc import Callable

from stochx.tables.view import Remark, Row


def power_remark(row: Row, what: str, unit: str, value: Callable[[float], str]) -> Remark:
    """Say which difference a comparison finds in four of five cases; `what` is compared, over n of some `unit`."""
    holm = f", Holm over {row['tests']} pairs" if row["tests"] > 1 else ""
    text = f"{what}: n = {row['n']} {unit} finds no difference of any size{holm}"
    if row["detectable"] is not None:
        found = value(row["detectable"])
        text = f"{what}: a difference of {found} is found in 4 of 5 cases (n = {row['n']} {unit}{holm})"
    elif row["sd"] == 0:
        text = f"{what}: nothing varies over n = {row['n']} {unit}, so no smallest difference is known"
    if row["needed"] is not None:
        draws = f", or {row['draws']} draws on these" if row.get("draws") is not None else ""
        text = f"{text}; {value(row['delta'])} takes {row['needed']} {unit}{draws}"
    return Remark("power:", text)
