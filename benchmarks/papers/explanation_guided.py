"""Compare few-shot training guided by explanations with controls that explain nothing, across domains.

    python benchmarks/papers/explanation_guided.py --budget 60
    python benchmarks/papers/explanation_guided.py --backbone resnet10:size=84 --pretrain 100 --episodes 10000 \\
        --test-episodes 2000 --seeds 5 --device cuda

Every step is a run of `stochx train`, `fsc-train` or `fsc-test`, in a folder below `--output`. Finished runs are kept,
and the same command continues. All arms of a seed start from the same backbone, pretrained on the source domain, and
see the same episodes. A graph network stays at chance for thousands of episodes: its arms start from a network that was
trained for `--start-episodes` without guidance, and a seed that is still at chance then is reported and excluded.
Nothing else is selected: the numbers of epochs and episodes are fixed beforehand. Domains come from STOCHX_SHARED
(default ../shared/data). `--heads` may split the work among processes that share `--output`; the page covers all
finished arms.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands import run  # the module beside this one
from matplotlib.figure import Figure

from stochx.engine.io.store import write_text
from stochx.engine.statistics import estimate
from stochx.reports.figure import save_figure
from stochx.settings import FscTest, FscTrain, Train

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data")) / "fewshot"
SOURCE = "miniimagenet_base"
TARGETS = ("miniimagenet_novel", "caltech101", "grocery", "rsscn7", "omniglot_images_background_small1")
HEADS = {"relation": "relation", "can": "cross-attention:base=64", "gnn": "gnn:transductive=true"}
CONTROLS = ("random", "shuffled")
GUIDES = ("none", "lrp", *CONTROLS)
SHOTS = (1, 5)
START_QUERIES = 4  # per class in the episodes that a graph network starts with, which are cheap
LEARNT = 0.25  # accuracy of 5 ways in the last training episodes that counts as above chance
# Seconds with conv4 at 64 pixels, 5 ways, 5 shots, on one core: an epoch of the backbone, and an episode of training,
# of a graph network's start, and of testing
EPOCH_SECONDS, EPISODE_SECONDS, START_SECONDS, TEST_SECONDS = 12, 0.35, 0.17, 0.1


def domain(name: str) -> str:
    """Return the data set of a domain."""
    return f"zip:path={SHARED / name}.zip" + (",nested=classes" if "omniglot" in name else "")


def pretrain(args: argparse.Namespace, seed: int) -> str:
    """Train the backbone of a seed to classify the source's classes; return its file."""
    folder = args.output / f"backbone-{seed}"
    settings = Train(
        data=domain(SOURCE),
        arch=args.backbone,
        epochs=args.pretrain,
        lr=0.05,
        seed=seed,
        device=args.device,
        output=folder,
    )
    run(settings)
    return str(folder / "model.safetensors")


def make_training(args: argparse.Namespace, seed: int, name: str) -> FscTrain:
    """Return the settings that all few-shot trainings share."""
    return FscTrain(
        data=(domain(SOURCE),),
        shot=args.train_shot,
        validation=0,
        seed=seed,
        device=args.device,
        output=args.output / name,
    )


def start(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train the graph network that the arms of a seed continue from; return its row, with its training accuracy."""
    settings = replace(
        make_training(args, seed, f"gnn-start-{seed}"),
        head=HEADS["gnn"],
        backbone=pretrain(args, seed),
        guide="none",
        queries=START_QUERIES,
        episodes=args.start_episodes,
        every=250,
    )
    row: dict[str, Any] = run(settings)["results"][0]
    return row


def train(args: argparse.Namespace, head: str, guide: str, seed: int) -> str:
    """Train the few-shot network of an arm; return its file."""
    settings = replace(
        make_training(args, seed, f"{head}-{guide}-{seed}"), guide=guide, episodes=args.episodes, every=args.episodes
    )
    if head == "gnn":
        settings = replace(settings, init=start(args, seed)["model"])
    else:
        settings = replace(settings, head=HEADS[head], backbone=pretrain(args, seed))
    run(settings)
    return str(settings.folder / "model.safetensors")


def test(args: argparse.Namespace, head: str, guide: str, seed: int) -> dict[tuple[str, int], float]:
    """Return the accuracy of an arm by domain and shot, on episodes that are the same for all arms and seeds."""
    settings = FscTest(
        model=train(args, head, guide, seed),
        data=tuple(map(domain, TARGETS)),
        shot=SHOTS,
        episodes=args.test_episodes,
        device=args.device,
        output=args.output / f"{head}-{guide}-{seed}-test",
    )
    return {(Path(row["domain"]).stem, row["shot"]): row["accuracy"] for row in run(settings)["results"]}


Results = dict[tuple[str, str, int], dict[tuple[str, int], float]]


def points(values: Sequence[float]) -> str:
    """Format the mean over seeds and its interval, in percentage points."""
    mean = estimate([100 * value for value in values])
    return f"{mean.mean:+.2f} ± {mean.half:.2f}" if mean.n > 1 else f"{mean.mean:+.2f}"


def gaps(
    results: Results, head: str, guide: str, other: str, place: tuple[str, int], seeds: Sequence[int]
) -> list[float]:
    """Return the differences by seed of two guides in a domain, with a number of shots."""
    return [results[head, guide, s][place] - results[head, other, s][place] for s in seeds]


def overall(results: Results, head: str, other: str, seeds: Sequence[int]) -> list[float]:
    """Return `lrp` minus another guide over all domains and shots, by seed."""
    places = [(name, shot) for name in TARGETS for shot in SHOTS]
    by_place = [gaps(results, head, "lrp", other, place, seeds) for place in places]
    return [sum(values) / len(places) for values in zip(*by_place, strict=True)]


def page(args: argparse.Namespace, results: Results, stuck: dict[int, float]) -> str:
    """Return the results page, for the heads and seeds of which all arms are finished.

    `stuck` are the accuracies of graph networks that stayed at chance, by seed.
    """
    seeds = {h: [s for s in range(args.seeds) if all((h, g, s) in results for g in GUIDES)] for h in HEADS}
    lines = [
        "# Few-shot training guided by explanations, across domains",
        "",
        "Written by `benchmarks/papers/explanation_guided.py`; do not edit. Backbone"
        f" `{args.backbone}`, pretrained for {args.pretrain} epochs on the source, {SOURCE} (64 classes of 64 images),"
        f" then trained with the head on {args.episodes} episodes (5-way, {args.train_shot}-shot, 16 queries); tested"
        f" on {args.test_episodes} episodes of 15 queries with classes of other domains (and novel classes of the"
        " source), the same for all. The arms of a seed start from the same backbone and see the same episodes; no"
        " epoch or episode is selected. This is a small setting: accuracies are far below those of full training, and"
        " only the guides are compared.",
        "",
        *(
            [
                f"Graph networks stay at chance for a long time. For each seed one is trained on {args.start_episodes}"
                f" episodes of {START_QUERIES} queries without guidance, and all arms, including `none`, continue from"
                " there: the comparison is of guidance for a network that has already learned something."
                + "".join(
                    f" Seed {seed} was still at chance ({100 * accuracy:.1f} % in training) and is excluded."
                    for seed, accuracy in stuck.items()
                ),
                "",
            ]
            if seeds["gnn"] or stuck
            else []
        ),
        "`lrp` is guidance by explanations (Sun et al., 2020). `random` and `shuffled` are controls: the same weights"
        " in random places, and those of another query. A gain that they share does not come from the explanation. In"
        " cross-attention, gradients pass through the weights of `lrp`, as published; those of the controls are"
        " constants.",
        "",
        "## Accuracy without guidance (%, mean over seeds)",
        "",
        f"| head | seeds | shots | {' | '.join(TARGETS)} |",
        "|---|---|---|" + "---|" * len(TARGETS),
    ]
    for head, finished in seeds.items():
        for shot in SHOTS if finished else ():
            cells = [
                f"{100 * sum(results[head, 'none', s][name, shot] for s in finished) / len(finished):.2f}"
                for name in TARGETS
            ]
            lines.append(f"| {HEADS[head]} | {len(finished)} | {shot} | {' | '.join(cells)} |")
    lines += ["", "## Difference to training without guidance (points; mean and 95 % interval over training seeds)", ""]
    lines += [f"| head | guide | shots | {' | '.join(TARGETS)} | all |", "|---|---|---|" + "---|" * (len(TARGETS) + 1)]
    for head, finished in seeds.items():
        for guide in GUIDES[1:] if finished else ():
            for shot in SHOTS:
                by_place = [gaps(results, head, guide, "none", (name, shot), finished) for name in TARGETS]
                mean = [sum(values) / len(TARGETS) for values in zip(*by_place, strict=True)]
                cells = [points(values) for values in (*by_place, mean)]
                lines.append(f"| {HEADS[head]} | {guide} | {shot} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Explanations compared with controls (points, over all domains and shots; interval over seeds)",
        "",
    ]
    lines += ["| head | lrp - none | lrp - random | lrp - shuffled |", "|---|---|---|---|"]
    for head, finished in seeds.items():
        if finished:
            cells = [points(overall(results, head, other, finished)) for other in ("none", *CONTROLS)]
            lines.append(f"| {HEADS[head]} | {' | '.join(cells)} |")
    lines += ["", verdict(results, seeds), ""]
    if any(len(finished) > 1 for finished in seeds.values()):
        picture = args.page.with_suffix(".png")
        draw(picture, results, {head: finished for head, finished in seeds.items() if len(finished) > 1})
        lines += [f"![Difference to training without guidance, by head, domain and shots]({picture.name})", ""]
    return "\n".join([*lines, "## Published", "", LITERATURE, ""])


def draw(path: Path, results: Results, seeds: dict[str, list[int]]) -> None:
    """Draw points more than without guidance: a panel for each head, a row for each domain and number of shots."""
    figure = Figure(figsize=(4.0 * len(seeds) + 1.6, 5.6), dpi=110, layout="constrained")
    places = [(name, shot) for name in TARGETS for shot in SHOTS]
    panels = figure.subplots(1, len(seeds), sharey=True, squeeze=False)[0]
    for axis, (head, finished) in zip(panels, seeds.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for k, guide in enumerate(GUIDES[1:]):
            values = [[100 * gap for gap in gaps(results, head, guide, "none", place, finished)] for place in places]
            heights = [row + (k - 1) * 0.24 for row in range(len(places))]
            estimates = [estimate(gap) for gap in values]
            means, spans = [e.mean for e in estimates], [e.half for e in estimates]
            axis.errorbar(means, heights, xerr=spans, fmt="o", markersize=4, linewidth=1, color=f"C{k}", label=guide)
            axis.scatter(values, [[height] * len(finished) for height in heights], s=5, color=f"C{k}", alpha=0.45)
        axis.set_title(HEADS[head], fontsize=9)
        axis.set_xlabel("points more than without guidance", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(places)), [f"{short(name)}, {shot}-shot" for name, shot in places])
    panels[0].invert_yaxis()
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    save_figure(path, figure)


def verdict(results: Results, seeds: dict[str, list[int]]) -> str:
    """Return where guidance helps and hurts, by the intervals and signs of differences over seeds."""
    words = {1: "helps", -1: "hurts"}
    significant: dict[str, list[str]] = {word: [] for word in words.values()}
    alike: dict[str, list[str]] = {word: [] for word in words.values()}
    count, by_chance = 0, 0.0
    for head, finished in seeds.items():
        for name, shot in ((name, shot) for name in TARGETS for shot in SHOTS if len(finished) > 1):
            gap = gaps(results, head, "lrp", "none", (name, shot), finished)
            mean, span = estimate(gap).mean, estimate(gap).half
            where, word = f"{bare(head)} on {short(name)} {shot}-shot", words[1 if mean > 0 else -1]
            count, by_chance = count + 1, by_chance + 2.0 ** (1 - len(finished))
            if abs(mean) > span:
                significant[word].append(where)
            if min(gap) > 0 or max(gap) < 0:
                alike[word].append(where)
    if not count:
        return "Fewer than two seeds have run: nothing can be claimed."
    return (
        f"Of {count} combinations of head, domain and shots, the interval over seeds of `lrp` minus `none` excludes 0"
        f" in {listed(significant)}; by chance alone about {count * 0.05:.1f} would. The differences of all seeds have"
        f" the same sign in {listed(alike)}; by chance alone about {by_chance:.1f} would.\n\n"
        "Over all domains and shots:\n\n"
        + "\n".join(f"- {standing(results, head, finished)}" for head, finished in seeds.items() if len(finished) > 1)
    )


def standing(results: Results, head: str, seeds: Sequence[int]) -> str:
    """Return a sentence that compares `lrp` with no guidance and the controls, by their intervals over seeds."""
    places: dict[str, list[str]] = {}
    for other in ("none", *CONTROLS):
        mean = estimate(overall(results, head, other, seeds))
        significant = abs(mean.mean) > mean.half
        word = "not significantly different from"
        if significant:
            word = "better than" if mean.mean > 0 else "worse than"
        places.setdefault(word, []).append(f"`{other}`")
    return (
        f"{bare(head)}: `lrp` is " + "; ".join(f"{word} {', '.join(others)}" for word, others in places.items()) + "."
    )


def short(name: str) -> str:
    """Shorten a domain's name."""
    return name.split("_images")[0]


def bare(head: str) -> str:
    """Return a head's name without its hyperparameters."""
    return HEADS[head].partition(":")[0]


def listed(places: dict[str, list[str]]) -> str:
    """Return the number of places where guidance helps or hurts, and their names."""
    parts = [f"it {word} {', '.join(where)}" for word, where in places.items() if where]
    return f"{sum(map(len, places.values()))} ({'; '.join(parts) or 'none'})"


LITERATURE = """\
ResNet-10 with a graph network, miniImageNet to other domains, 5 ways (rows as collected by a later paper,
StyleAdv, from several sources). The paper's own tables are not available.

| shots | guide | ChestX | ISIC | EuroSAT | CropDisease | CUB | Cars | Places | Plantae |
|---|---|---|---|---|---|---|---|---|---|
| 1 | none | 22.00 | 32.02 | 63.69 | 64.48 | 45.69 | 31.79 | 53.10 | 35.60 |
| 1 | lrp | 22.11 | 30.94 | 54.99 | 59.23 | 48.29 | 32.78 | 54.83 | 37.49 |
| 5 | none | 25.27 | 43.94 | 83.64 | 87.96 | 62.25 | 44.28 | 70.84 | 52.53 |
| 5 | lrp | 24.53 | 44.14 | 77.14 | 86.15 | 64.44 | 46.20 | 74.45 | 54.46 |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="conv4:size=64")
    parser.add_argument("--pretrain", type=int, default=20, help="epochs of the backbone as a classifier")
    parser.add_argument("--episodes", type=int, default=400, help="training episodes")
    parser.add_argument("--start-episodes", type=int, default=4000, help="episodes of gnn before its arms")
    parser.add_argument("--train-shot", type=int, default=5)
    parser.add_argument("--test-episodes", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes on one core; sets --episodes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/explanation_guided"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/explanation_guided.md"))
    args = parser.parse_args()
    if math.isfinite(args.budget):
        heads = args.heads.split(",")
        before = EPOCH_SECONDS * args.pretrain + START_SECONDS * args.start_episodes * ("gnn" in heads)
        arm = (60 * args.budget / args.seeds - before) / (len(heads) * len(GUIDES))
        args.episodes = min(args.episodes, max(50, int((arm - TEST_SECONDS * args.test_episodes) / EPISODE_SECONDS)))
    results: Results = {}
    stuck: dict[int, float] = {}
    for seed in range(args.seeds):
        for head in args.heads.split(","):
            if head == "gnn" and (accuracy := start(args, seed)["train_accuracy"]) <= LEARNT:
                stuck[seed] = accuracy
            else:
                results |= {(head, guide, seed): test(args, head, guide, seed) for guide in GUIDES}
            write_text(args.page, page(args, results, stuck))


if __name__ == "__main__":
    main()
