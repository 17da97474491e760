"""The table of `stochx certify`, and its remarks: radius, abstentions, the network without noise."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.tables.view import Column, Document, Gate, Remark, Row, View, interval, number


def _columns(rows: Sequence[Row]) -> list[Column]:
    certified = interval("certified", "certified", "low", "high")
    note = "certified accuracy of the smoothed classifier, under any perturbation up to the radius in L2"
    return [
        number("radius", "{:.4g}"),
        Column(certified.name, certified.cell, numeric=True, note=note),
        number("n"),
    ]


def _remarks(document: Document) -> list[Remark]:
    overview, smoothing = document["overview"], document["smoothing"]
    if overview is None:
        return []
    noise = f"{'own ' if smoothing['own'] else ''}noise of sigma {_sigma(smoothing['sigma'])}"
    n = document["results"][0]["n"]
    mean = f"{overview['acr']:.4f} in L2, a mean over all {n} images"
    most = f"{smoothing['draws']} draws of {noise} certify {smoothing['largest']:.4f} at most"
    remarks = [
        Remark("average certified radius:", f"{mean}; {most}"),
        Remark("abstained:", f"{overview['abstained']:.4f} of the images"),
    ]
    if overview["clean"] is not None:
        ends = f"[{overview['clean_low']:.3f}, {overview['clean_high']:.3f}]"
        text = f"accuracy {overview['clean']:.4f} {ends}; this is another classifier"
        remarks.append(Remark("without noise:", text))
    return remarks


def _gates(document: Document) -> list[Gate]:
    gate = document["gate"]
    if gate is None:
        return []
    where = f"certified accuracy at radius {gate['radius']:g} is {gate['value']:.4f} ({gate['on']})"
    text = f"{where}, {'below' if gate['missed'] else 'not below'} {gate['bound']:g}"
    return [Gate(f"--fail-under {document['args']['fail_under']}", text, gate["missed"])]


def _sigma(sigma: float | list[float]) -> str:
    return f"{sigma:.4g}" if isinstance(sigma, float) else ", ".join(f"{value:.4g}" for value in sigma)


VIEW = View(_columns, _remarks, _gates, keys=("radius",))
