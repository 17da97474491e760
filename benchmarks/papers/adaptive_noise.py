"""Compare adaptive noise and its rivals with adversarial training of equal time and of equal steps.

    python benchmarks/papers/adaptive_noise.py --budget 60
    python benchmarks/papers/adaptive_noise.py --epochs 40 --limit 50000 --images 10000 --device cuda --results DIR

Every arm starts from the same teacher. An arm with one training seed is a unit of work: a run of `stochx distill` and
several of `stochx attack`, whose outcome is kept in a small file below `--results`. The same command goes on with the
next unit, on any machine that has these files; with `--partial` also with one that was begun and is below `--output`.
Every gradient of a stochastic network is a mean over as many draws as the check `expectation` asks for. The number of
epochs is fixed beforehand, since the teacher has seen every training image. The page is left alone until the two arms
of the claim are there for one seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from claims import Claim, Verdict, judge  # the modules beside this one
from matplotlib.figure import Figure
from noise_arms import (
    APGD,
    CLEAN,
    EOT,
    ONE_DRAW,
    TRAINING,
    VOTE,
    WORST,
    Arm,
    add_options,
    balanced,
    cost_of,
    make_unit,
    settings_of,
)
from units import Bench, Result, folded, percent, points, table, work_through

from stochx.engine.io.files import write_text
from stochx.engine.statistics import SIGNIFICANT, mean_share
from stochx.reports.figure import new_figure, own_style, save_figure, style_axis
from stochx.reports.palette import COLOURS

SLOWER = TRAINING["adaptive"] / TRAINING["none"]  # how much longer a step with adaptive noise takes
AVERAGE, AWP = 0.995, 0.01  # of today's recipe
CLAIM, EQUAL_TIME, EQUAL_STEPS = "adaptive + AT", "AT, equal time", "AT, equal steps"
TODAY = ", today's recipe"
ARMS = {
    CLAIM: Arm("adaptive"),
    EQUAL_TIME: Arm(times=SLOWER),
    EQUAL_STEPS: Arm(),
    CLAIM + TODAY: Arm("adaptive", average=AVERAGE, awp=AWP),
    EQUAL_TIME + TODAY: Arm(times=SLOWER, average=AVERAGE, awp=AWP),
    EQUAL_STEPS + TODAY: Arm(average=AVERAGE, awp=AWP),
    "PNI weight + AT": Arm("pni:on=weight,granularity=channel"),
    "Learn2Perturb + AT": Arm("learn2perturb"),
}
BOTH = (EOT, APGD)
CLAIMS = [
    Claim(CLAIM, EQUAL_TIME, BOTH),
    Claim(CLAIM, EQUAL_STEPS, BOTH),
    Claim(CLAIM + TODAY, EQUAL_TIME + TODAY, BOTH),
    Claim(CLAIM + TODAY, EQUAL_STEPS + TODAY, BOTH),
    Claim(CLAIM, "PNI weight + AT", BOTH),
    Claim(CLAIM, "Learn2Perturb + AT", BOTH),
]
WAYS = (CLEAN, ONE_DRAW, EOT, APGD, WORST, VOTE)

LITERATURE = """\
| CIFAR-10, ResNet-20 unless stated, without EOT | clean | FGSM | PGD-7 | source |
|---|---|---|---|---|
| adversarial training | 83.84 | 46.55 | 39.14 ± .05 | He et al. 2019, table 2 |
| PNI weight, noise on / off | 84.89 / 85.48 | 54.48 / 42.55 | 45.94 / 31.45 | table 2 |
| PNI activation, layer, on / off | 85.22 / 85.20 | 51.41 / 44.32 | 43.83 / 33.93 | table 2 |
| RSE (ResNeXt) | 87.5 | | 40 | table 6 |
| Adv-BNN (VGG-16) | 79.7 | | 45.4 | table 6 |
| PreActResNet-18, adversarial training, best / last | 82.9 / 84.9 | | 53.5 / 45.6 (PGD-10) | Rice et al. 2020 |"""


def answer(verdict: Verdict) -> str:
    """Return the verdict on a claim as one sentence."""
    claim, n = verdict.claim, verdict.differences[0].mean.n
    seeds = len(verdict.differences[0].seeds)
    found = " and ".join(f"{points(d.mean)} under {d.way}" for d in verdict.differences)
    limit = ""
    if verdict.word == "undecided" and verdict.detectable is not None:
        limit = f"; a difference of {100 * verdict.detectable:.1f} points would have been found in four of five cases"
    return (
        f"That `{claim.first}` withstands attacks better than `{claim.second}` is {verdict.word}: {found}, in points on"
        f" {n} images with {seeds} training seed{'s' if seeds > 1 else ''}{limit}."
    )


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return the rows of the table of claims."""
    return [
        [
            f"`{verdict.claim.first}` beats `{verdict.claim.second}`",
            difference.way,
            points(difference.mean),
            ", ".join(f"{100 * value:+.1f}" for value in difference.seeds),
            points(difference.over_seeds) if len(difference.seeds) > 1 else "",
            f"{difference.p:.2g}",
            "" if difference.detectable is None else f"{100 * difference.detectable:.1f}",
            verdict.word,
        ]
        for verdict in verdicts
        for difference in verdict.differences
    ]


@own_style()
def make_figure(verdicts: Sequence[Verdict]) -> Figure:
    """Draw every difference with its interval over images, and its seeds as open circles."""
    cases = [(verdict, difference) for verdict in verdicts for difference in verdict.differences]
    figure = new_figure(7.4, 0.8 + 0.34 * len(cases))
    axis = figure.subplots()
    style_axis(axis)
    axis.axvline(0, color="black", linewidth=0.8)
    for place, (_, difference) in enumerate(cases):
        colour, mean = COLOURS[BOTH.index(difference.way)], difference.mean
        axis.plot([100 * mean.low, 100 * mean.high], [place, place], color=colour)
        axis.plot(100 * mean.mean, place, "o", color=colour, markersize=5)
        seeds = [100 * value for value in difference.seeds]
        axis.plot(seeds, [place] * len(seeds), "o", markerfacecolor="none", markeredgecolor="grey", linestyle="")
    labels = [f"{verdict.claim.first}\nminus {verdict.claim.second}" for verdict in verdicts]
    axis.set_yticks([len(BOTH) * k + (len(BOTH) - 1) / 2 for k in range(len(verdicts))], labels)
    axis.invert_yaxis()
    axis.set_xlabel("difference in robust accuracy, points: filled, all seeds with 95 % over images; open, each seed")
    for colour, way in zip(COLOURS, BOTH, strict=False):
        axis.plot([], [], "o-", color=colour, label=way)
    figure.legend(loc="outside upper center", ncols=len(BOTH))
    return figure


def accuracy_rows(results: Sequence[Result], ways: Sequence[str]) -> list[list[str]]:
    """Return a row for each unit: its accuracy in every way, the draws of a gradient, its checks and its minutes."""
    rows = []
    for result in results:
        checks = {check["name"]: check["verdict"] for check in result.checks}
        rows.append(
            [
                result.arm,
                str(result.seed),
                *(percent(mean_share(result.right[way])) if way in result.right else "" for way in ways),
                str(result.draws),
                *(checks.get(name, "") for name in ("expectation", "planted")),
                *(f"{result.seconds[part] / 60:.0f}" if part in result.seconds else "" for part in SPENT),
            ]
        )
    return rows


SPENT = ("training", "attacks")
FACTS = ("draws a gradient", "expectation", "planted", *(f"{part}, min" for part in SPENT))


def page(args: argparse.Namespace, results: Sequence[Result]) -> str:
    """Return the results page."""
    verdicts = judge(CLAIMS, results)
    lines = [
        "# Adaptive noise and its alternatives under attack",
        "",
        f"**{answer(verdicts[0])}**",
        "",
        f"![Differences in robust accuracy between pairs of arms]({figure_of(args).relative_to(args.page.parent)})",
        "",
        *(f"- {answer(verdict)}" for verdict in verdicts[1:]),
        "",
        "Written by `benchmarks/papers/adaptive_noise.py`; do not edit. Every arm starts from the same ResNet-20 for"
        f" CIFAR-10 and is trained on {args.limit} images, for {args.epochs} epochs on PGD-7 images alone; `equal time`"
        f" for {SLOWER:.2g} times the epochs. Today's recipe is an average of the weights ({AVERAGE}) and"
        f" AWP ({AWP}). Attacks take {args.steps} steps in the Linf ball of 8/255; {args.draws} fresh draws"
        " judge. EOT: each gradient is a mean over as many draws as the check `expectation` asked for."
        " A claim is supported or refuted if under both attacks p < "
        f"{SIGNIFICANT}, adjusted by Holm for all differences of the page, and if every training seed has the same"
        " sign. Intervals are over images for these training seeds; few seeds say little about others, see the"
        " interval over seeds.",
        "",
        *folded(
            "All differences",
            table(
                ["claim", "attack", "points", "by seed", "95 % over seeds", "p", "detectable", "verdict"],
                verdict_rows(verdicts),
            ),
        ),
        *folded("All arms", table(["arm", "seed", *WAYS, *FACTS], accuracy_rows(results, WAYS))),
        *folded("Published", LITERATURE.splitlines()),
    ]
    return "\n".join(lines)


def figure_of(args: argparse.Namespace) -> Path:
    """The file of the page's figure."""
    figure: Path = args.page.with_name(f"{args.page.stem}-differences.png")
    return figure


def write_page(args: argparse.Namespace, results: Sequence[Result]) -> None:
    """Write page and figure, once the arms of the claim have a seed in common."""
    if not judge(CLAIMS[:1], results):
        print(f"{args.page}: left alone until both arms of the claim are there", flush=True)
        return
    save_figure(figure_of(args), make_figure(judge(CLAIMS, results)))
    write_text(args.page, page(args, results))


def main(given: Sequence[str] | None = None) -> None:
    """Work until the budget is spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "adaptive_noise", epochs=3, limit=16_384, images=2000, seeds=3)
    args = parser.parse_args(given)
    bench = Bench(
        kind=Result,
        folder=args.results,
        settings=lambda unit: settings_of(args, ARMS[unit.arm]),
        make=lambda unit: make_unit(args, ARMS[unit.arm], unit, extra=False),
        cost=lambda unit: cost_of(args, ARMS[unit.arm], extra=False),
        write_page=lambda results: write_page(args, results),
    )
    work_through(bench, balanced(ARMS, args.seeds), args.budget, args.partial)


if __name__ == "__main__":
    main()
