"""Estimates of a run's time and memory: the stages of its pilots, scaled to all items."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import cast

import torch

from stochx.engine.device import CPU_BUDGET, select_runtime
from stochx.engine.io.lines import Record
from stochx.engine.memory import available_memory
from stochx.engine.sweep import MIN_BATCHES
from stochx.engine.world import World
from stochx.errors import UsageError
from stochx.runs._pilots import BY_IMAGE, PER_IMAGE, Measured, Stage, counts, run_pilots
from stochx.runs._training import validation_size
from stochx.runs.document import Document, compose
from stochx.runs.watch import Watch
from stochx.settings import (
    Boundary,
    Distill,
    FscExplain,
    FscTest,
    FscTrain,
    Train,
)
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Limited, Machine
from stochx.tasks.boundary import stride
from stochx.tasks.checks import CHECKED

USUAL_ROWS = 64  # images of a batch


def estimate(settings: RunFiles, world: World, watch: Watch) -> Document:
    """Return the document of `--dry-run`: a row for each stage, then one for all; nothing is written."""
    if world.size > 1:
        raise UsageError("`--dry-run` measures a single process", "leave out `torchrun`")
    with watch.progress("measuring a few items"):
        pilots = run_pilots(settings)
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
    whole, part = counts(settings, pilot)
    if not isinstance(settings, Train | Distill):
        return dict.fromkeys([*PER_IMAGE, "comparing with training images", "checking"], whole / part)
    tested, tested_part = counts(settings, pilot, "test_sample")
    held, held_part = validation_size(settings, whole), validation_size(cast(Train, small), part)
    return {
        "reading images": (whole + tested) / (part + tested_part),
        "training": settings.epochs * (whole - held) / (part - held_part),
        "validating": settings.epochs * held / max(held_part, 1),
        "testing": tested / tested_part,
    }


def _batches(settings: Limited, pilots: Sequence[Measured], label: str) -> float:
    """Return the seconds of a stage that goes over all images in batches.

    A batch takes a + b n seconds for n images; the last two pilots, which have one batch each, tell a and b.
    """
    (whole, part), seconds = counts(settings, pilots[-1]), pilots[-1].stages[label].seconds
    if part >= whole or len(pilots) == 1:
        return seconds
    fewer, sooner = counts(settings, pilots[-2])[1], pilots[-2].stages[label].seconds
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
