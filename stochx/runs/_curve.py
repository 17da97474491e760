"""Curves over all radii in the document of `stochx attack`, and the gate, which may ask for any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stochx.engine.io.lines import Record
from stochx.runs.document import Document
from stochx.settings import Attack
from stochx.tasks.curve import Curve

Row = Mapping[str, Any]


def describe_curves(settings: Attack, records: Sequence[Sequence[Record]]) -> list[Document] | None:
    """Return the curve of each network, from the records of each; None where no curve was asked for."""
    if not settings.curve:
        return None
    models = [name for name in (settings.model, settings.versus) if name is not None]
    return [_describe(name, settings.norm, Curve.of(of)) for name, of in zip(models, records, strict=True)]


def _describe(model: str, norm: str, curve: Curve) -> Document:
    points = [curve.at(eps) for eps in curve.knots]
    return {
        "model": model,
        "norm": norm,
        "n": len(curve.distances),
        "eps": curve.knots,
        "accuracy": [point.mean for point in points],
        "low": [point.low for point in points],
        "high": [point.high for point in points],
        "band": curve.band,
        "median": curve.median,
        "area": curve.area,
    }


def judge_gate(settings: Attack, rows: Sequence[Row], records: Sequence[Record]) -> Document | None:
    """Judge `--fail-under` by the worst case of the first network, at the radius it names or the last point."""
    gate = settings.gate
    if gate is None or not rows:
        return None
    points = [row for row in rows if row["model"] == settings.model and gate.eps in (None, row["eps"])]
    if settings.curve and gate.eps is not None:
        there = Curve.of(records).at(gate.eps)
        values = {"point": there.mean, "lower": there.low}
    else:
        values = {"point": points[-1]["robust"], "lower": points[-1]["low"]}
    value, eps = values[settings.fail_on], points[-1]["eps"] if gate.eps is None else gate.eps
    missed = value < gate.bound
    return {"on": settings.fail_on, "eps": eps, "bound": gate.bound, "value": value, "missed": missed}
