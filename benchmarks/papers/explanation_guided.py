"""Compare few-shot training guided by explanations with controls that explain nothing, across domains.

    python benchmarks/papers/explanation_guided.py --budget 60
    python benchmarks/papers/explanation_guided.py --backbone resnet10:size=84 --pretrain 100 --episodes 10000 \\
        --test-episodes 2000 --device cuda

A head with one training seed is a unit: a run of `stochx fsc-train` and one of `fsc-test` for every guide, all from the
same backbone and on the same episodes. What came of it is kept beside the page; the same command goes on with the units
that are missing, seed by seed, and writes the page anew from all of them. Nothing is selected: epochs and episodes are
fixed beforehand. A graph network on a new backbone stays at chance for thousands of episodes: its guides start from one
that was trained for `--start-episodes` without guidance, and a seed that is still at chance then is reported and left
out; there is one seed more for it. The default domains are those below STOCHX_SHARED.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from guided_arms import (  # the modules beside this one
    EPISODES,
    GUIDES,
    QUERIES,
    SHARED,
    SHOTS,
    WAY,
    Arm,
    Guided,
    Place,
    cost_of,
    make_unit,
    settings_of,
)
from matplotlib.figure import Figure
from units import Bench, Unit, folded, points, table, work_through

from stochx.engine.fewshot.intervals import open_interval
from stochx.engine.io.files import write_text
from stochx.engine.power import power_of
from stochx.engine.statistics import SIGNIFICANT, UNBOUNDED, Estimate, estimate, holm, paired_p, student
from stochx.reports.figure import new_figure, own_style, save_figure, style_axis
from stochx.reports.palette import COLOURS

DOMAINS = SHARED / "fewshot"
SOURCE = Place("miniImageNet", f"zip:path={DOMAINS / 'miniimagenet_base.zip'}")
TARGETS = (
    Place("miniImageNet, novel", f"zip:path={DOMAINS / 'miniimagenet_novel.zip'}"),
    Place("Caltech-101", f"zip:path={DOMAINS / 'caltech101.zip'}"),
    Place("groceries", f"zip:path={DOMAINS / 'grocery.zip'}"),
    Place("RSSCN7", f"zip:path={DOMAINS / 'rsscn7.zip'}"),
    Place("Omniglot", f"zip:path={DOMAINS / 'omniglot_images_background_small1.zip'},nested=classes"),
)
SQUEEZENET = str(SHARED / "weights_imagenet" / "squeezenet1_1.safetensors")
ARMS = {
    "relation": Arm("relation"),
    "cross-attention": Arm("cross-attention:base=64"),
    "graph": Arm("gnn:transductive=true", start=True),
    "relation, ImageNet": Arm("relation", SQUEEZENET, size=96, lr=0.0001),
    "cross-attention, ImageNet": Arm("cross-attention:base=64", SQUEEZENET, size=96, lr=0.0001),
    "graph, ImageNet": Arm("gnn:transductive=true", SQUEEZENET, size=96, lr=0.0001),
}
OTHERS = {"none": "no guidance", "random": "weights in random places", "shuffled": "weights of another query"}
LEAST = 6  # seeds of a head for the page: fewer are never significant at 0.05

LITERATURE = """\
| shots | guide | ChestX | ISIC | EuroSAT | CropDisease | CUB | Cars | Places | Plantae |
|---|---|---|---|---|---|---|---|---|---|
| 1 | none | 22.00 | 32.02 | 63.69 | 64.48 | 45.69 | 31.79 | 53.10 | 35.60 |
| 1 | lrp | 22.11 | 30.94 | 54.99 | 59.23 | 48.29 | 32.78 | 54.83 | 37.49 |
| 5 | none | 25.27 | 43.94 | 83.64 | 87.96 | 62.25 | 44.28 | 70.84 | 52.53 |
| 5 | lrp | 24.53 | 44.14 | 77.14 | 86.15 | 64.44 | 46.20 | 74.45 | 54.46 |"""


@dataclass(frozen=True)
class Comparison:
    """`lrp` minus another guide on one arm, over all domains and shots: the open interval, and the mean of each seed.

    The open interval is over training seeds, and over other classes and images of these domains.
    """

    other: str
    mean: Estimate
    seeds: Sequence[float]
    by_domain: Mapping[str, Estimate]
    p: float  # over seeds
    detectable: float | None  # the smallest difference that is found in four of five cases, over seeds


@dataclass(frozen=True)
class Verdict:
    """The claim about an arm: `lrp` is better than no guidance, and than both controls.

    `p_for` is that of the claim, the largest of its three parts, and `p_against` that of being worse than no guidance;
    both are adjusted by Holm for all arms.
    """

    arm: str
    comparisons: Mapping[str, Comparison]
    p_for: float
    p_against: float

    @property
    def word(self) -> str:
        """The verdict in one word."""
        if self.p_for < SIGNIFICANT and all(found.mean.low > 0 for found in self.comparisons.values()):
            return "supported"
        return "refuted" if self.p_against < SIGNIFICANT and self.comparisons["none"].mean.high < 0 else "undecided"


Classes = Mapping[str, Sequence[Sequence[int]]]


def gaps(unit: Guided, other: str, domain: str) -> list[float]:
    """Return `lrp` minus another guide by episode of a domain, the mean over shots."""
    by_shot = [zip(unit.counts("lrp", domain, s), unit.counts(other, domain, s), strict=True) for s in SHOTS]
    return [sum(a - b for a, b in pairs) / (WAY * QUERIES * len(SHOTS)) for pairs in zip(*by_shot, strict=True)]


def compare(units: Sequence[Guided], other: str, classes: Classes) -> Comparison:
    """Compare `lrp` with another guide on the units of one arm."""
    by_domain, over_classes, means = {}, [], []
    for domain, drawn in classes.items():
        by_seed = [gaps(unit, other, domain) for unit in units]
        seeds = estimate([sum(values) / len(values) for values in by_seed])
        episodes = [sum(values) / len(values) for values in zip(*by_seed, strict=True)]
        spread = variance_of(open_interval(torch.tensor(episodes), torch.tensor(drawn), UNBOUNDED))
        by_domain[domain] = combined(seeds.mean, [variance_of(seeds), spread])
        over_classes.append(spread)
        means.append([sum(values) / len(values) for values in by_seed])
    overall = [sum(values) / len(values) for values in zip(*means, strict=True)]
    parts = [(variance / len(means) ** 2, freedom) for variance, freedom in over_classes]
    mean = combined(sum(overall) / len(overall), [variance_of(estimate(overall)), *parts])
    power = power_of(overall, tests=len(ARMS))
    return Comparison(other, mean, overall, by_domain, paired_p(overall), None if power is None else power.detectable)


def variance_of(found: Estimate | None) -> tuple[float, int]:
    """Return the squared standard error of a mean with a Student interval, and its degrees of freedom."""
    if found is None:
        return 0.0, 1
    return (found.half / student(found.n - 1)) ** 2, found.n - 1


def combined(mean: float, parts: Sequence[tuple[float, int]]) -> Estimate:
    """Return a mean with its 95 % interval, from variances that add up and their degrees of freedom.

    Those of the sum are Satterthwaite's (1946).
    """
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / free for part, free in parts) if variance else 1.0
    half = student(max(1, math.floor(freedom))) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, len(parts))


def judge(units: Sequence[Guided], classes: Classes) -> list[Verdict]:
    """Return the verdict on every arm that has a few seeds."""
    found: dict[str, dict[str, Comparison]] = {}
    for arm in ARMS:
        tested = learnt(units, arm)
        if len(tested) >= LEAST:
            found[arm] = {other: compare(tested, other, classes) for other in OTHERS}
    p_for = holm([max(c.p if c.mean.mean > 0 else 1.0 for c in by.values()) for by in found.values()])
    p_against = holm([by["none"].p if by["none"].mean.mean < 0 else 1.0 for by in found.values()])
    return [
        Verdict(arm, by, *ps) for (arm, by), ps in zip(found.items(), zip(p_for, p_against, strict=True), strict=True)
    ]


def learnt(units: Sequence[Guided], arm: str) -> list[Guided]:
    """Return the units of an arm that did not stay at chance."""
    return [unit for unit in units if unit.arm == arm and unit.right]


def answer(verdicts: Sequence[Verdict]) -> str:
    """Return the page's first sentence."""
    parts = []
    for word in ("supported", "refuted", "undecided"):
        arms = [verdict.arm for verdict in verdicts if verdict.word == word]
        if arms:
            of = f" of {len(verdicts)} heads" if not parts else ""
            parts.append(f"{word} for {len(arms)}{of} ({'; '.join(arms)})")
    return (
        "That guidance by explanations helps, and helps more than guidance that explains nothing, is"
        f" {', '.join(parts)}."
    )


def sentence(verdict: Verdict) -> str:
    """Return what came of an arm."""
    found = [f"{points(c.mean)} against {OTHERS[other]}" for other, c in verdict.comparisons.items()]
    seeds, detectable = len(verdict.comparisons["none"].seeds), verdict.comparisons["none"].detectable
    limit = ""
    if verdict.word == "undecided" and detectable is not None:
        limit = f"; {100 * detectable:.1f} points over no guidance would have been found in four of five cases"
    return (
        f"**{verdict.arm}**: {verdict.word}. Guidance by explanations gains {', '.join(found)}, in points over {seeds}"
        f" training seeds{limit}."
    )


@own_style()
def make_figure(verdicts: Sequence[Verdict], domains: Sequence[str]) -> Figure:
    """Draw `lrp` minus every other guide: a panel for all domains, then one for each; seeds are open circles."""
    figure = new_figure(2.4 + 1.5 * (1 + len(domains)), 1.4 + 0.75 * len(verdicts))
    panels = figure.subplots(1, 1 + len(domains), sharey=True)
    for axis, domain in zip(panels, (None, *domains), strict=True):
        style_axis(axis)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(domain or "all domains")
        for row, verdict in enumerate(verdicts):
            for place, (colour, found) in enumerate(zip(COLOURS, verdict.comparisons.values(), strict=False)):
                mean = found.mean if domain is None else found.by_domain[domain]
                height = row + 0.24 * (place - 1)
                axis.plot([100 * mean.low, 100 * mean.high], [height, height], color=colour)
                axis.plot(100 * mean.mean, height, "o", color=colour, markersize=4)
                if domain is None:
                    seeds = [100 * value for value in found.seeds]
                    axis.plot(seeds, [height] * len(seeds), "o", color="grey", markerfacecolor="none", markersize=3)
    panels[0].set_yticks(range(len(verdicts)), [verdict.arm for verdict in verdicts])
    panels[0].set_ylim(len(verdicts) - 0.5, -0.5)
    figure.supxlabel(
        "points of accuracy more with `lrp`: 95 % over seeds, classes and images; open circles, each seed",
        fontsize=panels[0].xaxis.label.get_fontsize(),
    )
    for colour, name in zip(COLOURS, OTHERS.values(), strict=False):
        panels[0].plot([], [], "o-", color=colour, label=f"than with {name}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(OTHERS))
    return figure


def accuracy_rows(units: Sequence[Guided], domains: Sequence[str]) -> list[list[str]]:
    """Return the mean accuracy over seeds of every arm and guide, by shots and domain."""
    rows = []
    for arm in ARMS:
        tested = learnt(units, arm)
        for guide in GUIDES if tested else ():
            for shot in SHOTS:
                right = [[n for unit in tested for n in unit.counts(guide, name, shot)] for name in domains]
                cells = [f"{100 * sum(values) / len(values) / (WAY * QUERIES):.2f}" for values in right]
                rows.append([arm, str(len(tested)), guide, str(shot), *cells])
    return rows


def difference_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return a row for each comparison, with its seeds and domains."""
    return [
        [
            verdict.arm,
            f"`{other}`",
            points(found.mean),
            ", ".join(f"{100 * value:+.1f}" for value in found.seeds),
            points(estimate(found.seeds)),
            f"{found.p:.2g}",
            "" if found.detectable is None else f"{100 * found.detectable:.1f}",
            *(points(mean) for mean in found.by_domain.values()),
        ]
        for verdict in verdicts
        for other, found in verdict.comparisons.items()
    ]


def page(args: argparse.Namespace, units: Sequence[Guided], verdicts: Sequence[Verdict], domains: Sequence[str]) -> str:
    """Return the results page."""
    heads = ["arm", "minus", "points, open", "by seed", "points, over seeds", "p", "detectable", *domains]
    stuck = [f"{unit.arm}, seed {unit.seed} ({100 * unit.chance:.0f} %)" for unit in units if unit.chance is not None]
    lines = [
        "# Few-shot training guided by explanations, across domains",
        "",
        f"**{answer(verdicts)}**",
        "",
        f"![Accuracy with guidance by explanations minus that with other guides]({args.page.with_suffix('.png').name})",
        "",
        *(f"- {sentence(verdict)}" for verdict in verdicts),
        "",
        f"Written by `benchmarks/papers/explanation_guided.py`; do not edit. Heads are trained on {args.episodes}"
        f" episodes of {args.source.name} ({WAY}-way, {args.train_shot}-shot) and tested on {args.test_episodes}"
        f" episodes of each other domain with {' and '.join(map(str, SHOTS))} shots. `ImageNet`: a SqueezeNet 1.1 that"
        " was trained on ImageNet, which has seen the classes of miniImageNet, the novel ones too. All others stand on"
        f" a new `{args.backbone}`, trained for {args.pretrain} epochs on the source: their accuracies are far below"
        " those of full training. The guides of a seed start from the same weights and see the same episodes; no epoch"
        f" or episode is selected. `graph` starts from {args.start_episodes} episodes without guidance, before which it"
        f" is at chance. {'At chance without guidance, and left out: ' + ', '.join(stuck) + '.' if stuck else ''}",
        "",
        "`lrp` is guidance by explanations (Sun et al., 2020). The controls, `random` and `shuffled`, have the same"
        " weights in random places, and those of another query: a gain that they share does not come from the"
        " explanation. In cross-attention, gradients pass through the weights of `lrp`, as published; those of the"
        " controls are constants. The claim is supported for a head if `lrp` is better than no guidance and than both"
        f" controls, each with p < {SIGNIFICANT} over training seeds, adjusted by Holm for all heads, and an open"
        " interval above 0; it is refuted if `lrp` is so much worse than no guidance. Open intervals are over training"
        " seeds, and over other classes and images of these domains.",
        "",
        *folded("All differences", table(heads, difference_rows(verdicts))),
        *folded(
            "Accuracy, %, mean over seeds",
            table(["arm", "seeds", "guide", "shots", *domains], accuracy_rows(units, domains)),
        ),
        *folded(
            "Published: ResNet-10 with a graph network, miniImageNet to other domains, 5 ways, %",
            [*LITERATURE.splitlines(), "", "As a later paper, StyleAdv, collects them from several sources."],
        ),
    ]
    return "\n".join(lines)


def write_page(args: argparse.Namespace, units: Sequence[Guided]) -> None:
    """Write page and figure, once a head has a few seeds."""
    path = args.page.with_suffix("") / EPISODES
    classes: Classes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    verdicts = judge(units, classes)
    if not verdicts:
        print(f"{args.page}: left alone until a head has {LEAST} seeds", flush=True)
        return
    save_figure(args.page.with_suffix(".png"), make_figure(verdicts, list(classes)))
    write_text(args.page, page(args, units, verdicts, list(classes)))


def place(text: str) -> Place:
    """Return a domain that was typed as `NAME=DATA`."""
    name, _, data = text.partition("=")
    return Place(name, data or name)


def main(given: Sequence[str] | None = None) -> None:
    """Work until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=place, default=SOURCE, metavar="NAME=DATA", help="domain to train on")
    parser.add_argument("--target", type=place, action="append", metavar="NAME=DATA", help="repeatable")
    parser.add_argument("--backbone", default="conv4:size=64", help="of the arms that have a new one")
    parser.add_argument("--pretrain", type=int, default=20, help="epochs of a new backbone as a classifier")
    parser.add_argument("--episodes", type=int, default=400, help="training episodes")
    parser.add_argument("--start-episodes", type=int, default=4000, help="episodes of `graph` before its guides")
    parser.add_argument("--train-shot", type=int, default=5)
    parser.add_argument("--test-episodes", type=int, default=600, help="of each domain and number of shots")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--budget", type=float, default=math.inf, metavar="MINUTES", help="end after this time")
    parser.add_argument("--partial", action="store_true", help="begin units that do not fit into the budget")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/explanation_guided"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/explanation_guided.md"))
    args = parser.parse_args(given)
    args.targets = tuple(args.target or TARGETS)
    bench = Bench(
        kind=Guided,
        folder=args.page.with_suffix(""),
        settings=lambda unit: settings_of(args, ARMS[unit.arm]),
        make=lambda unit: make_unit(args, ARMS[unit.arm], unit),
        cost=lambda unit: cost_of(args, ARMS[unit.arm]),
        write_page=lambda units: write_page(args, units),
    )
    units = [
        Unit(name, seed)
        for seed in range(args.seeds + 1)
        for name, arm in ARMS.items()
        if seed < args.seeds + arm.start
    ]
    work_through(bench, units, args.budget, args.partial)


if __name__ == "__main__":
    main()
