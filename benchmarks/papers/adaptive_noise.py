"""Adaptive noise and its alternatives, compared with adversarial fine-tuning of the teacher at equal cost.

    python benchmarks/papers/adaptive_noise.py --budget 60 --ranks 2
    python benchmarks/papers/adaptive_noise.py --epochs 40 --limit 50000 --images 10000 --device cuda

Every arm is a `stochx distill` and a `stochx attack` command with its own folder below `--output`. Finished work is
kept: the same command continues from there, and the page is rewritten from all results. The number of epochs is fixed
beforehand and nothing is selected: the teacher has seen every training image. A budget in minutes sets the number of
training images and attacked images. Teacher and data come from STOCHX_SHARED (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stochx.engine.io.store import write_text
from stochx.engine.statistics import clustered, holm, paired_p, student
from stochx.reports.attacks import draw_sweep

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
MADRY = ["--adversarial", "pgd:steps=7", "--recipe", "madry"]
BASE, CLAIM = "AT, equal time", "adaptive + AT"
SLOWER = 7 / 3  # how much longer a step with adaptive noise takes: 160 to 70 images/s on one core of a CPU


@dataclass(frozen=True)
class Arm:
    """One student: its noise, how it is trained and for how many times the epochs; `first` ones are always run."""

    noise: str
    training: Sequence[str]
    first: bool = False
    times: float = 1.0


ARMS = {
    "AT": Arm("none", MADRY, first=True),
    BASE: Arm("none", MADRY, first=True, times=SLOWER),
    CLAIM: Arm("adaptive", MADRY, first=True),
    "PNI weight + AT": Arm("pni:on=weight,granularity=channel", MADRY, first=True),
    "PNI activation + AT": Arm("pni:on=activation,granularity=layer", MADRY),
    "RSE + AT": Arm("gaussian", MADRY),
    "Learn2Perturb + AT": Arm("learn2perturb", MADRY),
    "RSE": Arm("gaussian", ["--adversarial", "none"], first=True),
    "adaptive": Arm("adaptive", ["--adversarial", "none"]),
}
FACTORS = {  # what the ablation turns on and off: teacher initialisation, distillation, noise, adversarial training
    "init": (["--init", "random"], ["--init", "teacher"]),
    "kd": (["--kd", "none"], ["--kd", "tau=4,weight=0.9"]),
    "noise": (["--noise", "none"], ["--noise", "adaptive"]),
    "at": (["--adversarial", "none"], MADRY),
}
ATTACKS = ["fgsm", "pgd:steps=7,step=0.319", "pgd:steps=20"]  # 0.319 of 8/255 is the literature's step of 0.01
NOISY = ["pgd:steps=20,eot=5", "pgd:steps=20,eot=20", "apgd:steps=20,eot=10"]
BETAS = (0.05, 0.1, 0.2, 0.5, 1.0)
QUIET = ["apgd:steps=20"]  # a deterministic network's, where draws are all alike
STRONG = ["pgd:steps=20,eot=50", "apgd:steps=100,eot=20,loss=dlr"]
STRONG_QUIET = ["pgd:steps=100", "apgd:steps=100,loss=dlr"]


@dataclass(frozen=True)
class Work:
    """The work of every arm: epochs over `limit` training images, `images` attacked, `draws` judging."""

    epochs: int
    limit: int
    images: int
    draws: int
    attacks: Sequence[str]


def planned(args: argparse.Namespace) -> Work:
    """Plan the work as typed, or as the budget allows: two thirds of it for training, one third for attacks.

    The costs are of ResNet-20 on one core of a laptop, in seconds an image: 0.012 for PGD-7 training, 1.3 for all
    attacks of a stochastic network.
    """
    if math.isinf(args.budget):
        return Work(args.epochs, args.limit, args.images, args.draws, NOISY)
    arms = sum(arm.first for arm in ARMS.values())
    seconds = 60 * args.budget * args.ranks / arms
    limit = min(args.limit, max(256, int(seconds * 2 / 3 / 0.012 / args.epochs) // 128 * 128))
    images = min(args.images, max(32, int(seconds / 3 / 1.3)))
    return Work(args.epochs, limit, images, args.draws, NOISY)


def run(args: argparse.Namespace, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run or resume a stochx command in its folder; return its result, read from disk if it is finished."""
    result = folder / "result.json"
    if not result.exists():
        start = [sys.executable, "-m", "stochx"]
        if args.ranks > 1:
            start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(args.ranks), "-m", "stochx"]
        more = ["--resume"] if (folder / "config.toml").exists() else []
        print("$ stochx", *words, "-o", folder, flush=True)
        subprocess.run([*start, *words, "-o", str(folder), *more], check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def student_words(args: argparse.Namespace, work: Work, options: Sequence[str], times: float = 1.0) -> list[str]:
    """The `stochx distill` command of an arm."""
    return [
        *("distill", "--teacher", args.teacher, "--data", args.data, "--epochs", str(round(times * work.epochs))),
        *("--limit", str(work.limit), "--precision", args.precision, "--device", args.device, "--seed", str(args.seed)),
        *("--average", "0.995", "--draws", "3", "--validation", "0", "--save-epochs", *options),
    ]


def attack_words(args: argparse.Namespace, work: Work, model: str, attacks: Sequence[str]) -> list[str]:
    """The `stochx attack` command that judges an arm."""
    return [
        *("attack", model, "--data", args.data, "--limit", str(work.images), "--draws", str(work.draws)),
        *("--precision", args.precision, "--device", args.device, "--seed", str(args.seed), "--checks", "none"),
        *(word for text in attacks for word in ("-a", text)),
    ]


def arm(args: argparse.Namespace, work: Work, name: str, options: Sequence[str], times: float = 1.0) -> dict[str, Any]:
    """Train and attack one student."""
    folder = args.output / folder_of(name)
    trained = run(args, student_words(args, work, options, times), folder / "student")
    model = folder / "student" / "student.safetensors"
    return {"trained": trained, **judged(args, work, str(model), folder / "attack")}


def folder_of(name: str) -> str:
    """The folder of an arm."""
    return name.replace(" ", "").replace("+", "-").replace(",", "-").lower()


def judged(
    args: argparse.Namespace, work: Work, model: str, folder: Path, attacks: Sequence[str] = ()
) -> dict[str, Any]:
    """The attacks on one network, by default those of all arms, and their records."""
    from stochx.loading import load_model

    noisy = load_model(model).noise != "none"
    attacks = attacks or [*ATTACKS, *(work.attacks if noisy else QUIET)]
    attacked = run(args, attack_words(args, work, model, attacks), folder)
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {"attacked": attacked, "records": {"lines": [json.loads(line) for line in lines]}}


def rows_of(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """An attacked network's rows by attack."""
    return {row["attack"]: row for row in found["attacked"]["results"]}


def share(row: Mapping[str, Any], low: str = "low", mean: str = "robust") -> str:
    """A percentage with the half-width of its interval."""
    return f"{100 * row[mean]:.1f} ± {100 * (row[mean] - row[low]):.1f}"


def figures(args: argparse.Namespace, work: Work) -> list[str]:
    """Accuracy over the degree of noise, and what adversarial training does to the teacher's decision planes."""
    images = ["--data", args.data, "--device", args.device, "--seed", str(args.seed)]
    student = args.output / folder_of(CLAIM) / "student" / "student.safetensors"
    epochs = sorted((args.output / folder_of(BASE) / "student" / "checkpoints").glob("*.safetensors"))
    trend = ["attack", str(student), "-a", "pgd:steps=20,eot=5", "--sweep", "noise=0:2:0.5", *images]
    change = ["boundary", *map(str, epochs), *images, "--images", "0,1,2,3,4,5,6,7", "--plane", "gradient"]
    made = [
        (
            [*trend, "--limit", str(work.images), "--draws", str(work.draws), "--checks", "none"],
            "trend",
            "sweep.png",
            f"`{CLAIM}`, trained at degree 1 of its noise, attacked at several degrees.",
        ),
        (
            [*change, "--resolution", "60", "--animate"],
            "epochs",
            "evolution.png",
            f"The teacher under adversarial training (`{BASE}`), epoch by epoch, on gradient planes of eight images:"
            " agreement with the teacher, regions, confidence, and the distance to the boundary, where the median"
            " over images lies within the plane.",
        ),
    ]
    lines = ["## Figures", ""]
    for words, name, file, text in made:
        run(args, words, args.output / name)
        target = args.page.parent / f"{args.page.stem}-{name}.png"
        target.write_bytes((args.output / name / file).read_bytes())
        lines += [text, "", f"![{name}]({target.name})", ""]
    return lines


WORST = "worst case over all attacks for each image"
JUDGED = {"pgd:steps=20,eot=20": "pgd:steps=20", "apgd:steps=20,eot=10": "apgd:steps=20"}  # of noise, and without


def gaps(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[float]]:
    """Differences of robust correctness by image, first minus second, under the same attacks, with EOT for noise."""

    def left(found: Mapping[str, Any], of: str) -> list[float]:
        attacks = found["records"]["lines"][0]["attacks"]
        name = of if of in attacks else JUDGED.get(of, of)
        return [float(r["worst"] if of == WORST else r["attacks"][name]["correct"]) for r in found["records"]["lines"]]

    return {of: [a - b for a, b in zip(left(first, of), left(second, of), strict=True)] for of in (*JUDGED, WORST)}


def claims(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Paired differences to the deterministic baseline, and the smallest ones that n images can show."""
    lines = [
        f"| arm | attack | points minus `{BASE}` | p | smallest difference detected with 80 % power |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.items():
        if name == BASE:
            continue
        for of, gap in gaps(found, results[BASE]).items():
            told, p = clustered(gap), paired_p(gap)
            spread = (sum((g - told.mean) ** 2 for g in gap) / (len(gap) - 1) / len(gap)) ** 0.5
            least = 100 * (student(len(gap) - 1) + 0.84) * spread
            difference = f"{100 * told.mean:+.1f} ({100 * told.low:+.1f} to {100 * told.high:+.1f})"
            lines.append(f"| {name} | {of if of == WORST else f'`{of}`'} | {difference} | {p:.2g} | {least:.1f} |")
    return lines


LITERATURE = """\
| CIFAR-10, ResNet-20 unless stated, without EOT | clean | FGSM | PGD-7 | source |
|---|---|---|---|---|
| adversarial training | 83.84 | 46.55 | 39.14 ± .05 | He et al. 2019, table 2 |
| PNI weight, noise on / off | 84.89 / 85.48 | 54.48 / 42.55 | 45.94 / 31.45 | table 2 |
| PNI activation, layer, on / off | 85.22 / 85.20 | 51.41 / 44.32 | 43.83 / 33.93 | table 2 |
| RSE (ResNeXt) | 87.5 | | 40 | table 6 |
| Adv-BNN (VGG-16) | 79.7 | | 45.4 | table 6 |
| PreActResNet-18, adversarial training, best / last | 82.9 / 84.9 | | 53.5 / 45.6 (PGD-10) | Rice et al. 2020 |"""


def page(args: argparse.Namespace, work: Work, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results page."""
    minutes = sum(part["seconds"] for found in results.values() for part in found.values() if "seconds" in part) / 60
    texts = list(dict.fromkeys(text for found in results.values() for text in rows_of(found) if text != "worst"))
    lines = [
        "# Adaptive noise and its alternatives under attack",
        "",
        "Written by `benchmarks/papers/adaptive_noise.py`; do not edit. Every student starts from the same teacher, a"
        f" ResNet-20 for CIFAR-10, is trained on {work.limit} images for {work.epochs} epochs (the same images in the"
        " same order; soft labels of the teacher with tau 4, weight 0.9; EMA decay 0.995; the number of epochs"
        f" is fixed beforehand, nothing is selected), and is attacked on the first {work.images} test images in the"
        " Linf ball of 8/255. `+ AT`: trained on PGD-7 images alone (Madry et al., 2018), crafted with the noise on."
        f" Numbers are percentages with 95 % intervals over images; stochastic students are judged by {work.draws}"
        f" fresh draws, and their accuracy is that of a random draw. Training in {args.precision}, verdicts in fp32;"
        f" seed {args.seed}, {minutes:.0f} minutes in all, one process each, on a machine shared with other work."
        " `worst` takes for each image the attack that is worst on other draws than those that judge it: as both are"
        " noisy, it can lie above a single attack.",
        "",
        "The claim to test: adaptive noise with teacher initialisation beats the deterministic baseline of equal cost"
        f" under EOT and APGD with EOT on fresh draws. A step with adaptive noise takes {SLOWER:.1f} times as long on a"
        f" CPU: `{BASE}` is trained for that many times the epochs of the others, `AT` for the same number.",
        "",
        "| arm | noise | clean | " + " | ".join(f"`{t}`" for t in texts) + " | worst | worst, noise off | min |",
        "|---|---|---|" + "---|" * (len(texts) + 3),
    ]
    for name, found in results.items():
        rows = rows_of(found)
        worst = rows["worst"]
        off = worst.get("robust_off")
        spent = found.get("trained", {}).get("seconds")
        cells = [
            name,
            f"`{ARMS[name].noise}`" if name in ARMS else "none",
            share(worst, "clean_low", "clean"),
            *(share(rows[text]) if text in rows else "" for text in texts),
            share(worst),
            "" if off is None else f"{100 * off:.1f}",
            "" if spent is None else f"{spent / 60:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Paired differences on the same images", "", *claims(results), "", verdict(results), ""]
    return "\n".join([*lines, "## Published", "", LITERATURE, ""])


def verdict(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict on the claim, from the numbers alone: it must hold under both attacks."""
    if CLAIM not in results or BASE not in results:
        return "The claim was not tested: its arms have not run yet."
    found = {of: gap for of, gap in gaps(results[CLAIM], results[BASE]).items() if of != WORST}
    p = holm([paired_p(gap) for gap in found.values()])
    means = [sum(gap) / len(gap) for gap in found.values()]
    sure = all(value < 0.05 for value in p)
    word = "support" if sure and min(means) > 0 else "contradict" if sure and max(means) < 0 else "do not decide"
    told = "; ".join(
        f"under `{of}` {100 * mean:+.1f} points (p = {value:.2g})"
        for of, mean, value in zip(found, means, p, strict=True)
    )
    n = len(next(iter(found.values())))
    return (
        f"`{CLAIM}` minus `{BASE}`: {told}; n = {n}, p adjusted by Holm for two attacks. These images and this one"
        f" training seed {word} the claim."
    )


def strong(args: argparse.Namespace, work: Work) -> list[str]:
    """The claim's two arms under attacks with many draws and many steps."""
    lines = ["## Stronger attacks on the two arms of the claim", "", "| arm | attack | robust |", "|---|---|---|"]
    found = {}
    for name, attacks in ((BASE, STRONG_QUIET), (CLAIM, STRONG)):
        model = args.output / folder_of(name) / "student" / "student.safetensors"
        found[name] = judged(args, work, str(model), args.output / folder_of(name) / "strong", attacks)
        lines += [f"| {name} | `{text}` | {share(row)} |" for text, row in rows_of(found[name]).items()]
    pairs = zip(STRONG, STRONG_QUIET, strict=True)
    left = {name: [r["attacks"] for r in one["records"]["lines"]] for name, one in found.items()}
    lines.append("")
    for noisy, quiet in pairs:
        images = zip(left[CLAIM], left[BASE], strict=True)
        gap = [float(a[noisy]["correct"]) - float(b[quiet]["correct"]) for a, b in images]
        told, p = clustered(gap), paired_p(gap)
        lines.append(
            f"- `{noisy}` against `{quiet}`: {100 * told.mean:+.1f} points"
            f" ({100 * told.low:+.1f} to {100 * told.high:+.1f}), p = {p:.2g}"
        )
    return [*lines, ""]


def across_seeds(args: argparse.Namespace, work: Work) -> list[str]:
    """The claim's two arms trained again with other seeds: the difference of each pair, and its mean over the seeds."""
    columns = ("clean", *JUDGED)
    lines = [
        f"## `{CLAIM}` minus `{BASE}`, trained with {args.seeds} seeds",
        "",
        f"| seed | {' | '.join(f'`{c}`' for c in columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    differences: dict[str, list[float]] = {column: [] for column in columns}
    for seed in range(args.seed, args.seed + args.seeds):
        own = argparse.Namespace(**{**vars(args), "seed": seed})
        more = "" if seed == args.seed else f" seed={seed}"
        pair = {}
        for name in (CLAIM, BASE):
            one = ARMS[name]
            pair[name] = arm(own, work, name + more, ["--noise", one.noise, *one.training], one.times)
        for of, gap in gaps(pair[CLAIM], pair[BASE]).items():
            if of != WORST:
                differences[of].append(sum(gap) / len(gap))
        ours, theirs = (rows_of(pair[name])["worst"]["clean"] for name in (CLAIM, BASE))
        differences["clean"].append(ours - theirs)
        lines.append(f"| {seed} | {' | '.join(f'{100 * differences[c][-1]:+.1f}' for c in columns)} |")
    means = []
    for column in columns:
        told = clustered(differences[column])
        means.append(f"{100 * told.mean:+.1f} ({100 * told.low:+.1f} to {100 * told.high:+.1f})")
    lines.append(f"| mean, 95 % over seeds | {' | '.join(means)} |")
    return [*lines, "", "The deterministic network is attacked without EOT.", ""]


def tied(args: argparse.Namespace, work: Work) -> list[str]:
    """The trend curve over the degree of stochasticity, where students are trained at the degree they are used at."""
    rows, lines = [], ["| beta | clean | `pgd:steps=20,eot=20` | worst | worst, noise off |", "|---|---|---|---|---|"]
    for beta in BETAS:
        found = arm(args, work, f"tied beta={beta}", ["--noise", f"adaptive:beta={beta}", *MADRY])
        shown = ("fgsm", "pgd:steps=20", "pgd:steps=20,eot=20", "worst")
        by_attack = rows_of(found)
        rows += [row | {"degree": beta} for row in by_attack.values() if row["attack"] in shown]
        worst = by_attack["worst"]
        cells = [str(beta), share(worst, "clean_low", "clean"), share(by_attack[shown[2]]), share(worst)]
        lines.append(f"| {' | '.join(cells)} | {100 * worst['robust_off']:.1f} |")
    target = args.page.parent / f"{args.page.stem}-tied.png"
    draw_sweep(target, rows, "beta, trained and attacked at")
    text = (
        "Students trained and attacked at the same beta, with the madry recipe;"
        f" {work.limit} training images, {work.images} attacked images."
    )
    return ["## Trained and attacked at the same degree", "", text, "", *lines, "", f"![tied]({target.name})", ""]


def factorial(args: argparse.Namespace, work: Work) -> dict[str, dict[str, Any]]:
    """All sixteen combinations of initialisation, distillation, noise and adversarial training."""
    results = {}
    for code in range(2 ** len(FACTORS)):
        on = [code >> k & 1 for k in range(len(FACTORS))]
        options = [word for level, choices in zip(on, FACTORS.values(), strict=True) for word in choices[level]]
        name = "ablation " + " ".join(f"{key}={level}" for key, level in zip(FACTORS, on, strict=True))
        results[name] = arm(args, work, name, options)
    return results


def factorial_page(work: Work, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table of the ablation, and the mean effect of each factor on clean accuracy and the worst case."""
    lines = [f"| {' | '.join(FACTORS)} | clean | worst |", "|---|" + "---|" * (len(FACTORS) + 1)]
    values = []
    for name, found in results.items():
        on = [int(part[-1]) for part in name.split()[1:]]
        worst = rows_of(found)["worst"]
        values.append((on, worst["clean"], worst["robust"]))
        factors = " | ".join("yes" if level else "no" for level in on)
        lines.append(f"| {factors} | {share(worst, 'clean_low', 'clean')} | {share(worst)} |")
    lines += ["", "| mean effect of | clean, points | worst, points |", "|---|---|---|"]
    for k, key in enumerate(FACTORS):
        effects = (sum((1 if on[k] else -1) * pair[i] for on, *pair in values) / (len(values) / 2) for i in (0, 1))
        lines.append(f"| {key} | {' | '.join(f'{100 * effect:+.1f}' for effect in effects)} |")
    about = f"{work.limit} training images for {work.epochs} epochs, {work.images} attacked images, one seed."
    return ["## Ablation: all combinations of the parts", "", about, "", *lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(SHARED / "weights_cifar10" / "resnet20.safetensors"))
    parser.add_argument("--data", default=f"cifar10:root={SHARED / 'cifar10'}")
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes; sets the number of images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=50_000, help="training images")
    parser.add_argument("--images", type=int, default=10_000, help="attacked test images")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ranks", type=int, default=1, help="processes, under torchrun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--strong", action="store_true", help="add attacks with 50 draws, and with 100 steps")
    parser.add_argument("--seeds", type=int, default=1, help="train the two arms of the claim with N seeds")
    parser.add_argument("--tied", action="store_true", help="add students trained at several degrees of noise")
    parser.add_argument("--ablation", action="store_true", help="add all combinations of the four factors")
    parser.add_argument("--side-limit", type=int, default=50_000, help="training images of these two")
    parser.add_argument("--side-images", type=int, default=10_000, help="attacked test images of these two")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/adaptive_noise"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/adaptive_noise.md"))
    args = parser.parse_args()
    begun, work = time.time(), planned(args)
    deadline = begun + 60 * args.budget
    print(work, flush=True)
    results: dict[str, dict[str, Any]] = {"teacher": judged(args, work, args.teacher, args.output / "teacher")}
    for name, one in sorted(ARMS.items(), key=lambda item: not item[1].first):
        if not one.first and time.time() > deadline:
            print(f"{name}: skipped, the budget is spent", flush=True)
            continue
        results[name] = arm(args, work, name, ["--noise", one.noise, *one.training], one.times)
        if BASE in results:
            text = page(args, work, results)
            write_text(args.page, text)
    side = replace(work, limit=min(work.limit, args.side_limit), images=min(work.images, args.side_images))
    parts: dict[str, Callable[[], list[str]]] = {
        "strong": lambda: strong(args, work),
        "seeds": lambda: across_seeds(args, work),
        "tied": lambda: tied(args, side),
        "ablation": lambda: factorial_page(side, factorial(args, side)),
        "figures": lambda: figures(args, work),
    }
    wanted = {
        "strong": args.strong,
        "seeds": args.seeds > 1,
        "tied": args.tied,
        "ablation": args.ablation,
        "figures": not args.no_figures,
    }
    for name, make in parts.items():
        if wanted[name]:
            text += "\n".join(["", *make()])
            write_text(args.page, text)


if __name__ == "__main__":
    main()
