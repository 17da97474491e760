"""The table of `stochx certify`, and its remarks: radius, abstentions, the network without noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stochx.cli.output import View, interval, number, remark
from stochx.cli.table import Column, Row

if TYPE_CHECKING:
    from stochx.runs import Document


def _columns(rows: Sequence[Row]) -> list[Column]:
    certified = interval("certified", "certified", "low", "high")
    note = "certified accuracy of the smoothed classifier, under any perturbation up to the radius in L2"
    return [
        number("radius", "{:.4g}"),
        Column(certified.name, certified.cell, numeric=True, note=note),
        number("n"),
    ]


def _remark(document: Document) -> None:
    overview, smoothing = document["overview"], document["smoothing"]
    if overview is None:
        return
    noise = f"{'own ' if smoothing['own'] else ''}noise of sigma {_sigma(smoothing['sigma'])}"
    n = document["results"][0]["n"]
    remark(
        "average certified radius:",
        f"{overview['acr']:.4f} in L2, a mean over all {n} images; {smoothing['draws']} draws of {noise} certify "
        f"{smoothing['largest']:.4f} at most",
    )
    remark("abstained:", f"{overview['abstained']:.4f} of the images")
    if overview["clean"] is not None:
        ends = f"[{overview['clean_low']:.3f}, {overview['clean_high']:.3f}]"
        remark("without noise:", f"accuracy {overview['clean']:.4f} {ends}; this is another classifier")


def _sigma(sigma: float | list[float]) -> str:
    return f"{sigma:.4g}" if isinstance(sigma, float) else ", ".join(f"{value:.4g}" for value in sigma)


VIEW = View(_columns, _remark)
