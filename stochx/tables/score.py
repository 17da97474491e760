"""The table of `stochx score`: for people a line for each method and a column for each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stochx.tables.power import power_remark
from stochx.tables.view import Column, Document, Gate, Remark, Row, View, number, text

SIGNIFICANT = 0.05
LEAST_DEGRADATION = 0.9
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


def _columns(rows: Sequence[Row]) -> list[Column]:
    return [
        text("method"),
        text("metric"),
        number("mean", "{:.6g}"),
        number("low", "{:.6g}"),
        number("high", "{:.6g}"),
        number("n"),
        number("excluded"),
        text("better"),
        Column("best", lambda row: "yes" if row["best"] else ""),
        number("p", "{:.3g}", note="paired test against the best mean, adjusted for all pairs"),
        text("setting"),
    ]


def _fold(rows: Sequence[Row]) -> tuple[list[Row], list[Column]]:
    """Put the metrics of a method into one line."""
    lines: dict[str, dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(row["method"], {})[row["metric"]] = row
    columns = [Column("method", lambda line: str(next(iter(line.values()))["method"]))]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        first = next(row for row in rows if row["metric"] == metric)
        title = f"{metric} {ARROWS[first['better']]}\n(n = {first['n']})"
        columns.append(Column(title, lambda line, metric=metric: _cell(line[metric]), numeric=True))  # type: ignore[misc]
    return list(lines.values()), columns


def _cell(row: Row) -> str:
    if row["mean"] is None:
        return "–"
    return f"{row['mean']:.4g}{_interval(row)}{' *' if row['best'] else ''}"


def _interval(row: Row) -> str:
    """Return ` ± 0.1` for an interval about the mean, ` [0.8, 1]` for another one."""
    mean, low, high = row["mean"], row["low"], row["high"]
    if low is None:
        return ""
    symmetric = math.isclose(mean - low, high - mean, rel_tol=1e-6)
    return f" ± {high - mean:.3g}" if symmetric else f" [{low:.3g}, {high:.3g}]"


def _remarks(document: Document) -> list[Remark]:
    """Say where a control leads, and whether another replacement of removed pixels orders the methods otherwise."""
    rows, remarks = document["results"], list[Remark]()
    for metric in dict.fromkeys(row["metric"] for row in rows):
        remarks += _control_that_leads([row for row in rows if row["metric"] == metric and row["mean"] is not None])
    remarks += map(_removal, document.get("removals", ()))  # results of older versions have none of these
    remarks += map(_trust, document.get("trust", ()))
    return [*remarks, *map(_power, document.get("power", ()))]


def _power(row: Row) -> Remark:
    """Say what a comparison of methods by a metric could have found."""
    what = f"`{row['metric']}` of `{row['first']}` and `{row['second']}`"
    return power_remark(row, what, "images", "{:.3g}".format)


def _trust(row: Row) -> Remark:
    """Say how far a metric can be trusted: what is known of it, in one line."""
    said, blind = [], row["degradation"] is not None and row["degradation"] < LEAST_DEGRADATION
    if row["reliability"] is not None:
        said.append(f"reliability {row['reliability']:.2f}")
    if row["swaps"] is not None:
        said.append(f"the first two swap in {row['swaps']:.0%} of bootstraps")
    if row["degradation"] is not None:
        said.append(f"degradation {row['degradation']:.2f}{', so no method is marked best' if blind else ''}")
    if row["control_rank"] is not None:
        said.append(f"best control at place {row['control_rank']} of {row['methods']}")
    if row["consistency"] is not None:
        said.append(f"MetaQuantus {row['consistency'] - row['chance']:+.2f} to chance")
    text = (
        f"`{row['metric']}`: {', '.join(said) or 'nothing is known'} ({row['images']} images, {row['seconds']:.3g} s)"
    )
    return Remark("trust:", text, "warn" if blind or row["control_rank"] == 1 else "")


def _control_that_leads(rows: Sequence[Row]) -> list[Remark]:
    """Say that the best mean of a metric is that of a control, and which methods it beats significantly."""
    if not rows or rows[0]["better"] == "none":
        return []
    leader = (max if rows[0]["better"] == "higher" else min)(rows, key=lambda row: row["mean"])
    if not leader.get("control"):
        return []
    beaten = [f"`{row['method']}`" for row in rows if not row["control"] and (row["p"] or math.inf) < SIGNIFICANT]
    beats = f", and beats {', '.join(beaten)} (p < {SIGNIFICANT})" if beaten else ""
    text = f"the control `{leader['method']}` leads in `{leader['metric']}`{beats}: no method is marked best there"
    return [Remark("control:", text, "warn")]


def _removal(row: Row) -> Remark:
    """Say whether the order of methods holds under other replacements, or which one changes it most."""
    if not row["turned"]:
        others = "another replacement" if row["compared"] == 1 else f"{row['compared']} other replacements"
        return Remark("removal:", f"`{row['metric']}` keeps its order of methods under {others}", "ok")
    pairs = (
        f"{row['turned']} of {row['pairs']} pairs of methods, {row['significant']} with p < {SIGNIFICANT} both times"
    )
    correlation = f"rank correlation {row['correlation']:.2f}"
    text = f"`{row['other']}` turns the order of `{row['metric']}` for {pairs} ({correlation})"
    return Remark("removal:", text, "warn")


def _gates(document: Document) -> list[Gate]:
    return [_gate(gate) for gate in document["gates"]]


def _gate(gate: Row) -> Gate:
    option, side = ("--fail-over", "above") if gate["over"] else ("--fail-under", "below")
    mean = "no mean" if gate["mean"] is None else f"a mean of {gate['mean']:.4g}"
    bound = "" if gate["mean"] is None else f", {side if gate['missed'] else f'not {side}'} {gate['bound']:g}"
    text = f"`{gate['method']}` has {mean}{bound} for {gate['metric']}"
    return Gate(f"{option} {gate['metric']}={gate['bound']:g}", text, gate["missed"])


def _legend(rows: Sequence[Row]) -> str:
    claim = "* best: every paired difference to it has p < 0.05 (sign-flip test, Holm over all pairs)"
    return claim if any(row["best"] for row in rows) else ""


VIEW = View(_columns, _remarks, _gates, keys=("method", "metric"), fold=_fold, legend=_legend)
