"""Ask maps what each part of an object is worth to the network, where the truth is known, over several networks.

    python benchmarks/papers/parts.py --budget 60
    python benchmarks/papers/parts.py --networks 10 --images 200 --device cuda

Every network is a run of `stochx train` on objects of parts (`shapes:parts=4`, in the manner of FunnyBirds, Hesse et
al., 2023) and one of `stochx score`, with a seed of its own for weights and images. What came of it is kept beside the
page; the same command goes on with the networks that are missing, as long as the budget lasts, and writes the page anew
from all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import run  # the modules beside this one
from units import Bench, Plain, Unit, folded, table, work_through

from stochx.catalog import METRICS
from stochx.engine.io.files import write_text
from stochx.engine.statistics import Estimate, estimate, holm, paired_ps
from stochx.reports.figure import new_figure, own_style, save_figure
from stochx.settings import Score, Train

METHODS = (
    "gradient",
    "gradxinput",
    "ig",
    "idgi",
    "expected-gradients",
    "smoothgrad",
    "adaptgrad",
    "smoothtaylor",
    "fullgrad",
    "lrp",
    "lrp:composite=epsilon-gamma-box",
    "gradcam",
    "occlusion",
)
CONTROLS = "random", "centre", "sobel", "blurred-ig"
MAIN = "single-deletion"
CHANCE = {MAIN: 0.5, "single-deletion:intervention=replacement": 0.5, "target-sensitivity": 0.5}
METRICS_OF_PARTS = (
    *CHANCE,
    "preservation-check",
    "deletion-check",
    "csdc",
    "distractibility",
)
OTHERS = "srg", "deletion"  # of pixels, to see whether they agree
NETWORK = "background-independence"
DIGITS = 5  # significant ones that are kept
TRAINING, SCORING = 0.0009, 5.0  # seconds of a training image in an epoch, and of all scores of a test image; one core


@dataclass(frozen=True)
class Measured(Plain):
    """A network: its accuracy, how independent of the background it is, and its scores by metric and method."""

    arm: str
    seed: int
    settings: Mapping[str, Any]
    version: str
    seconds: float
    accuracy: float
    independence: float
    scores: Mapping[str, Mapping[str, Sequence[float | None]]]


def measure(args: argparse.Namespace, unit: Unit) -> Measured:
    """Train a network and score the maps of its first test images."""
    seed, start = unit.seed, time.perf_counter()
    folder, data = args.output / unit.name, f"shapes:parts=4,size=48,classes=8,count={args.count},seed={seed}"
    trained = run(
        Train(
            data=data,
            arch="convnet:width=32",
            epochs=args.epochs,
            seed=seed,
            device=args.device,
            output=folder / "train",
        )
    )
    scored = run(
        Score(
            model=str(folder / "train" / "model.safetensors"),
            data=data,
            limit=args.images,
            method=METHODS,
            controls=True,
            metric=(*METRICS_OF_PARTS, *OTHERS, NETWORK),
            seed=seed,
            device=args.device,
            figure=False,
            output=folder / "score",
        )
    )
    lines = (folder / "score" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    scores: dict[str, dict[str, list[float | None]]] = {}
    for record in map(json.loads, lines):
        for metric, found in record["scores"].items():
            scores.setdefault(metric, {}).setdefault(record["method"], []).append(_rounded(found["value"]))
    (independence,) = {row["mean"] for row in scored["results"] if row["metric"] == NETWORK}
    del scores[NETWORK]
    return Measured(
        unit.arm,
        seed,
        settings_of(args),
        scored["version"],
        round(time.perf_counter() - start, 1),
        trained["results"][0]["accuracy"],
        independence,
        scores,
    )


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the scores of a network depend on."""
    return {name: getattr(args, name) for name in ("images", "count", "epochs")}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def mean_of(unit: Measured, metric: str, method: str) -> float:
    """Return the mean score of a method over the images of a network on which all methods have one."""
    rows = zip(*unit.scores[metric].values(), strict=True)
    whole = [dict(zip(unit.scores[metric], row, strict=True)) for row in rows if None not in row]
    return statistics.fmean(float(row[method] or 0.0) for row in whole) if whole else math.nan


def over_networks(units: Sequence[Measured], metric: str, method: str) -> Estimate:
    """Return the mean score of a method over networks, with a 95 % interval over them."""
    return estimate([mean_of(unit, metric, method) for unit in units])


def leads(units: Sequence[Measured], metric: str) -> dict[str, tuple[Estimate, float]]:
    """Return each method's lead over the best control in a metric, over networks, and its p after Holm.

    The p is that of the images, pooled over networks: as there are few of these, intervals are wide.
    """
    sign = 1 if METRICS.make(metric).higher_is_better else -1
    best = max(CONTROLS, key=lambda control: sign * over_networks(units, metric, control).mean)
    found, images = {}, []
    for method in METHODS:
        found[method] = estimate([sign * (mean_of(u, metric, method) - mean_of(u, metric, best)) for u in units])
        pairs = [pair for u in units for pair in zip(u.scores[metric][method], u.scores[metric][best], strict=True)]
        images.append([sign * (a - b) for a, b in pairs if a is not None and b is not None])
    return {m: (lead, p) for (m, lead), p in zip(found.items(), holm(paired_ps(images)), strict=True)}


def knows(lead: Estimate, p: float) -> bool:
    """Return whether a lead over the best control is one for networks and for images."""
    return lead.low > 0 and p < 0.05


def answer(units: Sequence[Measured]) -> str:
    """Return the page's first sentence."""
    if len(units) < 2:
        return "Fewer than two networks have been measured: nothing is decided yet."
    found = {m: over_networks(units, MAIN, m).mean for m, (lead, p) in leads(units, MAIN).items() if knows(lead, p)}
    others = [m for m in METHODS if m not in found]
    ranked = sorted(found, key=lambda m: -found[m])
    named = ", ".join(f"`{m}` ({found[m]:.2f})" for m in ranked)
    rest = ", ".join(f"`{m}` ({over_networks(units, MAIN, m).mean:.2f})" for m in others)
    return (
        f"Of {len(METHODS)} methods {len(found)} order the parts of an object as the network does better than every "
        f"control: {named or 'none'}; chance has 0.5. "
        + (f"Not shown to do so: {rest}." if rest else "All others are shown not to.")
    )


def page(args: argparse.Namespace, units: Sequence[Measured]) -> str:
    """Return the results page."""
    images = len(next(iter(units[0].scores[MAIN].values()))) if units else 0
    accuracy, independence = (
        f"{100 * statistics.fmean(values):.1f} %" if units else "none"
        for values in ([u.accuracy for u in units], [u.independence for u in units])
    )
    lines = [
        "# What is a part worth? Maps against networks without it",
        "",
        f"**{answer(units)}**",
        "",
    ]
    if units:
        picture = args.page.with_suffix(".png")
        draw(picture, units)
        lines += [f"![Scores by method, with intervals over networks; controls are grey]({picture.name})", ""]
    lines += [
        f"Written by `benchmarks/papers/parts.py`; do not edit. {len(units)} networks (`convnet:width=32`), each"
        f" trained with a seed of its own on {args.count} objects of four parts in eight classes, half of which lack"
        f" parts; accuracy {accuracy} on complete ones. {images} test images each; maps are of the predicted class."
        f" Intervals are over networks. Where another background is drawn, the logit falls by less than 5 % on"
        f" {independence} of the images: on the others the networks look at it too, and a good map shows that.",
        "",
        "[Measures](../theory/measures.md#parts-with-a-known-truth) says what each metric asks. A method is shown to"
        " order parts if its lead over the best control has an interval over networks above 0, and p < 0.05 over"
        " images after Holm's correction for all methods.",
        "",
    ]
    for metric in (*METRICS_OF_PARTS, *OTHERS):
        lines += rows_of(units, metric) if units else []
    return "\n".join(lines)


def rows_of(units: Sequence[Measured], metric: str) -> list[str]:
    """Return the folded table of a metric: all methods, the best first, and their leads over the best control."""
    found = leads(units, metric)
    better = METRICS.make(metric).higher_is_better
    means = {m: over_networks(units, metric, m) for m in (*METHODS, *CONTROLS)}
    order = sorted(means, key=lambda m: -means[m].mean if better else means[m].mean)
    note = f"; chance has {CHANCE[metric]:g}" if metric in CHANCE else ""
    rows = []
    for method in order:
        mean = f"{means[method].mean:.3f} ± {means[method].half:.3f}"
        lead, p = found.get(method, (None, math.nan))
        more = ["control", ""] if lead is None else [f"{lead.mean:+.3f} ± {lead.half:.3f}", f"{p:.2g}"]
        rows.append([f"`{method}`", mean, *more])
    summary = f"{metric} ({'higher' if better else 'lower'} is better{note})"
    return folded(summary, table(["method", "mean", "lead over the best control", "p"], rows))


@own_style()
def draw(path: Path, units: Sequence[Measured]) -> None:
    """Draw the scores of all methods in a panel for each metric, in the order of the first panel."""
    shown = (*METRICS_OF_PARTS, "srg")
    order = sorted(METHODS, key=lambda m: over_networks(units, MAIN, m).mean)
    names = [*CONTROLS, *order]
    figure = new_figure(2.0 * len(shown) / 2 + 2.2, 7.4)
    panels = figure.subplots(2, len(shown) // 2, sharey=True).flatten()
    for axis, metric in zip(panels, shown, strict=True):
        for row, name in enumerate(names):
            values = [mean_of(unit, metric, name) for unit in units]
            mean, colour = estimate(values), "0.55" if name in CONTROLS else "#4477AA"
            half = mean.half if math.isfinite(mean.half) else 0.0
            axis.errorbar(mean.mean, row, xerr=half, fmt="o", color=colour, elinewidth=1)
            axis.scatter(values, [row] * len(values), s=4, color=colour, alpha=0.4, linewidths=0)
        if metric in CHANCE:
            axis.axvline(CHANCE[metric], color="0.7", linewidth=0.8, zorder=0)
        axis.set_title(metric.replace(":intervention=", ",\n"))
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), [name.replace(":composite=", ", ") for name in names])
    save_figure(path, figure)


def main(given: Sequence[str] | None = None) -> None:
    """Work until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--images", type=int, default=100, help="test images of each network")
    parser.add_argument("--count", type=int, default=6000, help="images to train on")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--budget", type=float, default=math.inf, metavar="MINUTES", help="end after this time")
    parser.add_argument("--partial", action="store_true", help="begin networks that do not fit into the budget")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/parts"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/parts.md"))
    args = parser.parse_args(given)
    bench = Bench(
        kind=Measured,
        folder=args.page.with_suffix(""),
        settings=lambda unit: settings_of(args),
        make=lambda unit: measure(args, unit),
        cost=lambda unit: TRAINING * args.count * args.epochs + SCORING * args.images,
        write_page=lambda measured: write_text(args.page, page(args, measured)),
    )
    work_through(bench, [Unit("network", seed) for seed in range(args.networks)], args.budget, args.partial)


if __name__ == "__main__":
    main()
