"""The epochs of a training as a run folder: shared by `train`, `distill` and `fsc-train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stochx.cli.bar import training_bar
from stochx.engine.device import current
from stochx.engine.io.store import RunFolder
from stochx.engine.network.stochastic import parameter_groups
from stochx.engine.training.fit import Objective, Plan, Step, TrainingBatch, Validate, fit
from stochx.engine.training.items import Items
from stochx.engine.world import World

Document = dict[str, object]
Row = dict[str, Any]


@dataclass(frozen=True)
class Course:
    """What a training is: plan, items, loss, what is measured after an epoch, by which of it the best one is chosen.

    `save` writes the weights to a file.
    """

    plan: Plan
    items: Items
    lowered: Objective
    measure: Validate | None
    best: str | None
    save: Callable[[Path], None]
    unit: str = "images"


def run_epochs(
    args: Mapping[str, Any], folder: Path, model: nn.Module, course: Course, world: World, *, quiet: bool, resume: bool
) -> tuple[RunFolder, list[Row]]:
    """Train `model` into a run folder; its rows, one for each epoch.

    Writes a line of `records.jsonl` after each epoch, and with `save_epochs` its weights.
    """
    run, state = RunFolder(folder, args, world.rank, resume), folder / "state.safetensors"
    rows: dict[int, Row] = {record["epoch"]: record for record in run.records}
    saved = course.save if world.leads and args["save_epochs"] else lambda path: None
    with training_bar(course.plan.epochs, len(course.items), quiet or not world.leads, course.unit) as bar:

        def watched(network: nn.Module, batch: TrainingBatch) -> Step:
            step = course.lowered(network, batch)
            bar.step(batch.epoch, len(batch.y) * world.size, step.loss.detach())
            return step

        epochs = fit(
            model,
            course.items,
            course.plan,
            args["seed"],
            state,
            resume,
            world,
            objective=watched,
            groups=parameter_groups(model),
            validate=course.measure,
            best=course.best,
        )
        run.begin()
        if not resume and world.leads:
            _drop_older(folder)
        if not rows:
            saved(_epoch_file(folder, 0))
        for epoch in epochs:
            row = dataclasses.asdict(epoch)
            row |= row.pop("measures")
            saved(_epoch_file(folder, epoch.epoch))
            if world.leads and epoch.epoch not in rows:
                run.append([row])
            bar.end(row, again=epoch.epoch in rows)
            rows[epoch.epoch] = row
    return run, [rows[number] for number in sorted(rows)]


def machine_of(args: Mapping[str, Any]) -> dict[str, object]:
    """Where and how a training ran, for its document."""
    runtime = current()
    return {
        "seed": args["seed"],
        "device": str(runtime.device),
        "precision": runtime.precision,
        "threads": torch.get_num_threads(),
    }


def _drop_older(folder: Path) -> None:
    """What an older run left must not be taken for this one's."""
    for file in (folder / "state.safetensors", *(folder / "checkpoints").glob("epoch-*.safetensors")):
        file.unlink(missing_ok=True)


def _epoch_file(folder: Path, epoch: int) -> Path:
    return folder / "checkpoints" / f"epoch-{epoch:03d}.safetensors"
