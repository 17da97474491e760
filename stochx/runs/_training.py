"""Trainings as run folders: what `train`, `distill` and `fsc-train` share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import torch
from torch import nn

from stochx.catalog import ATTACKS
from stochx.engine.io.forms import Count, Share, form
from stochx.engine.io.lines import Record
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import parameter_groups
from stochx.engine.network.weights import save
from stochx.engine.statistics import Estimate
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Objective, Plan, Step, TrainingBatch, Validate, fit
from stochx.engine.training.items import Images, Items, Mixed
from stochx.engine.world import World
from stochx.reports.training import draw_curves
from stochx.runs._results import open_folder
from stochx.runs.watch import Watch
from stochx.settings import FscTrain
from stochx.settings.distill import Distill
from stochx.settings.train import Train
from stochx.settings.training import Epochs, Fitting
from stochx.tasks.objectives import Adversarial
from stochx.tasks.train import Trained, TrainingSplit, validation

ON_DEVICE = 8 * 2**30  # bytes of images that may lie on an accelerator
SELECTING, MONITORING = 1000, 512  # images held out by default to select the best epoch, or to monitor; at most a tenth


class EpochRow(TypedDict):
    """An epoch as JSON, and what was measured after it."""

    epoch: Count
    loss: float
    accuracy: Share
    images_per_second: float
    clean: NotRequired[float]
    robust: NotRequired[float]
    validation: NotRequired[float]


@dataclass(frozen=True)
class TrainingJob:
    """A training: plan, items, objective, what is measured after an epoch, and the measure that selects the best one.

    `save` writes the weights to a file.
    """

    plan: Plan
    items: Items
    objective: Objective
    measure: Validate | None
    selection: str | None
    save: Callable[[Path], None]
    unit: str = "images"


def make_plan(settings: Fitting, epochs: int, batch: int, rate: float) -> Plan:
    """Return the plan of a training."""
    return Plan(
        epochs=epochs,
        batch=batch,
        rate=rate,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        decay=settings.decay,
        accumulate=settings.accumulate,
        augment=settings.augment,
        average=settings.average,
        patience=settings.patience,
    )


def make_adversarial(settings: Epochs) -> Adversarial | None:
    """Return the adversarial training that the settings ask for; None if they ask for none."""
    if settings.attack is None:
        return None
    return Adversarial(
        ATTACKS.make(settings.attack),
        Ball(*settings.ball),
        settings.recipe or "madry",
        delay=settings.delay,
        awp=settings.awp,
        awp_delay=settings.awp_delay,
    )


def validation_size(settings: Epochs, count: int) -> int:
    """Return the number of images, of `count`, to hold out; by default none except in adversarial training."""
    if settings.validation is not None:
        return settings.validation
    if settings.attack is None:
        return 0
    return min(SELECTING if settings.selects else MONITORING, count // 10)


def selection_metric(settings: Epochs) -> str:
    """Return the measure that selects the best epoch."""
    return "clean" if settings.attack is None else "robust"


def train_classifier(
    settings: Train | Distill,
    model: Classifier,
    objective: Objective,
    split: TrainingSplit,
    world: World,
    watch: Watch,
) -> tuple[RunFolder, list[Record]]:
    """Train `model` into a run folder; returns the folder and a row for each epoch.

    The model ends with the weights of its best epoch where held-out images select it, else with the last ones.
    """
    measure = None
    if len(split.held_labels):
        loss: Literal["ce", "margin"] = "margin" if isinstance(settings, Train) and settings.smoothing else "ce"
        measure = validation(split.held_pixels, split.held_labels, make_adversarial(settings), settings.seed, loss)
    job = TrainingJob(
        make_plan(settings, settings.epochs, settings.batch_size, settings.rate),
        _items(settings, split, model.mean.device),
        objective,
        measure,
        selection_metric(settings) if measure is not None and settings.selects else None,
        lambda path: save(path, model),
    )
    folder, rows = train_into(settings, model, job, world, watch)
    if world.leads:
        attacked = settings.attack is not None and settings.recipe in (None, "madry", "ard")
        path = settings.figure_file(folder.folder, "curves")
        draw_curves(path, rows, best_row(settings, rows), attacked, settings.look)
    return folder, rows


def _items(settings: Train | Distill, split: TrainingSplit, device: torch.device) -> Images | Mixed:
    """Return the images to train on, mixed with extra ones if there are any."""
    real = Images(_place(split.pixels, device), _place(split.labels, device))
    if split.extra is None:
        return real
    extra = Images(_place(split.extra.pixels, device), _place(split.extra.labels, device))
    return Mixed(real, extra, settings.extra_part, settings.seed)


def _place(part: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Put images or labels on an accelerator as a whole, if they are not too many."""
    return part.to(device) if device.type != "cpu" and part.nbytes < ON_DEVICE else part


def best_row(settings: Epochs, rows: list[Record]) -> Record | None:
    """Return the epoch whose weights were selected, the first of equals; None where the last ones are kept."""
    metric = selection_metric(settings)
    if metric not in rows[-1] or not settings.selects:
        return None
    return max(rows, key=lambda row: row[metric])


def summarise_training(settings: Epochs, rows: list[Record], test: Estimate, held: int) -> Trained:
    """Return the facts of a finished training, measured as `test` on the test images."""
    last, best = rows[-1], best_row(settings, rows)
    selected = best or last
    return Trained(
        last["epoch"],
        last["loss"],
        last["accuracy"],
        test.mean,
        test.low,
        test.high,
        test.n,
        best_epoch=None if best is None else best["epoch"],
        clean=selected.get("clean"),
        robust=selected.get("robust"),
        validation=held,
    )


def train_into(
    settings: Train | Distill | FscTrain, model: nn.Module, job: TrainingJob, world: World, watch: Watch
) -> tuple[RunFolder, list[Record]]:
    """Train `model` into a run folder: a line of records.jsonl for each epoch, and with `save_epochs` its weights."""
    selected = {} if job.selection is None else {job.selection: float}
    folder = open_folder(settings, world, form(EpochRow, **selected))
    state = folder.folder / "state.safetensors"
    rows: dict[int, Record] = {record["epoch"]: record for record in folder.lines}
    save_epoch = job.save if world.leads and settings.save_epochs else lambda path: None
    with watch.training(job.plan.epochs, len(job.items), job.unit) as bar:

        def watched(network: nn.Module, batch: TrainingBatch) -> Step:
            step = job.objective(network, batch)
            bar.step(batch.epoch, len(batch.y) * world.size, step.loss.detach())
            return step

        epochs = fit(
            model,
            job.items,
            job.plan,
            settings.seed,
            state,
            settings.resume,
            world,
            objective=watched,
            groups=parameter_groups(model),
            validate=job.measure and partial(_validate, job.measure, watch),
            best=job.selection,
        )
        folder.begin()
        if not settings.resume and world.leads:
            _remove_older(folder.folder)
        if not rows:
            save_epoch(_epoch_file(folder.folder, 0))
        for epoch in epochs:
            row = dataclasses.asdict(epoch)
            row |= row.pop("measures")
            save_epoch(_epoch_file(folder.folder, epoch.epoch))
            if world.leads and epoch.epoch not in rows:
                folder.append([row])
            bar.end(row, again=epoch.epoch in rows)
            rows[epoch.epoch] = row
    return folder, [rows[number] for number in sorted(rows)]


def _validate(measure: Validate, watch: Watch, model: nn.Module) -> Mapping[str, float]:
    with watch.progress("validating"):
        return measure(model)


def _remove_older(folder: Path) -> None:
    """Remove what an older run left, which must not be taken for this one's."""
    for file in (folder / "state.safetensors", *(folder / "checkpoints").glob("epoch-*.safetensors")):
        file.unlink(missing_ok=True)


def _epoch_file(folder: Path, epoch: int) -> Path:
    return folder / "checkpoints" / f"epoch-{epoch:03d}.safetensors"
