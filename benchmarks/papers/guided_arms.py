"""Train and test the arms of the page about guided few-shot training: the work of a unit, its settings and its cost."""

from __future__ import annotations

import argparse
import json
import os
import string
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from commands import run  # the modules beside this one
from units import Plain, Unit

from stochx.engine.io.files import write_text
from stochx.settings import FscTest, FscTrain, Train

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
GUIDES = ("none", "lrp", "random", "shuffled")  # the first is trained first, and shows whether a network learns
SHOTS = (1, 5)
WAY, QUERIES = 5, 15  # of a test episode
START_QUERIES = 4  # per class in the episodes that a graph network starts with, which are cheap
LEARNT = 0.25  # accuracy of 5 ways in training, without guidance, that counts as above chance
EPISODES = "episodes.json"  # the classes of the test episodes, which are the same for all units
LETTERS = string.digits + string.ascii_letters + "!#$%&()*+,-./:;"  # one holds the number of right queries
# Seconds at 5 ways and 5 shots on one core: an epoch of a new backbone, an episode of training, one of the start of a
# graph network, and a test episode in all domains with all shots
EPOCH, EPISODE, START, TEST = 12, 0.35, 0.17, 0.1


@dataclass(frozen=True)
class Arm:
    """A head, on a backbone that is trained on the source first, or on a `network` of others.

    With `start`, the guides continue from a network that was trained on episodes without guidance.
    """

    head: str
    network: str | None = None
    size: int | None = None  # of its images
    lr: float = 0.001
    start: bool = False


@dataclass(frozen=True)
class Guided(Plain):
    """A head with one training seed: the right queries of the test episodes, by guide, domain and shots, as `letters`.

    `chance` is the accuracy in training of a network that stayed at it without guidance: nothing was tested then.
    """

    arm: str
    seed: int
    settings: Mapping[str, Any]
    version: str
    seconds: float
    chance: float | None
    right: Mapping[str, Mapping[str, Mapping[str, str]]]

    def counts(self, guide: str, domain: str, shot: int) -> list[int]:
        """Return the number of right queries in each episode."""
        return [LETTERS.index(letter) for letter in self.right[guide][domain][str(shot)]]


def letters(counts: Iterable[int]) -> str:
    """Return a letter for each number of right queries."""
    return "".join(LETTERS[count] for count in counts)


def settings_of(args: argparse.Namespace, arm: Arm) -> dict[str, Any]:
    """Return what a unit's result depends on; files are named without their folders."""
    network = arm.network and Path(arm.network).name
    return asdict(replace(arm, network=network)) | {
        "backbone": None if network else args.backbone,
        "pretrain": None if network else args.pretrain,
        "start": args.start_episodes if arm.start else None,
        **{name: getattr(args, name) for name in ("episodes", "train_shot", "test_episodes")},
        "domains": [args.source.name, *(target.name for target in args.targets)],
    }


def cost_of(args: argparse.Namespace, arm: Arm) -> float:
    """Estimate the seconds of a unit, with a backbone of its own."""
    start = (EPOCH * args.pretrain if arm.network is None else 0) + START * args.start_episodes * arm.start
    return float(start + len(GUIDES) * (EPISODE * args.episodes + TEST * args.test_episodes))


@dataclass(frozen=True)
class Place:
    """A domain: its name on the page, and its data set."""

    name: str
    data: str


def make_unit(args: argparse.Namespace, arm: Arm, unit: Unit) -> Guided:
    """Train a head with every guide and test it in all domains, on episodes that are the same for all units."""
    begin, folder = time.perf_counter(), args.output / unit.name
    common = FscTrain(
        data=(args.source.data,),
        shot=args.train_shot,
        validation=0,
        size=arm.size,
        lr=arm.lr,
        seed=unit.seed,
        device=args.device,
        output=folder,
    )
    new = {"head": arm.head, "backbone": arm.network or _pretrain(args, unit.seed)}
    version, right, reached = "", {}, 1.0
    if arm.start:
        row = _start(args, replace(common, **new))
        new, reached = {"init": row["model"], "size": None}, row["train_accuracy"]
    for guide in GUIDES if reached > LEARNT else ():
        given = {"guide": guide, "episodes": args.episodes, "every": args.episodes, "output": folder / guide}
        trained = run(replace(common, **new, **given))["results"][0]["train_accuracy"]
        if guide == "none" and (reached := trained) <= LEARNT:
            break
        version, right[guide] = _test(args, folder / guide)
    seconds, chance = round(time.perf_counter() - begin, 1), None if reached > LEARNT else reached
    return Guided(unit.arm, unit.seed, settings_of(args, arm), version, seconds, chance, right)


def _pretrain(args: argparse.Namespace, seed: int) -> str:
    """Train the backbone of a seed to classify the source's classes; return its file."""
    folder = args.output / f"backbone-{seed}"
    run(
        Train(
            data=args.source.data,
            arch=args.backbone,
            epochs=args.pretrain,
            lr=0.05,
            seed=seed,
            device=args.device,
            output=folder,
        )
    )
    return str(folder / "model.safetensors")


def _start(args: argparse.Namespace, common: FscTrain) -> dict[str, Any]:
    """Train the network that the guides continue from; return its row, with its training accuracy."""
    settings = replace(
        common,
        guide="none",
        queries=START_QUERIES,
        episodes=args.start_episodes,
        every=min(250, args.start_episodes),
        output=common.folder / "start",
    )
    row: dict[str, Any] = run(settings)["results"][0]
    return row


def _test(args: argparse.Namespace, folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the version and the right queries by domain and shots; the episodes' classes are kept beside the units."""
    settings = FscTest(
        model=str(folder / "model.safetensors"),
        data=tuple(target.data for target in args.targets),
        shot=SHOTS,
        way=WAY,
        queries=QUERIES,
        episodes=args.test_episodes,
        device=args.device,
        output=folder / "test",
    )
    document = run(settings)
    lines = (settings.folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    by_data = {record["domain"]: record for record in map(json.loads, lines)}
    records = {target.name: by_data[target.data] for target in args.targets}
    _keep_episodes(args.page.with_suffix("") / EPISODES, {name: r["classes"] for name, r in records.items()})
    right = {
        name: {
            shot: letters(round(WAY * QUERIES * share) for share in shares) for shot, shares in r["episodes"][0].items()
        }
        for name, r in records.items()
    }
    return document["version"], right


def _keep_episodes(path: Path, drawn: Mapping[str, Mapping[str, Sequence[Sequence[int]]]]) -> None:
    """Keep the classes of the episodes by domain; raises `ValueError` where other units saw other ones."""
    first, *others = (str(shot) for shot in SHOTS)
    classes = {name: by_shot[first] for name, by_shot in drawn.items()}
    if any(by_shot[shot] != by_shot[first] for by_shot in drawn.values() for shot in others):
        raise ValueError("the episodes of different numbers of shots have different classes")
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != classes:
        raise ValueError(f"`{path}` holds other episodes")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(classes, separators=(",", ":")) + "\n")
