"""Estimates of a run's time and memory: a pilot run on a few items, stage by stage, scaled to all of them.

The pilot is the command itself with smaller settings, in a folder that is removed; so it does the work of a run,
whatever methods, attacks and draws are chosen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from stochx.engine.device import CPU_BUDGET, select_runtime
from stochx.engine.memory import available_memory, resident_memory
from stochx.engine.sweep import MIN_BATCHES, large_batches
from stochx.engine.world import World
from stochx.errors import StochxError, UsageError
from stochx.runs import command
from stochx.runs._results import Record
from stochx.runs._training import validation_size
from stochx.runs.document import Document, compose
from stochx.runs.watch import Quiet, TrainingWatch, Watch
from stochx.settings import (
    Attack,
    Boundary,
    Certify,
    Distill,
    Explain,
    FscExplain,
    FscTest,
    FscTrain,
    Score,
    Train,
)
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Limited, Machine
from stochx.tasks.boundary import stride
from stochx.tasks.checks import CHECKED

FIRST_LIMIT, GROWTH = 2, 4  # images of the first pilot, and how many times as many the next one has
BY_IMAGE = (Attack, Certify, Explain, Score)  # commands that work on one image after the other
USUAL_ROWS = 64  # images of a batch
ENOUGH = 3.0  # seconds of a pilot's work that tell how long the rest takes
STEPS = 4  # of a training
EPISODES = 4
PILOT_RESOLUTIONS = 24, 48  # of a plane, whose neighbours take no turns
PER_IMAGE = {"attacking", "certifying", "explaining", "scoring"}  # stages
INTERVAL = 0.02  # seconds between two looks at the memory

log = logging.getLogger("stochx")


@dataclass
class Stage:
    """The items and seconds of a stage, and when how many of them were done, once for each time that it was entered."""

    total: int = 0
    seconds: float = 0.0
    visits: list[list[tuple[float, int]]] = field(default_factory=list)


class Clock(Quiet):
    """Measures the stages of a pilot; the time of a stage within another counts once, for the inner one."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = dict[str, Stage]()

    @property
    def measured(self) -> float:
        """The seconds of all stages."""
        return sum(stage.seconds for stage in self.stages.values())

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        stage, start, within = self.stages.setdefault(label, Stage()), time.perf_counter(), self.measured
        visit = [(start, 0)]
        stage.total += total or 0
        stage.visits.append(visit)
        yield lambda items: visit.append((time.perf_counter(), items))
        stage.seconds += time.perf_counter() - start - (self.measured - within)

    @contextlib.contextmanager
    def training(self, epochs: int, items: int, unit: str) -> Iterator[TrainingWatch]:
        with self.progress("training", epochs * items) as advance:
            yield _Steps(advance)


class _Steps:
    """Follows a training step by step."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def step(self, epoch: int, items: int, loss: Any) -> None:
        self._advance(items)

    def end(self, row: Mapping[str, Any], again: bool) -> None:
        pass


@dataclass(frozen=True)
class Measured:
    """A pilot: its settings, its document, the time of its stages, of the rest, and its largest memory in bytes."""

    settings: RunFiles
    document: Document
    stages: Mapping[str, Stage]
    rest: float
    memory: int


def estimate(settings: RunFiles, world: World, watch: Watch) -> Document:
    """Return the document of `--dry-run`: a row for each stage, then one for all; nothing is written."""
    if world.size > 1:
        raise UsageError("`--dry-run` measures a single process", "leave out `torchrun`")
    with watch.progress("measuring a few items"):
        pilots = _pilots(settings)
    pilot = pilots[-1]
    rows = [*_rows(settings, pilots), {"stage": "start and end", "items": None, "seconds": pilot.rest}]
    total = sum(row["seconds"] for row in rows)
    rows.append({"stage": "all", "items": None, "seconds": total})
    device = select_runtime(settings.device).device if isinstance(settings, Machine) else "cpu"
    machine = {"device": str(device), "threads": torch.get_num_threads()}
    rounded = [row | {"seconds": round(row["seconds"], 2)} for row in rows]
    needed = {"seconds": round(total, 1), "memory": _memory(settings, pilot), "available": available_memory()}
    return compose(settings.command, settings.recorded(), machine, rounded, watch.seconds) | {"estimate": needed}


def _rows(settings: RunFiles, pilots: Sequence[Measured]) -> list[Record]:
    """Return the stages of the whole run."""
    pilot = pilots[-1]
    factors = _factors(settings, pilot)
    rows = list[Record]()
    for label, stage in pilot.stages.items():
        factor = factors.get(label, 1.0)
        if label == "training":
            seconds = _steady(stage) * factor
        elif label == "measuring" and isinstance(settings, FscTest):
            seconds = _episodes(settings, pilot, stage)
        elif label == "predicting" and isinstance(settings, Boundary):
            seconds = _grid(settings, pilots)
        elif isinstance(settings, BY_IMAGE) and label in factors:
            seconds = _batches(settings, pilots, label)
        else:
            seconds = stage.seconds * factor
        rows.append({"stage": label, "items": round(stage.total * factor) or None, "seconds": seconds})
    return rows


def _factors(settings: RunFiles, pilot: Measured) -> dict[str, float]:
    """Return how many times the items of the pilot each stage has; 1 for all others."""
    small = pilot.settings
    if isinstance(settings, FscTrain):
        assert isinstance(small, FscTrain)
        return {"training": settings.episodes / small.episodes, "validating": settings.episodes / settings.interval}
    if isinstance(settings, FscExplain):
        return {"explaining": len(settings.images)}
    if isinstance(settings, Boundary):
        assert isinstance(small, Boundary)
        return {"predicting": (settings.resolution / small.resolution) ** 2}
    if not isinstance(settings, Limited):
        return {}
    whole, part = _counts(settings, pilot)
    if not isinstance(settings, Train | Distill):
        return dict.fromkeys([*PER_IMAGE, "comparing with training images", "checking"], whole / part)
    tested, tested_part = _counts(settings, pilot, "test_sample")
    held, held_part = validation_size(settings, whole), validation_size(cast(Train, small), part)
    return {
        "reading images": (whole + tested) / (part + tested_part),
        "training": settings.epochs * (whole - held) / (part - held_part),
        "validating": settings.epochs * held / max(held_part, 1),
        "testing": tested / tested_part,
    }


def _counts(settings: Limited, pilot: Measured, sample: str = "sample") -> tuple[int, int]:
    """Return the number of images of the run, and of the pilot."""
    facts = pilot.document[sample]
    return settings.limit_of(facts["total"]), facts["count"]


def _batches(settings: Limited, pilots: Sequence[Measured], label: str) -> float:
    """Return the seconds of a stage that goes over all images in batches.

    A batch takes a + b n seconds for n images; the last two pilots, which have one batch each, tell a and b.
    """
    (whole, part), seconds = _counts(settings, pilots[-1]), pilots[-1].stages[label].seconds
    if part >= whole or len(pilots) == 1:
        return seconds
    fewer, sooner = _counts(settings, pilots[-2])[1], pilots[-2].stages[label].seconds
    each = (seconds - sooner) / (part - fewer)
    if not 0 < each < seconds / part:
        each = seconds / part
    once = seconds - each * part
    images = min(CHECKED, whole) if label == "checking" else whole
    rows = images if label == "checking" else max(part, min(USUAL_ROWS, -(-whole // MIN_BATCHES)))
    return images / rows * once + images * each


def _grid(settings: Boundary, pilots: Sequence[Measured]) -> float:
    """Return the seconds of all planes with all networks: of their grids, and of what is the same for all grids."""
    sides = [cast(Boundary, pilot.settings).resolution for pilot in pilots]
    few, many = sides[0] ** 2, sides[-1] ** 2
    tables = [[row for row in pilot.document["results"] if row["plane"] != "all"] for pilot in (pilots[0], pilots[-1])]
    total = 0.0
    for sooner, later in zip(*tables, strict=True):
        each = max(0.0, later["seconds"] - sooner["seconds"]) / max(1, many - few)
        apart = stride(settings.resolution, 1 if later["disagreement"] is None else settings.draws)
        total += later["seconds"] + each * ((settings.resolution / apart) ** 2 - many)
    return total


def _steady(stage: Stage) -> float:
    """Return the seconds of a training at the pace of its middle step: the first ones also warm up."""
    (visit,) = stage.visits
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(visit[1:])]
    return statistics.median(pauses) * (len(visit) - 1) if pauses else stage.seconds


def _episodes(settings: FscTest, pilot: Measured, stage: Stage) -> float:
    """Return the seconds of all episodes, and of the features of all images that are in one of them.

    A visit reports the images without an episode, then the others, then the episodes.
    """
    assert isinstance(pilot.settings, FscTest)
    seconds, shots = 0.0, settings.shot
    most = sum((settings.way or 5) * (shot + settings.queries) for shot in shots) * settings.episodes
    for (start, _), (_, unused), *steps in stage.visits:
        images = stage.total // len(stage.visits) - pilot.settings.episodes * len(shots) - unused
        done, middle = 0, start
        for moment, items in steps:
            done += items
            if done <= images:
                middle = moment
        seconds += (middle - start) * min(images + unused, most) / max(images, 1)
        seconds += (steps[-1][0] - middle) * settings.episodes / pilot.settings.episodes
    return seconds


def _memory(settings: RunFiles, pilot: Measured) -> int:
    """Return the pilot's memory, and the growth of full batches, whose size has a bound that the device sets."""
    return pilot.memory + (CPU_BUDGET if isinstance(settings, BY_IMAGE) else 0)


def _pilots(settings: RunFiles) -> list[Measured]:
    """Run the command with small settings; images grow in number until their work takes long enough to measure."""
    if isinstance(settings, Boundary):
        sides = dict.fromkeys(min(settings.resolution, side) for side in PILOT_RESOLUTIONS)
        return [_measure(dataclasses.replace(settings, resolution=side, figure=False)) for side in sides]
    if not isinstance(settings, BY_IMAGE):
        return [_measure(_smaller(settings))]
    pilots, limit = list[Measured](), FIRST_LIMIT
    while True:
        smaller: dict[str, Any] = {"limit": limit}
        pilots.append(_measure(dataclasses.replace(settings, **smaller)))
        whole, part = _counts(settings, pilots[-1])
        work = sum(pilots[-1].stages[label].seconds for label in PER_IMAGE & {*pilots[-1].stages})
        if part >= whole or (work >= ENOUGH and len(pilots) > 1):
            return pilots
        limit *= GROWTH


def _smaller(settings: RunFiles) -> RunFiles:
    """Return settings for a pilot of a command that does not go image by image."""
    if isinstance(settings, Train | Distill):
        held = min(settings.batch_size, settings.validation or 0)
        shorter: dict[str, Any] = {"epochs": 1, "patience": 0, "delay": 0, "awp_delay": 0}
        if settings.validation is not None:
            shorter["validation"] = held
        return dataclasses.replace(settings, limit=STEPS * settings.batch_size + held, **shorter)
    if isinstance(settings, FscTrain):
        episodes = STEPS * settings.batch_size
        return dataclasses.replace(settings, episodes=episodes, every=episodes, patience=0)
    if isinstance(settings, FscTest):
        return dataclasses.replace(settings, episodes=min(settings.episodes, EPISODES))
    assert isinstance(settings, FscExplain)
    return dataclasses.replace(settings, images=settings.images[:1])


def _measure(settings: RunFiles) -> Measured:
    """Run a pilot in a folder that is removed; it logs nothing, as what it says of a few images may not hold of all."""
    clock, before = Clock(), log.disabled
    with tempfile.TemporaryDirectory(prefix="stochx-dry-run-") as folder, _peak() as memory, large_batches():
        place = Path(folder, "run")
        small = dataclasses.replace(settings, output=place, resume=False, overwrite=False, dry_run=False)
        log.disabled = True
        try:
            outcome = command(small)(small, World(), clock)
        finally:
            log.disabled = before
    document = cast(Document, outcome.document)
    if not document["results"]:
        failure = document["failed"][0]
        raise StochxError(failure["error"], failure["hint"])
    return Measured(small, document, clock.stages, clock.seconds - clock.measured, max(memory))


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """Look at the memory of this process every now and then."""
    seen, ended = [resident_memory() or 0], threading.Event()

    def look() -> None:
        while not ended.wait(INTERVAL):
            seen.append(resident_memory() or 0)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
