"""Pilots of a run: the command itself with smaller settings, stage by stage, in a folder that is removed.

So a pilot does the work of a run, whatever methods, attacks and draws are chosen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from stochx.background import Thread
from stochx.engine.memory import resident_memory
from stochx.engine.sweep import large_batches
from stochx.engine.world import World
from stochx.errors import StochxError
from stochx.runs import command
from stochx.runs.document import Document
from stochx.runs.watch import Quiet, TrainingWatch
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
from stochx.settings.groups import Limited

FIRST_LIMIT, GROWTH = 2, 4  # images of the first pilot, and how many times as many the next one has
BY_IMAGE = (Attack, Certify, Explain, Score)  # commands that work on one image after the other
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


def run_pilots(settings: RunFiles) -> list[Measured]:
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
        whole, part = counts(settings, pilots[-1])
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

    thread = Thread(look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def counts(settings: Limited, pilot: Measured, sample: str = "sample") -> tuple[int, int]:
    """Return the number of images of the run, and of the pilot."""
    facts = pilot.document[sample]
    return settings.limit_of(facts["total"]), facts["count"]
