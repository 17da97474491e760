"""Few-shot training guided by explanations, and by controls that explain nothing, across domains.

    python benchmarks/papers/explanation_guided.py --budget 60
    python benchmarks/papers/explanation_guided.py --backbone resnet10:size=84 --pretrain 100 --episodes 10000 \\
        --test-episodes 2000 --seeds 5 --device cuda

Every step is a `stochx train`, `fsc-train` or `fsc-test` command with its own folder below `--output`. Finished work is
kept, and the same command continues from there. Each seed has one backbone, pretrained on the source domain, from which
all arms of that seed start; the arms of a seed see the same episodes. A graph network stays at chance for thousands of
episodes: the arms of a seed start from one that was trained for `--start-episodes` without guidance; seeds that are
still at chance by then are named and excluded. Otherwise nothing is selected: numbers of epochs and episodes are fixed
beforehand. Domains come from STOCHX_SHARED (default ../shared/data). `--heads` can split the work among processes that
share `--output`; the page is written from all results there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stochx.engine.io.store import atomic, write_text
from stochx.engine.statistics import estimate

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data")) / "fewshot"
SOURCE = "miniimagenet_base"
TARGETS = ("miniimagenet_novel", "caltech101", "grocery", "rsscn7", "omniglot_images_background_small1")
HEADS = {"relation": "relation", "can": "cross-attention:base=64", "gnn": "gnn:transductive=true"}
CONTROLS = ("random", "shuffled")
GUIDES = ("none", "lrp", *CONTROLS)
SHOTS = (1, 5)
START_QUERIES = 4  # of each class in the episodes that a graph network starts with: cheap ones
LEARNT = 0.25  # accuracy of 5 ways in its last training episodes, above which it has left chance
# Seconds with conv4 at 64 pixels, 5 ways, 5 shots, on one core: an epoch of the backbone, a training episode, one of
# those that a graph network starts with, a tested one
PRETRAINED, TRAINED, STARTED, TESTED = 12, 0.35, 0.17, 0.1


def run(args: argparse.Namespace, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run or resume a stochx command in its folder; return its result, read from disk if it is finished."""
    result = folder / "result.json"
    if not result.exists():
        more = ["--resume"] if (folder / "config.toml").exists() else []
        print("$ stochx", *words, "-o", folder, flush=True)
        command = [sys.executable, "-m", "stochx", *words, "--device", args.device, "-o", str(folder), *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def domain(name: str) -> str:
    """A domain's `--data`."""
    return f"zip:path={SHARED / name}.zip"


def pretrained(args: argparse.Namespace, seed: int) -> str:
    """The backbone of a seed: a classifier of the source's classes."""
    folder = args.output / f"backbone-{seed}"
    words = ["train", "--arch", args.backbone, "--data", domain(SOURCE), "--epochs", str(args.pretrain)]
    run(args, [*words, "--lr", "0.05", "--seed", str(seed)], folder)
    return str(folder / "model.safetensors")


def trained(args: argparse.Namespace, head: str, guide: str, seed: int) -> str:
    """The few-shot network of an arm."""
    folder = args.output / f"{head}-{guide}-{seed}"
    words = ["fsc-train", *start(args, head, seed), "--guide", guide]
    words += ["--episodes", str(args.episodes), "--every", str(args.episodes), *common(args, seed)]
    run(args, words, folder)
    return str(folder / "model.safetensors")


def common(args: argparse.Namespace, seed: int) -> list[str]:
    """Options of every few-shot training."""
    return ["--data", domain(SOURCE), "--shot", str(args.train_shot), "--validation", "0", "--seed", str(seed)]


def start(args: argparse.Namespace, head: str, seed: int) -> list[str]:
    """Options that select the network from which the arms of a seed start."""
    if head == "gnn":
        return ["--init", begun(args, seed)["model"]]
    return ["--head", HEADS[head], "--backbone", pretrained(args, seed)]


def begun(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The graph network from which the arms of a seed continue, with its training accuracy."""
    words = ["fsc-train", "--head", HEADS["gnn"], "--backbone", pretrained(args, seed), "--guide", "none"]
    words += ["--queries", str(START_QUERIES), "--episodes", str(args.start_episodes), "--every", "250"]
    found: dict[str, Any] = run(args, [*words, *common(args, seed)], args.output / f"gnn-start-{seed}")["results"][0]
    return found


def tested(args: argparse.Namespace, head: str, guide: str, seed: int) -> dict[tuple[str, int], float]:
    """The accuracy of an arm by domain and shot; the episodes are the same for all arms and seeds."""
    model = trained(args, head, guide, seed)
    words = ["fsc-test", model, "--episodes", str(args.test_episodes)]
    words += [word for name in TARGETS for word in ("--data", domain(name))]
    words += [word for shot in SHOTS for word in ("--shot", str(shot))]
    found = run(args, words, args.output / f"{head}-{guide}-{seed}-test")
    return {(Path(row["domain"]).stem, row["shot"]): row["accuracy"] for row in found["results"]}


Results = dict[tuple[str, str, int], dict[tuple[str, int], float]]


def told(values: Sequence[float]) -> str:
    """Percentage points over seeds: the mean and its interval."""
    found = estimate([100 * value for value in values])
    return f"{found.mean:+.2f} ± {found.ci95:.2f}" if found.n > 1 else f"{found.mean:+.2f}"


def gaps(
    results: Results, head: str, one: str, other: str, place: tuple[str, int], seeds: Sequence[int]
) -> list[float]:
    """Differences by seed of two guides at one place."""
    return [results[head, one, s][place] - results[head, other, s][place] for s in seeds]


def overall(results: Results, head: str, other: str, seeds: Sequence[int]) -> list[float]:
    """`lrp` minus another guide over all domains and shots, by seed."""
    places = [(name, shot) for name in TARGETS for shot in SHOTS]
    by_place = [gaps(results, head, "lrp", other, place, seeds) for place in places]
    return [sum(one) / len(places) for one in zip(*by_place, strict=True)]


def page(args: argparse.Namespace, results: Results, stuck: dict[int, float]) -> str:
    """The results page, for the heads and seeds whose arms are complete.

    `stuck` holds the accuracies of graph networks that were still at chance, by seed.
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
                    f" Seed {seed} was still at chance ({100 * found:.1f} % in training) and is excluded."
                    for seed, found in stuck.items()
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
    for head, some in seeds.items():
        for shot in SHOTS if some else ():
            cells = [
                f"{100 * sum(results[head, 'none', s][name, shot] for s in some) / len(some):.2f}" for name in TARGETS
            ]
            lines.append(f"| {HEADS[head]} | {len(some)} | {shot} | {' | '.join(cells)} |")
    lines += ["", "## Difference to training without guidance (points; mean and 95 % interval over training seeds)", ""]
    lines += [f"| head | guide | shots | {' | '.join(TARGETS)} | all |", "|---|---|---|" + "---|" * (len(TARGETS) + 1)]
    for head, some in seeds.items():
        for guide in GUIDES[1:] if some else ():
            for shot in SHOTS:
                by_place = [gaps(results, head, guide, "none", (name, shot), some) for name in TARGETS]
                mean = [sum(one) / len(TARGETS) for one in zip(*by_place, strict=True)]
                cells = [told(one) for one in (*by_place, mean)]
                lines.append(f"| {HEADS[head]} | {guide} | {shot} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Explanations compared with controls (points, over all domains and shots; interval over seeds)",
        "",
    ]
    lines += ["| head | lrp - none | lrp - random | lrp - shuffled |", "|---|---|---|---|"]
    for head, some in seeds.items():
        if some:
            cells = [told(overall(results, head, other, some)) for other in ("none", *CONTROLS)]
            lines.append(f"| {HEADS[head]} | {' | '.join(cells)} |")
    lines += ["", verdict(results, seeds), ""]
    if any(len(some) > 1 for some in seeds.values()):
        picture = args.page.with_suffix(".png")
        draw(picture, results, {head: some for head, some in seeds.items() if len(some) > 1})
        lines += [f"![Difference to training without guidance, by head, domain and shots]({picture.name})", ""]
    return "\n".join([*lines, "## Published", "", LITERATURE, ""])


def draw(path: Path, results: Results, seeds: dict[str, list[int]]) -> None:
    """Draw the difference to training without guidance: one panel per head, one row per domain and number of shots."""
    figure = Figure(figsize=(4.0 * len(seeds) + 1.6, 5.6), dpi=110, layout="constrained")
    places = [(name, shot) for name in TARGETS for shot in SHOTS]
    panels = figure.subplots(1, len(seeds), sharey=True, squeeze=False)[0]
    for axis, (head, some) in zip(panels, seeds.items(), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for k, guide in enumerate(GUIDES[1:]):
            values = [[100 * gap for gap in gaps(results, head, guide, "none", place, some)] for place in places]
            heights = [row + (k - 1) * 0.24 for row in range(len(places))]
            found = [estimate(one) for one in values]
            means, spans = [one.mean for one in found], [one.ci95 for one in found]
            axis.errorbar(means, heights, xerr=spans, fmt="o", markersize=4, linewidth=1, color=f"C{k}", label=guide)
            axis.scatter(values, [[height] * len(some) for height in heights], s=5, color=f"C{k}", alpha=0.45)
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
    with atomic(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary)


def verdict(results: Results, seeds: dict[str, list[int]]) -> str:
    """The places where guidance helps or hurts, from the numbers alone."""
    words = {1: "helps", -1: "hurts"}
    sure: dict[str, list[str]] = {word: [] for word in words.values()}
    alike: dict[str, list[str]] = {word: [] for word in words.values()}
    count, by_chance = 0, 0.0
    for head, some in seeds.items():
        for name, shot in ((name, shot) for name in TARGETS for shot in SHOTS if len(some) > 1):
            found = gaps(results, head, "lrp", "none", (name, shot), some)
            mean, span = estimate(found).mean, estimate(found).ci95
            where, word = f"{bare(head)} on {short(name)} {shot}-shot", words[1 if mean > 0 else -1]
            count, by_chance = count + 1, by_chance + 2.0 ** (1 - len(some))
            if abs(mean) > span:
                sure[word].append(where)
            if min(found) > 0 or max(found) < 0:
                alike[word].append(where)
    if not count:
        return "Fewer than two seeds have run: nothing can be claimed."
    return (
        f"Of {count} combinations of head, domain and shots, the interval over seeds of `lrp` minus `none` excludes 0"
        f" in {listed(sure)}; by chance alone about {count * 0.05:.1f} would. The differences of all seeds have the"
        f" same sign in {listed(alike)}; by chance alone about {by_chance:.1f} would.\n\n"
        "Over all domains and shots:\n\n"
        + "\n".join(f"- {standing(results, head, some)}" for head, some in seeds.items() if len(some) > 1)
    )


def standing(results: Results, head: str, seeds: Sequence[int]) -> str:
    """A sentence that compares `lrp` with no guidance and the controls, by their intervals over seeds."""
    places: dict[str, list[str]] = {}
    for other in ("none", *CONTROLS):
        found = estimate(overall(results, head, other, seeds))
        sure = abs(found.mean) > found.ci95
        word = "not significantly different from" if not sure else "better than" if found.mean > 0 else "worse than"
        places.setdefault(word, []).append(f"`{other}`")
    return f"{bare(head)}: `lrp` is " + "; ".join(f"{word} {', '.join(some)}" for word, some in places.items()) + "."


def short(name: str) -> str:
    """The short name of a domain."""
    return name.split("_images")[0]


def bare(head: str) -> str:
    """A head's name without its settings."""
    return HEADS[head].partition(":")[0]


def listed(found: dict[str, list[str]]) -> str:
    """The number of places where guidance helps or hurts, and their names."""
    parts = [f"it {word} {', '.join(where)}" for word, where in found.items() if where]
    return f"{sum(map(len, found.values()))} ({'; '.join(parts) or 'none'})"


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
    parser.add_argument("--start-episodes", type=int, default=4000, help="unguided episodes before the arms of gnn")
    parser.add_argument("--train-shot", type=int, default=5)
    parser.add_argument("--test-episodes", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes on one core; sets the episodes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/explanation_guided"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/explanation_guided.md"))
    args = parser.parse_args()
    if math.isfinite(args.budget):
        heads = args.heads.split(",")
        before = PRETRAINED * args.pretrain + STARTED * args.start_episodes * ("gnn" in heads)
        arm = (60 * args.budget / args.seeds - before) / (len(heads) * len(GUIDES))
        args.episodes = min(args.episodes, max(50, int((arm - TESTED * args.test_episodes) / TRAINED)))
    results: Results = {}
    stuck: dict[int, float] = {}
    for seed in range(args.seeds):
        for head in args.heads.split(","):
            if head == "gnn" and (found := begun(args, seed)["train_accuracy"]) <= LEARNT:
                stuck[seed] = found
            else:
                results |= {(head, guide, seed): tested(args, head, guide, seed) for guide in GUIDES}
            write_text(args.page, page(args, results, stuck))


if __name__ == "__main__":
    main()
