"""Train and attack the arms of the pages about stochastic networks: the work of a unit, its settings and its cost."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from commands import run  # the modules beside this one
from units import Result, Unit

from stochx.runs import Document
from stochx.settings import Attack, Distill

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
CLEAN, ONE_DRAW, EOT, APGD, WORST = "clean", "PGD, one draw", "PGD, EOT", "APGD, EOT", "worst case"
KNOWN, OFF, VOTE = "known seed", "noise off", "vote"
MOST = 128  # draws a gradient is averaged over, at most
CHECKED = 256  # images on a quarter of which the number of draws is checked
PLANTED = 16  # images for the checks that attack in other ways, among them planted examples
# Seconds of an image in adversarial training with PGD-7, on one core of a busy CPU, by `stochx distill --dry-run`
TRAINING = {
    "none": 0.016,
    "adaptive": 0.025,
    "pni": 0.027,
    "gaussian": 0.031,
    "learn2perturb": 0.027,
}
OTHER_TRAINING = 0.03
GRADIENT = 0.002  # seconds of the gradient of an image, with noise, on the same core
USUAL_DRAWS = 20  # draws a gradient that an estimate counts on


@dataclass(frozen=True)
class Arm:
    """A student: its noise, its adversarial training, for how many times the epochs; or a `network` that is ready."""

    noise: str = "none"
    adversarial: str = "pgd:steps=7"
    times: float = 1.0
    average: float = 0.0
    awp: float = 0.0
    network: str | None = None  # a file, or several joined by `+`: an ensemble

    @property
    def noisy(self) -> bool:
        """True for an arm whose network is stochastic."""
        return self.noise != "none" or "+" in (self.network or "")


def add_options(parser: argparse.ArgumentParser, page: str, epochs: int, limit: int, images: int, seeds: int) -> None:
    """Add the options that the pages about stochastic networks share."""
    parser.add_argument("--teacher", default=str(SHARED / "weights_cifar10" / "resnet20.safetensors"))
    parser.add_argument("--data", default=f"cifar10:root={SHARED / 'cifar10'}")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="MINUTES", help="end after this time")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="begin units that do not fit into the budget; --output keeps what is done",
    )
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--limit", type=int, default=limit, help="training images")
    parser.add_argument("--images", type=int, default=images, help="attacked test images")
    parser.add_argument("--steps", type=int, default=20, help="steps of every attack")
    parser.add_argument("--draws", type=int, default=32, help="fresh draws that judge, 35 at most")
    parser.add_argument("--seeds", type=int, default=seeds, help="training seeds")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--delete", action="store_true", help="delete weights and records of a finished unit")
    parser.add_argument("--output", type=Path, default=Path("stochx-out/papers") / page)
    parser.add_argument("--results", type=Path, default=Path("docs/results") / page, help="folder of the units' files")
    parser.add_argument("--page", type=Path, default=Path("docs/results") / f"{page}.md")


def balanced(arms: Mapping[str, Arm], seeds: int) -> list[Unit]:
    """Return all units, seed by seed; networks that are ready come first, and have no training seed but 0."""
    ready = [Unit(name, 0) for name, arm in arms.items() if arm.network is not None]
    return ready + [Unit(name, seed) for seed in range(seeds) for name, arm in arms.items() if arm.network is None]


def settings_of(args: argparse.Namespace, arm: Arm) -> dict[str, Any]:
    """Return what a unit's result depends on; files are named without their folders."""
    network = arm.network and "+".join(Path(part).name for part in arm.network.split("+"))
    return asdict(replace(arm, network=network)) | {
        "teacher": Path(args.teacher).name,
        "data": args.data.partition(":")[0],
        "epochs": None if network else epochs_of(args, arm),
        "limit": None if network else args.limit,
        "images": args.images,
        "steps": args.steps,
        "draws": args.draws,
    }


def epochs_of(args: argparse.Namespace, arm: Arm) -> int:
    """Return the epochs of an arm."""
    epochs: int = args.epochs
    return max(1, round(arm.times * epochs))


def cost_of(args: argparse.Namespace, arm: Arm, extra: bool) -> float:
    """Estimate the seconds of a unit; `extra` counts the attacks on known noise and without noise."""
    per_image = TRAINING.get(arm.noise.partition(":")[0], OTHER_TRAINING)
    if arm.adversarial == "none":
        per_image /= 8  # of seven gradients that craft and one that trains
    training: float = 0.0 if arm.network else args.limit * epochs_of(args, arm) * per_image * (1.5 if arm.awp else 1.0)
    ways = 1 + 2 * USUAL_DRAWS + (6 if extra else 0) if arm.noisy else 2
    checks = 3 * CHECKED * args.steps * (USUAL_DRAWS if arm.noisy else 1)
    attacks: float = GRADIENT * (args.images * args.steps * ways + checks)
    return training + attacks


def make_unit(args: argparse.Namespace, arm: Arm, unit: Unit, extra: bool) -> Result:
    """Train, where the arm is not ready, and attack; `extra` also with the noise known to the attacker, and off."""
    folder = args.output / unit.name
    seconds = {}
    if arm.network is None:
        trained = run(_training(args, arm, unit, folder / "student"))
        seconds["training"] = trained["seconds"]
    model = arm.network or str(folder / "student" / "student.safetensors")
    draws, checks, spent = _enough_draws(args, arm, model, folder)
    ways = {ONE_DRAW: f"pgd:steps={args.steps}", EOT: f"pgd:steps={args.steps}", APGD: f"apgd:steps={args.steps}"}
    if arm.noisy:
        ways = {way: f"{text},eot={1 if way == ONE_DRAW else draws}" for way, text in ways.items()}
    attacks = tuple(dict.fromkeys(ways.values()))
    secret = _attack(args, model, folder / "attack", attack=attacks)
    records = _records(folder / "attack")
    right = {CLEAN: [record["clean"] for record in records]}
    right |= {way: [record["attacks"][text]["correct"] for record in records] for way, text in ways.items()}
    right[WORST] = [record["worst"] for record in records]
    right[VOTE] = [float(record["attacks"][ways[EOT]]["vote"]) for record in records]
    seconds["attacks"] = spent + secret["seconds"]
    if extra and arm.noisy:
        for way, knowledge in ((KNOWN, "known"), (OFF, "off")):
            if way == OFF and arm.noise == "none":
                continue  # an ensemble has no noise to turn off
            text = f"pgd:steps={args.steps}"
            settings = {"attack": (f"{text},eot=1",), "randomness": knowledge}
            seconds["attacks"] += _attack(args, model, folder / knowledge, **settings)["seconds"]
            right[way] = [record["worst"] for record in _records(folder / knowledge)]
    versions = {"stochx": secret["version"], "torch": version("torch"), "device": secret["device"]}
    if args.delete:
        shutil.rmtree(folder)
    return Result(unit.arm, unit.seed, settings_of(args, arm), versions, seconds, draws, checks, right)


def _training(args: argparse.Namespace, arm: Arm, unit: Unit, folder: Path) -> Distill:
    return Distill(
        teacher=args.teacher,
        data=args.data,
        noise=arm.noise,
        adversarial=arm.adversarial,
        epochs=epochs_of(args, arm),
        limit=args.limit,
        average=arm.average,
        awp=arm.awp,
        validation=0,
        draws=3,
        device=args.device,
        seed=unit.seed,
        output=folder,
    )


def _attack(args: argparse.Namespace, model: str, folder: Path, **given: Any) -> Document:
    settings = Attack(
        model=model,
        data=args.data,
        limit=args.images,
        draws=args.draws,
        device=args.device,
        checks="none",
        figure=False,
        output=folder,
    )
    return run(replace(settings, **given))


def _records(folder: Path) -> list[dict[str, Any]]:
    """Return an attack's records by image."""
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda record: record["index"])


def _enough_draws(
    args: argparse.Namespace, arm: Arm, model: str, folder: Path
) -> tuple[int, list[dict[str, Any]], float]:
    """Double the draws of a gradient until the check `expectation` passes; return them, all checks, the seconds.

    It starts at the number that is measured. At more than `MOST` it gives up, and the check says so. The other checks,
    such as that for planted examples, follow with this number.
    """
    text, draws, seconds, expectation = f"pgd:steps={args.steps}", 1, 0.0, []
    if arm.noisy:
        draws, start = 0, text
        while True:
            limit = min(CHECKED, args.images)
            document = _attack(args, model, folder / f"draws-{draws}", attack=(text,), limit=limit, checks="quick")
            seconds += document["seconds"]
            draws = draws or document["expectation"][0]["draws"]
            expectation = [check for check in document["checks"] if check["name"] == "expectation"]
            if 2 * draws > MOST or all(check["verdict"] == "ok" for check in expectation):
                break
            draws *= 2
            text = f"{start},eot={draws}"
        text = f"{start},eot={draws}"
    limit = min(PLANTED, args.images)
    document = _attack(args, model, folder / "checks", attack=(text,), limit=limit, checks="full")
    others = [check for check in document["checks"] if check["name"] != "expectation"]
    found = [{key: check[key] for key in ("name", "verdict", "text")} for check in [*expectation, *others]]
    return draws, found, seconds + document["seconds"]
