"""The part of `stochx train` that needs torch, and what it shares with `distill`: settings -> epochs -> files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stochx.catalog import ATTACKS, MODELS
from stochx.cli import options as o
from stochx.cli import output
from stochx.cli._epochs import Course, Document, Row, machine_of, run_epochs
from stochx.cli.training import attacked
from stochx.engine.device import select_runtime
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import noise_layers, penalty
from stochx.engine.network.weights import save
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Objective, Plan
from stochx.engine.training.items import Images
from stochx.engine.world import World, process_group
from stochx.errors import InputError
from stochx.loading import load_data, load_model
from stochx.reports.training import draw_curves
from stochx.tasks.objectives import Adversarial, objective
from stochx.tasks.train import Trained, TrainingSplit, accuracy, build, split_for_training, validation

ON_DEVICE = 8 * 2**30  # bytes of images that may lie on an accelerator
HELD, WATCHED = 1000, 512  # images kept apart by default to choose by, or to watch; at most a tenth


def plan_of(args: Mapping[str, Any]) -> Plan:
    """The plan that options describe."""
    return Plan(
        epochs=args["epochs"],
        batch=args["batch_size"],
        rate=args["lr"],
        optimizer=args["optimizer"],
        schedule=args["schedule"],
        decay=args["decay"],
        accumulate=args["accumulate"],
        augment=args["augment"],
        average=args["average"],
        patience=args["patience"],
    )


def adversarial_of(args: Mapping[str, Any]) -> Adversarial | None:
    """The adversarial training that options describe, if they do."""
    if not attacked(args):
        return None
    ball = Ball(o.radius(args["eps"], args["norm"]), args["norm"])
    return Adversarial(ATTACKS.make(args["adversarial"]), ball, args["recipe"], delay=args["delay"])


def held_of(args: Mapping[str, Any], count: int) -> int:
    """How many of `count` images to keep apart, by default in adversarial training: to choose by, or to watch only."""
    if args["validation"] is not None:
        return int(args["validation"])
    return min(HELD if chooses(args) else WATCHED, count // 10) if attacked(args) else 0


def chooses(args: Mapping[str, Any]) -> bool:
    """Whether images kept apart choose the best epoch: not by default where trained weights may have seen them."""
    return args["validation"] is not None or args["init"] in (None, "random")


def run_lessons(
    args: Mapping[str, Any],
    folder: Path,
    model: Classifier,
    lowered: Objective,
    learnt: TrainingSplit,
    world: World,
    *,
    quiet: bool,
    resume: bool,
) -> tuple[RunFolder, list[Row]]:
    """Train `model` by the plan of `args` into a run folder; its rows, one for each epoch.

    The model ends with the weights of its best epoch, where images are kept apart, else with the last ones.
    """
    measure = None
    if len(learnt.held_labels):
        measure = validation(learnt.held_pixels, learnt.held_labels, adversarial_of(args), args["seed"])
    pixels, labels = (_placed(part, model.mean.device) for part in (learnt.pixels, learnt.labels))
    best = chosen_by(args) if measure is not None and chooses(args) else None
    course = Course(plan_of(args), Images(pixels, labels), lowered, measure, best, lambda path: save(path, model))
    run, made = run_epochs(args, folder, model, course, world, quiet=quiet, resume=resume)
    if world.leads:
        draw_curves(folder / "curves.png", made, best_row(args, made), args.get("recipe") == "madry")
    return run, made


def chosen_by(args: Mapping[str, Any]) -> str:
    """What the best epoch has most of."""
    return "robust" if attacked(args) else "clean"


def best_row(args: Mapping[str, Any], rows: list[Row]) -> Row | None:
    """The epoch whose weights were chosen, the first of equals; None where the last ones are kept."""
    if chosen_by(args) not in rows[-1] or not chooses(args):
        return None
    return max(rows, key=lambda row: row[chosen_by(args)])


def trained_of(args: Mapping[str, Any], rows: list[Row], measured: Any, held: int) -> Trained:
    """The facts of a finished training."""
    last, best = rows[-1], best_row(args, rows)
    found = Trained(last["epoch"], last["loss"], last["accuracy"], measured.mean, measured.ci95, measured.n)
    kept = best or last
    return dataclasses.replace(
        found,
        best_epoch=None if best is None else best["epoch"],
        clean=kept.get("clean"),
        robust=kept.get("robust"),
        validation=held,
    )


def _placed(part: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images and labels lie on an accelerator as a whole, if they are not too many."""
    return part.to(device) if device.type != "cpu" and part.nbytes < ON_DEVICE else part


def run_training(
    args: Mapping[str, Any], folder: Path, *, resume: bool, quiet: bool, start: float
) -> tuple[Document | None, list[Row]]:
    """Train, measure, write `model.safetensors` and the run's files; nothing to print off rank 0."""
    with process_group() as world:
        runtime = select_runtime(args["device"], args["precision"])
        train, test = load_data(args["data"], "train"), load_data(args["data"], "test")
        model = _first(args, train.classes).to(runtime.device)
        limit = min(len(train), args["limit"] or len(train))
        learnt = split_for_training(train, model.preparation, limit, held_of(args, limit))
        lowered = objective(
            adversarial=adversarial_of(args), penalty=penalty if noise_layers(model) else None, seed=args["seed"]
        )
        with runtime.scope():
            run, rows = run_lessons(args, folder, model, lowered, learnt, world, quiet=quiet, resume=resume)
            if not world.leads:
                return None, []
            with seeded(args["seed"], "test"):
                measured = accuracy(model, test)
            made = trained_of(args, rows, measured, len(learnt.held_labels))
            machine = machine_of(args)
        path = folder / "model.safetensors"
        model.origin = {**model.origin, "trained on": args["data"].partition(":")[0], "training": _described(args)}
        save(path, model)
        result = [dataclasses.asdict(made) | {"model": str(path)}]
        document = output.result("train", args, machine, result, time.perf_counter() - start)
        run.finish(rows, document)
        return document, result


def _first(args: Mapping[str, Any], classes: tuple[str, ...]) -> Classifier:
    """The network to train: a new one, or `init` with its weights."""
    if args["init"] is None:
        return build(MODELS.make(args["arch"]), classes, args["seed"])
    model = load_model(args["init"], arch=args["arch"])
    if len(model.classes) != len(classes):
        raise InputError(
            f"`{args['init']}` knows {len(model.classes)} classes, the data set has {len(classes)}",
            "use the data set that it was trained on",
        )
    model.classes = classes
    return model.requires_grad_(True)


def _described(args: Mapping[str, Any]) -> str:
    if not attacked(args):
        return f"{args['epochs']} epochs"
    return f"{args['epochs']} epochs, {args['recipe']} {args['adversarial']}, {args['norm']} {args['eps']}"
