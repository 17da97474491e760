"""Attack randomised defences as published and as honesty asks for, all of them under one protocol.

    python benchmarks/papers/randomised_defences.py --budget 60
    python benchmarks/papers/randomised_defences.py --epochs 40 --limit 50000 --images 10000 --device cuda --results DIR

As published means PGD that follows single draws. The honest way averages each gradient over as many draws as the check
`expectation` asks for; APGD spends as many gradients. The gap between the two is what the published way overstates. All
defences start from the same teacher and are trained alike; networks without noise are controls, whose gap is zero. A
defence with one training seed is a unit of work, whose outcome is kept in a small file below `--results`: the same
command goes on with the next unit, on any machine that has these files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_noise import FACTS, accuracy_rows  # the modules beside this one
from claims import gaps
from matplotlib.figure import Figure
from noise_arms import (
    APGD,
    CLEAN,
    EOT,
    KNOWN,
    OFF,
    ONE_DRAW,
    SHARED,
    VOTE,
    WORST,
    Arm,
    add_options,
    balanced,
    cost_of,
    make_unit,
    settings_of,
)
from units import Bench, Result, folded, points, table, work_through

from stochx.engine.io.files import write_text
from stochx.engine.power import power_of
from stochx.engine.statistics import SIGNIFICANT, Estimate, holm, mean_difference, mean_share, paired_p
from stochx.reports.figure import new_figure, own_style, save_figure, style_axis
from stochx.reports.palette import COLOURS

WEIGHTS = SHARED / "weights_cifar10"
ROBUST, FRAGILE, DEEPER = (str(WEIGHTS / f"{name}.safetensors") for name in ("robust_resnet2b", "resnet20", "resnet32"))
ARMS = {
    "ensemble, robust and not": Arm(network=f"{ROBUST}+{FRAGILE}"),
    "ensemble, neither robust": Arm(network=f"{FRAGILE}+{DEEPER}"),
    "control: a robust network": Arm(network=ROBUST),
    "control: AT": Arm(),
    "adaptive": Arm("adaptive"),
    "PNI, weights": Arm("pni:on=weight,granularity=channel"),
    "PNI, activations": Arm("pni:on=activation,granularity=layer"),
    "RPF": Arm("rpf"),
    "CTRW": Arm("ctrw"),
    "RNA": Arm("rna"),
    "RSE": Arm("gaussian"),
    "RSE without AT": Arm("gaussian", adversarial="none"),
    "Learn2Perturb": Arm("learn2perturb"),
    "Adv-BNN": Arm("bayes"),
    "WCA": Arm("wca"),
    "low rank": Arm("lowrank"),
    "dropout": Arm("dropout"),
    "multiplicative": Arm("multiplicative"),
    "feature-wise": Arm("feature-wise"),
}
WAYS = (CLEAN, ONE_DRAW, EOT, APGD, WORST, KNOWN, OFF, VOTE)
SHOWN = (ONE_DRAW, EOT, APGD, KNOWN, OFF)


@dataclass(frozen=True)
class Gap:
    """The published way minus the honest way of a defence: a mean over its seeds by image."""

    arm: str
    mean: Estimate
    p: float  # adjusted for all defences of the page
    detectable: float | None

    @property
    def word(self) -> str:
        """What the gap says of the published way."""
        if self.p >= SIGNIFICANT or self.mean.low <= 0 <= self.mean.high:
            return "undecided"
        return "overstates" if self.mean.mean > 0 else "understates"


def measured_gaps(results: Sequence[Result]) -> list[Gap]:
    """Return the gaps of all stochastic defences, the largest first, with Holm's correction."""
    by_arm: dict[str, list[Sequence[float]]] = {}
    for result in results:
        if ARMS[result.arm].noisy:
            by_arm.setdefault(result.arm, []).append(gaps(result, result, ONE_DRAW, EOT))
    means = {arm: [sum(image) / len(image) for image in zip(*seeds, strict=True)] for arm, seeds in by_arm.items()}
    adjusted = holm([paired_p(values) for values in means.values()])
    found = []
    for (arm, values), p in zip(means.items(), adjusted, strict=True):
        power = power_of(values, tests=len(means))
        found.append(Gap(arm, mean_difference(values), p, None if power is None else power.detectable))
    return sorted(found, key=lambda gap: -gap.mean.mean)


def answer(found: Sequence[Gap]) -> str:
    """Return the headline in one sentence."""
    over = [gap for gap in found if gap.word == "overstates"]
    sentence = (
        f"Attacked as published, by following single draws, {len(over)} of {len(found)} randomised defences appear"
        " more robust than under gradients averaged over enough draws"
    )
    largest = f", at most by {points(over[0].mean)} points (`{over[0].arm}`)" if over else ""
    return f"{sentence}{largest}."


def gap_rows(found: Sequence[Gap]) -> list[list[str]]:
    """Return the rows of the table of gaps."""
    return [
        [
            gap.arm,
            points(gap.mean),
            f"{gap.p:.2g}",
            "" if gap.detectable is None else f"{100 * gap.detectable:.1f}",
            gap.word,
        ]
        for gap in found
    ]


@own_style()
def make_figure(results: Sequence[Result], found: Sequence[Gap]) -> Figure:
    """Draw the accuracy of every defence under each way to attack it, as a mean over seeds, by the size of the gap."""
    order = [gap.arm for gap in found]
    order += [arm for arm in ARMS if arm not in order and any(result.arm == arm for result in results)]
    figure = new_figure(7.4, 1.2 + 0.3 * len(order))
    axis = figure.subplots()
    style_axis(axis)
    for place, arm in enumerate(order):
        units = [result for result in results if result.arm == arm]
        accuracy = {
            way: 100 * sum(mean_share(unit.right[way]).mean for unit in units) / len(units)
            for way in SHOWN
            if all(way in unit.right for unit in units)
        }
        axis.plot([accuracy[ONE_DRAW], accuracy[EOT]], [place, place], color="grey", linewidth=2.5, alpha=0.5)
        for colour, marker, way in zip(COLOURS, "os^Dv", SHOWN, strict=False):
            if way in accuracy:
                axis.plot(accuracy[way], place, marker, color=colour, markersize=5)
    for colour, marker, way in zip(COLOURS, "os^Dv", SHOWN, strict=False):
        axis.plot([], [], marker, color=colour, label=way)
    axis.set_yticks(range(len(order)), order)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_xlabel("accuracy under attack, %; grey: the gap between the published way and the honest way")
    figure.legend(loc="outside upper center", ncols=len(SHOWN))
    return figure


def page(args: argparse.Namespace, results: Sequence[Result]) -> str:
    """Return the results page."""
    found = measured_gaps(results)
    n = len(results[0].right[CLEAN])
    lines = [
        "# Randomised defences under one protocol",
        "",
        f"**{answer(found)}**",
        "",
        f"![Accuracy of every defence under each way to attack it]({figure_of(args).relative_to(args.page.parent)})",
        "",
        "Written by `benchmarks/papers/randomised_defences.py`; do not edit. Defences start from the same ResNet-20 for"
        f" CIFAR-10 and are trained on {args.limit} images for {args.epochs} epochs, on PGD-7 images alone unless"
        " `without AT`; ensembles and one control are networks of others. All are attacked on the first"
        f" {n} test images in the Linf ball of 8/255, with {args.steps} steps; {args.draws} fresh draws judge, and the"
        f" accuracy is that of a random draw. `{ONE_DRAW}` is the published way. `{EOT}` is the honest way: each"
        " gradient is a mean over as many draws as the check `expectation` asked for. `APGD, EOT` spends as many"
        f" gradients. `{KNOWN}`: the attacker knows the noise; `{OFF}`: the network without its noise; `{VOTE}`: the"
        f" mean probabilities under `{EOT}`. `{WORST}` takes the worst attack of each image, chosen on other draws."
        " These small trainings tell of the ways to attack, not of how robust a defence can be made.",
        "",
        "## What the published way overstates",
        "",
        f"`{ONE_DRAW}` minus `{EOT}` on the same images, p adjusted by Holm for all defences.",
        "",
        *folded("All gaps", table(["defence", "points", "p", "detectable", "the published way"], gap_rows(found))),
        *folded("All accuracies, %", table(["defence", "seed", *WAYS, *FACTS], accuracy_rows(results, WAYS))),
    ]
    return "\n".join(lines)


def figure_of(args: argparse.Namespace) -> Path:
    """The file of the page's figure."""
    figure: Path = args.page.with_suffix(".png")
    return figure


def write_page(args: argparse.Namespace, results: Sequence[Result]) -> None:
    """Write page and figure, once there is a stochastic defence."""
    found = measured_gaps(results)
    if not found:
        print(f"{args.page}: no defence is finished yet", flush=True)
        return
    save_figure(figure_of(args), make_figure(results, found))
    write_text(args.page, page(args, results))


def main(given: Sequence[str] | None = None) -> None:
    """Work until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "randomised_defences", epochs=3, limit=4096, images=500, seeds=1)
    args = parser.parse_args(given)
    bench = Bench(
        kind=Result,
        folder=args.results,
        settings=lambda unit: settings_of(args, ARMS[unit.arm]),
        make=lambda unit: make_unit(args, ARMS[unit.arm], unit, extra=True),
        cost=lambda unit: cost_of(args, ARMS[unit.arm], extra=True),
        write_page=lambda results: write_page(args, results),
    )
    work_through(bench, balanced(ARMS, args.seeds), args.budget, args.partial)


if __name__ == "__main__":
    main()
