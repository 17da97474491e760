"""Decide the claims of Goh et al. (ICPR 2020) about SmoothTaylor and adaptive noising, on several networks.

    python benchmarks/papers/smoothtaylor.py --budget 60
    python benchmarks/papers/smoothtaylor.py --network DenseNet=densenet121 --photos DIR --device cuda

A unit is a network with ten photos: runs of `stochx score` with every method of the paper, its rivals, and controls.
What came of it is kept beside the page; the same command goes on with the units that are missing, network by network in
turn, and writes the page anew from all of them. The default networks and photos are those below STOCHX_SHARED.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import run  # the modules beside this one
from units import Bench, Plain, Unit, folded, table, work_through

from stochx.catalog import METRICS
from stochx.engine.io.files import write_text
from stochx.engine.power import power_of
from stochx.engine.statistics import SIGNIFICANT, Estimate, estimate, holm, paired_p
from stochx.reports.figure import new_figure, own_style, save_figure, style_axis
from stochx.reports.palette import COLOURS
from stochx.settings import Score

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
WEIGHTS = SHARED / "weights_imagenet"
NETWORKS = {  # name on the page -> network, and its architecture where the weights do not tell it
    "SqueezeNet 1.1": (str(WEIGHTS / "squeezenet1_1.safetensors"), None),
    "MobileNetV2": (str(WEIGHTS / "mobilenet_v2.safetensors"), None),
    "EfficientNet-Lite0": (str(WEIGHTS / "efficientnet_lite0.safetensors"), "timm:tf_efficientnet_lite0"),
}
PHOTOS = 10  # of a unit
GOLDEN = (
    0.382  # share of all photos between two in turn: they are sorted by class, and the first are to be of all kinds
)
AUPC, AUTVC, SRG = "aupc", "autvc", "srg"
IG, NOISE_IG, TAYLOR = "ig", "ig:baseline=noise,draws=20", "smoothtaylor:sigma=0.5,roots=150"
GRAD, ADAPTED = "smoothgrad:samples=150", "adaptgrad:samples=150"
FOR_AUPC, FOR_AUTVC = (
    f"smoothtaylor:noise=adaptive,objective={objective},sigma=0.5,roots=150" for objective in (AUPC, AUTVC)
)
ARMS = (IG, NOISE_IG, GRAD, TAYLOR, ADAPTED, FOR_AUPC, FOR_AUTVC, "centre", "blurred-ig")  # that AUPC judges
OTHERS = ("expected-gradients:draws=150", "idgi", "lrp", "random", "sobel")
CONTROLS = ("centre", "blurred-ig", "random", "sobel")
CHEAP = (AUTVC, SRG, "deletion", "insertion")
BLIND = {"blurred-ig": "a blurred map of IG", "centre": "a blob in the centre"}  # controls, in words
DIGITS = 5  # significant ones that are kept
SECONDS = 250.0  # of a photo on one core, until a unit has been measured


@dataclass(frozen=True)
class Claim:
    """That a method is better than another by a metric."""

    text: str
    first: str
    second: str
    metric: str


CLAIMS = (
    Claim("SmoothTaylor is smoother than IG", TAYLOR, IG, AUTVC),
    Claim("SmoothTaylor is more sensitive than IG", TAYLOR, IG, AUPC),
    Claim("SmoothTaylor is more sensitive than IG with 20 noise baselines", TAYLOR, NOISE_IG, AUPC),
    Claim("SmoothTaylor is more sensitive than SmoothGrad of as many gradients", TAYLOR, GRAD, AUPC),
    Claim("adaptive noising for AUPC makes SmoothTaylor more sensitive", FOR_AUPC, TAYLOR, AUPC),
    Claim("adaptive noising for AUTVC makes SmoothTaylor smoother", FOR_AUTVC, TAYLOR, AUTVC),
    Claim("adaptive noising for AUPC is more sensitive than AdaptGrad", FOR_AUPC, ADAPTED, AUPC),
    Claim("adaptive noising for AUTVC is smoother than AdaptGrad", FOR_AUTVC, ADAPTED, AUTVC),
    Claim("SmoothTaylor has a larger symmetric relevance gain than IG", TAYLOR, IG, SRG),
    Claim("SmoothTaylor is smoother than a blurred map of IG", TAYLOR, "blurred-ig", AUTVC),
    *(Claim(f"SmoothTaylor is more sensitive than {BLIND[c]}", TAYLOR, c, AUPC) for c in BLIND),
    *(Claim(f"SmoothTaylor has a larger symmetric relevance gain than {BLIND[c]}", TAYLOR, c, SRG) for c in BLIND),
)
OF_THE_PAPER = (CLAIMS[0], CLAIMS[1], CLAIMS[4], CLAIMS[5])


@dataclass(frozen=True)
class Photos(Plain):
    """The scores of some photos on a network, by metric and method, and the sigma that adaptive noising chose."""

    arm: str
    seed: int
    settings: Mapping[str, Any]
    version: str
    seconds: float
    photos: Sequence[str]
    scores: Mapping[str, Mapping[str, Sequence[float | None]]]
    sigma: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Verdict:
    """A claim on one network: the difference, oriented so that it is positive where the claim holds."""

    claim: Claim
    network: str
    mean: Estimate
    p: float  # adjusted for all claims and networks
    detectable: float | None  # the smallest difference that is found in four of five cases

    @property
    def word(self) -> str:
        """The verdict in one word."""
        if self.p >= SIGNIFICANT or self.mean.low <= 0 <= self.mean.high:
            return "undecided"
        return "supported" if self.mean.mean > 0 else "refuted"


def photos_of(args: argparse.Namespace, block: int) -> list[str]:
    """Return the photos of a block, in an order in which the first ones are of all kinds."""
    files = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    stride = next(step for step in itertools.count(math.ceil(GOLDEN * len(files))) if math.gcd(step, len(files)) == 1)
    order = [files[place * stride % len(files)] for place in range(len(files))]
    return [str(path) for path in order[args.size * block : args.size * (block + 1)]]


def measure(args: argparse.Namespace, unit: Unit) -> Photos:
    """Score all methods on the photos of a unit."""
    start, (model, arch) = time.perf_counter(), args.networks[unit.arm]
    photos, folder = photos_of(args, unit.seed), args.output / unit.name
    scores: dict[str, dict[str, list[float | None]]] = {}
    sigma: dict[str, list[float | None]] = {}
    version = ""
    for name, methods, metrics in (("arms", ARMS, (AUPC, *CHEAP)), ("others", OTHERS, CHEAP)):
        document = run(
            Score(
                model=model,
                arch=arch,
                images=tuple(photos),
                method=methods,
                metric=metrics,
                device=args.device,
                figure=False,
                output=folder / name,
            )
        )
        version = document["version"]
        lines = (folder / name / "records.jsonl").read_text(encoding="utf-8").splitlines()
        for record in sorted(map(json.loads, lines), key=lambda record: record["index"]):
            for metric, found in record["scores"].items():
                scores.setdefault(metric, {}).setdefault(record["method"], []).append(_rounded(found["value"]))
            if record["sigma"] is not None:
                sigma.setdefault(record["method"], []).append(_rounded(record["sigma"]))
    seconds = round(time.perf_counter() - start, 1)
    names = [Path(photo).stem for photo in photos]
    return Photos(unit.arm, unit.seed, settings_of(args, unit), version, seconds, names, scores, sigma)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def settings_of(args: argparse.Namespace, unit: Unit) -> dict[str, Any]:
    """Return what the scores of a unit depend on; files are named without their folders."""
    model, arch = args.networks[unit.arm]
    return {"model": Path(model).name, "arch": arch, "photos": args.photos.name, "size": args.size}


def cost_of(args: argparse.Namespace, unit: Unit) -> float:
    """Return the seconds that a unit takes: those of an earlier one of the same network."""
    files = sorted(args.page.with_suffix("").glob("*.json"))
    earlier = [found.seconds for found in map(Photos.read, files) if found.arm == unit.arm]
    return max(earlier, default=SECONDS * args.size)


def values_of(units: Sequence[Photos], network: str, metric: str, method: str) -> list[float | None]:
    """Return the scores of a method on all photos of a network, in the order of the units."""
    return [value for unit in units if unit.arm == network for value in unit.scores[metric][method]]


def difference(units: Sequence[Photos], network: str, claim: Claim) -> list[float]:
    """Return by photo how much better the first method of a claim is, where both have a score."""
    sign = 1 if METRICS.make(claim.metric).higher_is_better else -1
    pairs = zip(*(values_of(units, network, claim.metric, m) for m in (claim.first, claim.second)), strict=True)
    return [sign * (a - b) for a, b in pairs if a is not None and b is not None]


def judge(units: Sequence[Photos]) -> list[Verdict]:
    """Return the verdict on each claim for each network, with Holm's correction over all of them."""
    networks = list(dict.fromkeys(unit.arm for unit in units))
    cases = [(claim, network, difference(units, network, claim)) for claim in CLAIMS for network in networks]
    cases = [case for case in cases if len(case[2]) > 1]
    adjusted = holm([paired_p(gaps) for _, _, gaps in cases])
    found = []
    for (claim, network, gaps), p in zip(cases, adjusted, strict=True):
        power = power_of(gaps, tests=len(cases))
        found.append(Verdict(claim, network, estimate(gaps), p, None if power is None else power.detectable))
    return found


def answer(verdicts: Sequence[Verdict]) -> str:
    """Return the page's first sentence: what the paper's four claims came to."""
    parts = []
    for claim in OF_THE_PAPER:
        words = [verdict.word for verdict in verdicts if verdict.claim == claim]
        counts = [f"{word} on {words.count(word)}" for word in ("supported", "refuted", "undecided") if word in words]
        parts.append(f"that {claim.text} is {' and '.join(counts)}")
    networks = len({verdict.network for verdict in verdicts})
    return f"Of {networks} network{'s' if networks > 1 else ''}: {'; '.join(parts)}."


@own_style()
def draw(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Draw the differences of all claims with their intervals: a panel for each metric, a colour for each network."""
    metrics, networks = (AUPC, AUTVC, SRG), list(dict.fromkeys(verdict.network for verdict in verdicts))
    rows = {m: [claim for claim in CLAIMS if claim.metric == m] for m in metrics}
    figure = new_figure(8.4, 1.6 + 0.42 * sum(map(len, rows.values())))
    panels = figure.subplots(len(metrics), 1, height_ratios=[len(claims) for claims in rows.values()])
    for axis, (metric, claims) in zip(panels, rows.items(), strict=True):
        style_axis(axis)
        axis.axvline(0, color="black", linewidth=0.8)
        for verdict in (verdict for verdict in verdicts if verdict.claim.metric == metric):
            place = networks.index(verdict.network)
            row, colour = claims.index(verdict.claim) + 0.2 * (place - (len(networks) - 1) / 2), COLOURS[place]
            axis.plot([verdict.mean.low, verdict.mean.high], [row, row], color=colour)
            face = "white" if verdict.word == "undecided" else colour
            axis.plot(verdict.mean.mean, row, "o", color=colour, markerfacecolor=face, markersize=5)
        axis.set_yticks(range(len(claims)), [claim.text for claim in claims])
        axis.set_ylim(len(claims) - 0.5, -0.5)
        axis.set_xlabel(f"{metric}: by how much the claim holds")
    for place, network in enumerate(networks):
        panels[0].plot([], [], "o-", color=COLOURS[place], label=network)
    figure.legend(loc="outside upper center", ncols=len(networks))
    save_figure(path, figure)


def page(args: argparse.Namespace, units: Sequence[Photos], verdicts: Sequence[Verdict]) -> str:
    """Return the results page."""
    networks = list(dict.fromkeys(unit.arm for unit in units))
    counts = ", ".join(f"{sum(len(u.photos) for u in units if u.arm == name)} with {name}" for name in networks)
    rows = [
        [
            verdict.claim.text,
            verdict.claim.metric,
            verdict.network,
            f"{verdict.mean.mean:+.3f} ± {verdict.mean.half:.3f}",
            f"{verdict.p:.2g}",
            "" if verdict.detectable is None else f"{verdict.detectable:.3f}",
            verdict.word,
        ]
        for verdict in verdicts
    ]
    head = ["claim", "metric", "network", "difference", "p", "detectable", "verdict"]
    lines = [
        "# SmoothTaylor and adaptive noising: the paper's claims on other networks",
        "",
        f"**{answer(verdicts)}**",
        "",
        f"![By how much each claim holds; open circles are undecided]({args.page.with_suffix('.png').name})",
        "",
        "Written by `benchmarks/papers/smoothtaylor.py`; do not edit. Claims of Goh et al. (ICPR 2020), who used 1,000"
        f" images, DenseNet-121 and ResNet-152, on photos of ImageNet's classes: {counts}. AUPC takes 50 patches a"
        " region, as in the paper, and is in logits, whose scale differs between networks; maps are of the predicted"
        " class. Rivals have as many gradients as SmoothTaylor. Adaptive noising is the search that knows its noise;"
        " its maps are scored on fresh roots and patches.",
        "",
        "A claim is supported or refuted on a network if the difference over its photos has p < "
        f"{SIGNIFICANT}, adjusted by Holm for all claims and networks; else it is undecided, and `detectable` is the"
        " difference that would have been found in four of five cases. Controls explain nothing: what they lead, a"
        " metric does not measure.",
        "",
        *table(head, rows),
        "",
    ]
    for network in networks:
        lines += folded(f"All scores of {network}", table(["method", *SHOWN], score_rows(units, network)))
    chosen = [[n, f"`{m}`", *sigma_cells(units, n, m)] for n in networks for m in (FOR_AUPC, FOR_AUTVC)]
    lines += folded("Chosen sigma", table(["network", "method", "mean", "least", "greatest"], chosen))
    return "\n".join(lines)


SHOWN = (AUPC, *CHEAP)


def score_rows(units: Sequence[Photos], network: str) -> list[list[str]]:
    """Return the mean scores of all methods on a network."""
    rows = []
    for method in (*ARMS, *OTHERS):
        cells = []
        for metric in SHOWN:
            known = method in next(iter(units)).scores[metric]
            values = [v for v in values_of(units, network, metric, method) if v is not None] if known else []
            mean = estimate(values) if values else None
            cells.append("" if mean is None else f"{mean.mean:.3f} ± {mean.half:.3f}")
        rows.append([f"`{method}`{' (control)' if method in CONTROLS else ''}", *cells])
    return rows


def sigma_cells(units: Sequence[Photos], network: str, method: str) -> list[str]:
    """Return the mean, the least and the greatest sigma that was chosen on a network."""
    found = [s for unit in units if unit.arm == network for s in unit.sigma[method] if s is not None]
    return [f"{value:.2f}" for value in (sum(found) / len(found), min(found), max(found))] if found else ["", "", ""]


def write_page(args: argparse.Namespace, units: Sequence[Photos]) -> None:
    """Write page and figure, once each network has as many photos as asked for."""
    counts = {name: sum(len(unit.photos) for unit in units if unit.arm == name) for name in args.networks}
    if not units or min(counts.values()) < args.least:
        print(f"{args.page}: left alone until each network has {args.least} photos", flush=True)
        return
    verdicts = judge(units)
    draw(args.page.with_suffix(".png"), verdicts)
    write_text(args.page, page(args, units, verdicts))


def network(text: str) -> tuple[str, tuple[str, str | None]]:
    """Return a network that was typed as `NAME=MODEL`."""
    name, _, model = text.partition("=")
    return name, (model or name, None)


def main(given: Sequence[str] | None = None) -> None:
    """Work until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", type=network, metavar="NAME=MODEL", help="repeatable")
    parser.add_argument("--photos", type=Path, default=SHARED / "imagenet_samples", help="folder of photos")
    parser.add_argument("--units", type=int, default=15, help=f"units of each network, {PHOTOS} photos each")
    parser.add_argument("--size", type=int, default=PHOTOS, help="photos of a unit")
    parser.add_argument("--least", type=int, default=50, help="photos of each network before the page is written")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="MINUTES", help="end after this time")
    parser.add_argument("--partial", action="store_true", help="begin units that do not fit into the budget")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/smoothtaylor"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/smoothtaylor.md"))
    args = parser.parse_args(given)
    args.networks = dict(args.network or NETWORKS)
    bench = Bench(
        kind=Photos,
        folder=args.page.with_suffix(""),
        settings=lambda unit: settings_of(args, unit),
        make=lambda unit: measure(args, unit),
        cost=lambda unit: cost_of(args, unit),
        write_page=lambda units: write_page(args, units),
    )
    units = [Unit(name, block) for block in range(args.units) for name in args.networks]
    work_through(bench, units, args.budget, args.partial)


if __name__ == "__main__":
    main()
