"""Compare adaptive noise and its rivals with adversarial fine-tuning of the teacher at equal cost.

    python benchmarks/papers/adaptive_noise.py --budget 60 --ranks 2
    python benchmarks/papers/adaptive_noise.py --epochs 40 --limit 50000 --images 10000 --device cuda

Every arm is a run of `stochx distill` and one of `stochx attack`, in folders below `--output`. Finished runs are kept:
the same command continues, and rewrites the page from all results so far. The number of epochs is fixed beforehand and
no epoch is selected, since the teacher has seen every training image. A budget in minutes sets the numbers of training
and attacked images. The default teacher and data are those below STOCHX_SHARED (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands import run  # the module beside this one

from stochx.engine.io.store import write_text
from stochx.engine.statistics import Estimate, estimate, holm, mean_difference, paired_p, student
from stochx.reports.attacks import draw_sweep
from stochx.settings import Attack, Boundary, Distill

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
BASE, CLAIM = "AT, equal time", "adaptive + AT"
SLOWER = 7 / 3  # how much longer a step with adaptive noise takes: 160 to 70 images/s on one core of a CPU


@dataclass(frozen=True)
class Arm:
    """A student: its noise, its adversarial training, and for how many times the epochs; `first` arms always run."""

    noise: str
    adversarial: str = "pgd:steps=7"
    first: bool = False
    times: float = 1.0


ARMS = {
    "AT": Arm("none", first=True),
    BASE: Arm("none", first=True, times=SLOWER),
    CLAIM: Arm("adaptive", first=True),
    "PNI weight + AT": Arm("pni:on=weight,granularity=channel", first=True),
    "PNI activation + AT": Arm("pni:on=activation,granularity=layer"),
    "RSE + AT": Arm("gaussian"),
    "Learn2Perturb + AT": Arm("learn2perturb"),
    "RSE": Arm("gaussian", "none", first=True),
    "adaptive": Arm("adaptive", "none"),
}
FACTORS = {  # settings that the ablation turns off and on, by the names of the table
    "init": ("init", "random", "teacher"),
    "kd": ("kd", "none", "tau=4,weight=0.9"),
    "noise": ("noise", "none", "adaptive"),
    "at": ("adversarial", "none", "pgd:steps=7"),
}
ATTACKS = ["fgsm", "pgd:steps=7,step=0.319", "pgd:steps=20"]  # 0.319 of 8/255 is the literature's step of 0.01
NOISY = ["pgd:steps=20,eot=5", "pgd:steps=20,eot=20", "apgd:steps=20,eot=10"]
BETAS = (0.05, 0.1, 0.2, 0.5, 1.0)
QUIET = ["apgd:steps=20"]  # for deterministic networks, all of whose draws are alike
STRONG = ["pgd:steps=20,eot=50", "apgd:steps=100,eot=20,loss=dlr"]
STRONG_QUIET = ["pgd:steps=100", "apgd:steps=100,loss=dlr"]


@dataclass(frozen=True)
class Work:
    """Size of every arm: epochs over `limit` training images, `images` attacked, `draws` that judge."""

    epochs: int
    limit: int
    images: int
    draws: int
    attacks: Sequence[str]


def plan(args: argparse.Namespace) -> Work:
    """Return the sizes that were asked for, or those that the budget allows: two thirds of it train, a third attacks.

    The costs are of ResNet-20 on one core of a laptop, in seconds per image: 0.012 for PGD-7 training, 1.3 for all
    attacks of a stochastic network.
    """
    if math.isinf(args.budget):
        return Work(args.epochs, args.limit, args.images, args.draws, NOISY)
    arms = sum(arm.first for arm in ARMS.values())
    seconds = 60 * args.budget * args.ranks / arms
    limit = min(args.limit, max(256, int(seconds * 2 / 3 / 0.012 / args.epochs) // 128 * 128))
    images = min(args.images, max(32, int(seconds / 3 / 1.3)))
    return Work(args.epochs, limit, images, args.draws, NOISY)


def make_student(args: argparse.Namespace, work: Work, folder: Path, times: float = 1.0) -> Distill:
    """Return the settings that all students share, for `times` the epochs."""
    return Distill(
        teacher=args.teacher,
        data=args.data,
        epochs=round(times * work.epochs),
        limit=work.limit,
        precision=args.precision,
        device=args.device,
        seed=args.seed,
        average=0.995,
        draws=3,
        validation=0,
        save_epochs=True,
        output=folder,
    )


def make_attack(args: argparse.Namespace, work: Work, model: Path | str, folder: Path) -> Attack:
    """Return the settings that all attacks share."""
    return Attack(
        model=str(model),
        data=args.data,
        limit=work.images,
        draws=work.draws,
        device=args.device,
        seed=args.seed,
        checks="none",
        output=folder,
    )


def train_and_attack(
    args: argparse.Namespace, work: Work, name: str, student: Mapping[str, str], times: float = 1.0
) -> dict[str, Any]:
    """Train and attack a student with these settings beside the shared ones."""
    folder = args.output / folder_of(name)
    settings = replace(make_student(args, work, folder / "student", times), **student)
    trained = run(settings, args.ranks)
    model = folder / "student" / "student.safetensors"
    return {"trained": trained, **attack(args, work, model, folder / "attack")}


def run_arm(args: argparse.Namespace, work: Work, name: str, label: str = "") -> dict[str, Any]:
    """Train and attack the student of an arm; `label` tells apart its repetitions."""
    arm = ARMS[name]
    student = {"noise": arm.noise, "adversarial": arm.adversarial}
    return train_and_attack(args, work, name + label, student, arm.times)


def folder_of(name: str) -> str:
    """The folder of an arm."""
    return name.replace(" ", "").replace("+", "-").replace(",", "-").lower()


def attack(
    args: argparse.Namespace, work: Work, model: Path | str, folder: Path, attacks: Sequence[str] = ()
) -> dict[str, Any]:
    """Attack a network, by default with the attacks of all arms; return the document and the records."""
    from stochx.loading import load_model

    noisy = load_model(str(model)).noise != "none"
    attacks = attacks or [*ATTACKS, *(work.attacks if noisy else QUIET)]
    settings = replace(make_attack(args, work, model, folder), attack=tuple(attacks), precision=args.precision)
    attacked = run(settings, args.ranks)
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {"attacked": attacked, "records": {"lines": [json.loads(line) for line in lines]}}


def rows_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return an attacked network's rows by attack."""
    return {row["attack"]: row for row in result["attacked"]["results"]}


def points(mean: Estimate) -> str:
    """Format a mean and its interval in percentage points."""
    return f"{100 * mean.mean:+.1f} ({100 * mean.low:+.1f} to {100 * mean.high:+.1f})"


def share(row: Mapping[str, Any], low: str = "low", mean: str = "robust") -> str:
    """Format a percentage with the half-width of its interval."""
    return f"{100 * row[mean]:.1f} ± {100 * (row[mean] - row[low]):.1f}"


def figures(args: argparse.Namespace, work: Work) -> list[str]:
    """Draw accuracy over the degree of noise, and the teacher's decision planes under adversarial training."""
    student = args.output / folder_of(CLAIM) / "student" / "student.safetensors"
    epochs = sorted((args.output / folder_of(BASE) / "student" / "checkpoints").glob("*.safetensors"))
    trend = replace(
        make_attack(args, work, student, args.output / "trend"), attack=("pgd:steps=20,eot=5",), sweep="noise=0:2:0.5"
    )
    change = Boundary(
        models=tuple(map(str, epochs)),
        data=args.data,
        device=args.device,
        seed=args.seed,
        images="0,1,2,3,4,5,6,7",
        plane="gradient",
        resolution=60,
        animate=True,
        output=args.output / "epochs",
    )
    drawings = [
        (trend, "sweep.png", f"`{CLAIM}`, trained at degree 1 of its noise, attacked at several degrees."),
        (
            change,
            "evolution.png",
            f"The teacher under adversarial training (`{BASE}`), epoch by epoch, on gradient planes of eight images:"
            " agreement with the teacher, regions, confidence, and the distance to the boundary, where the median"
            " over images lies within the plane.",
        ),
    ]
    lines = ["## Figures", ""]
    for settings, file, text in drawings:
        run(settings, args.ranks)
        name = settings.folder.name
        target = args.page.parent / f"{args.page.stem}-{name}.png"
        target.write_bytes((settings.folder / file).read_bytes())
        lines += [text, "", f"![{name}]({target.name})", ""]
    return lines


WORST = "worst case over all attacks for each image"
JUDGED = {"pgd:steps=20,eot=20": "pgd:steps=20", "apgd:steps=20,eot=10": "apgd:steps=20"}  # of noise, and without


def gaps(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the differences in correctness by image under the same attacks, with EOT where a network has noise."""

    def correct(result: Mapping[str, Any], of: str) -> list[float]:
        records = result["records"]["lines"]
        attacks = records[0]["attacks"]
        name = of if of in attacks else JUDGED.get(of, of)
        return [float(r["worst"] if of == WORST else r["attacks"][name]["correct"]) for r in records]

    return {
        of: [a - b for a, b in zip(correct(first, of), correct(second, of), strict=True)] for of in (*JUDGED, WORST)
    }


def claims(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return paired differences to the deterministic baseline, and those that n detects in four of five samples."""
    lines = [
        f"| arm | attack | points minus `{BASE}` | p | smallest difference detected with 80 % power |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if name == BASE:
            continue
        for of, gap in gaps(result, results[BASE]).items():
            mean, p = mean_difference(gap), paired_p(gap)
            spread = (sum((g - mean.mean) ** 2 for g in gap) / (len(gap) - 1) / len(gap)) ** 0.5
            detectable = 100 * (student(len(gap) - 1) + 0.84) * spread
            difference = points(mean)
            lines.append(f"| {name} | {of if of == WORST else f'`{of}`'} | {difference} | {p:.2g} | {detectable:.1f} |")
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
    """Return the results page."""
    minutes = sum(part["seconds"] for result in results.values() for part in result.values() if "seconds" in part) / 60
    texts = list(dict.fromkeys(text for result in results.values() for text in rows_of(result) if text != "worst"))
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
        f" seed {args.seed}, {minutes:.0f} minutes in all, on a machine shared with other work."
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
    for name, result in results.items():
        rows = rows_of(result)
        worst = rows["worst"]
        off = worst.get("robust_off")
        spent = result.get("trained", {}).get("seconds")
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
    """Return the verdict on the claim, which must hold under both attacks."""
    if CLAIM not in results or BASE not in results:
        return "The claim was not tested: its arms have not run yet."
    by_attack = {of: gap for of, gap in gaps(results[CLAIM], results[BASE]).items() if of != WORST}
    p = holm([paired_p(gap) for gap in by_attack.values()])
    means = [sum(gap) / len(gap) for gap in by_attack.values()]
    significant = all(value < 0.05 for value in p)
    word = "do not decide"
    if significant and min(means) > 0:
        word = "support"
    elif significant and max(means) < 0:
        word = "contradict"
    differences = "; ".join(
        f"under `{of}` {100 * mean:+.1f} points (p = {value:.2g})"
        for of, mean, value in zip(by_attack, means, p, strict=True)
    )
    n = len(next(iter(by_attack.values())))
    return (
        f"`{CLAIM}` minus `{BASE}`: {differences}; n = {n}, p adjusted by Holm for two attacks. These images and this"
        f" one training seed {word} the claim."
    )


def strong(args: argparse.Namespace, work: Work) -> list[str]:
    """Attack the claim's two arms with many draws and many steps; return the section."""
    lines = ["## Stronger attacks on the two arms of the claim", "", "| arm | attack | robust |", "|---|---|---|"]
    results = {}
    for name, attacks in ((BASE, STRONG_QUIET), (CLAIM, STRONG)):
        model = args.output / folder_of(name) / "student" / "student.safetensors"
        results[name] = attack(args, work, model, args.output / folder_of(name) / "strong", attacks)
        lines += [f"| {name} | `{text}` | {share(row)} |" for text, row in rows_of(results[name]).items()]
    pairs = zip(STRONG, STRONG_QUIET, strict=True)
    outcomes = {name: [r["attacks"] for r in result["records"]["lines"]] for name, result in results.items()}
    lines.append("")
    for noisy, quiet in pairs:
        images = zip(outcomes[CLAIM], outcomes[BASE], strict=True)
        gap = [float(a[noisy]["correct"]) - float(b[quiet]["correct"]) for a, b in images]
        mean, low, high = mean_difference(gap).mean, mean_difference(gap).low, mean_difference(gap).high
        interval = f"({100 * low:+.1f} to {100 * high:+.1f})"
        lines.append(f"- `{noisy}` against `{quiet}`: {100 * mean:+.1f} points {interval}, p = {paired_p(gap):.2g}")
    return [*lines, ""]


def across_seeds(args: argparse.Namespace, work: Work) -> list[str]:
    """Train the claim's two arms with other seeds; return the difference of each pair, and its mean over the seeds."""
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
        label = "" if seed == args.seed else f" seed={seed}"
        pair = {name: run_arm(own, work, name, label) for name in (CLAIM, BASE)}
        for of, gap in gaps(pair[CLAIM], pair[BASE]).items():
            if of != WORST:
                differences[of].append(sum(gap) / len(gap))
        ours, theirs = (rows_of(pair[name])["worst"]["clean"] for name in (CLAIM, BASE))
        differences["clean"].append(ours - theirs)
        lines.append(f"| {seed} | {' | '.join(f'{100 * differences[c][-1]:+.1f}' for c in columns)} |")
    means = []
    for column in columns:
        means.append(points(estimate(differences[column], (-1.0, 1.0))))
    lines.append(f"| mean, 95 % over seeds | {' | '.join(means)} |")
    return [*lines, "", "The deterministic network is attacked without EOT.", ""]


def tied(args: argparse.Namespace, work: Work) -> list[str]:
    """Train and attack students at several degrees of noise; return the table and the curve."""
    rows, lines = [], ["| beta | clean | `pgd:steps=20,eot=20` | worst | worst, noise off |", "|---|---|---|---|---|"]
    for beta in BETAS:
        result = train_and_attack(args, work, f"tied beta={beta}", {"noise": f"adaptive:beta={beta}"})
        shown = ("fgsm", "pgd:steps=20", "pgd:steps=20,eot=20", "worst")
        by_attack = rows_of(result)
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
    """Run all sixteen combinations of initialisation, distillation, noise and adversarial training."""
    results = {}
    for code in range(2 ** len(FACTORS)):
        on = [code >> k & 1 for k in range(len(FACTORS))]
        student = {key: levels[level] for level, (key, *levels) in zip(on, FACTORS.values(), strict=True)}
        name = "ablation " + " ".join(f"{key}={level}" for key, level in zip(FACTORS, on, strict=True))
        results[name] = train_and_attack(args, work, name, student)
    return results


def factorial_page(work: Work, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of the ablation, and each factor's mean effect on clean accuracy and the worst case."""
    lines = [f"| {' | '.join(FACTORS)} | clean | worst |", "|---|" + "---|" * (len(FACTORS) + 1)]
    values = []
    for name, result in results.items():
        on = [int(part[-1]) for part in name.split()[1:]]
        worst = rows_of(result)["worst"]
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
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes; sets the numbers of images")
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
    parser.add_argument("--seeds", type=int, default=1, help="train the claim's two arms with N seeds")
    parser.add_argument("--tied", action="store_true", help="add students at several degrees of noise")
    parser.add_argument("--ablation", action="store_true", help="add all combinations of the four factors")
    parser.add_argument("--side-limit", type=int, default=50_000, help="training images of --tied and --ablation")
    parser.add_argument("--side-images", type=int, default=10_000, help="attacked test images of --tied and --ablation")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers/adaptive_noise"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/adaptive_noise.md"))
    args = parser.parse_args()
    begun, work = time.time(), plan(args)
    deadline = begun + 60 * args.budget
    print(work, flush=True)
    results: dict[str, dict[str, Any]] = {"teacher": attack(args, work, args.teacher, args.output / "teacher")}
    for name, arm in sorted(ARMS.items(), key=lambda item: not item[1].first):
        if not arm.first and time.time() > deadline:
            print(f"{name}: skipped, the budget is spent", flush=True)
            continue
        results[name] = run_arm(args, work, name)
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
    requested = {
        "strong": args.strong,
        "seeds": args.seeds > 1,
        "tied": args.tied,
        "ablation": args.ablation,
        "figures": not args.no_figures,
    }
    for name, make in parts.items():
        if requested[name]:
            text += "\n".join(["", *make()])
            write_text(args.page, text)


if __name__ == "__main__":
    main()
