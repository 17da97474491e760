"""`stochx train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stochx.catalog import MODELS
from stochx.cli import options as o
from stochx.cli import output as out
from stochx.cli.training import settled


def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Data set to learn.",
            autocompletion=o.complete(o.DATASETS),
            rich_help_panel=o.WHAT,
        ),
    ] = "shapes",
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Architecture; default resnet20. One of: " + ", ".join(MODELS) + ".",
            callback=o.check_one(MODELS),
            autocompletion=o.complete(MODELS),
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Start from these weights, not from random ones.", rich_help_panel=o.WHAT),
    ] = None,
    limit: o.Limit = None,
    epochs: o.Epochs = 30,
    lr: o.LearningRate = None,
    batch_size: o.StepSize = 128,
    augment: o.Augment = True,
    optimizer: o.Optimizer = "sgd",
    schedule: o.Schedule = "one-cycle",
    decay: o.Decay = 5e-4,
    average: o.Average = 0.0,
    accumulate: o.Accumulate = 1,
    validation: o.Validation = None,
    patience: o.Patience = 0,
    adversarial: o.Adversarial = None,
    recipe: o.Recipe = None,
    eps: o.Eps = None,
    norm: o.Norm = None,
    delay: o.Delay = 0,
    device: o.Device = "auto",
    precision: Annotated[
        str,
        typer.Option(help="Of convolutions and products: auto (fp32), fp32, bf16 or tf32.", rich_help_panel=o.RUN),
    ] = "auto",
    seed: o.Seed = 0,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    save_epochs: o.SaveEpochs = False,
    output: o.Output = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a classifier, on images as they are or against an attack: a teacher, or a network to explain.

    Examples:
      stochx train --data cifar10 --arch resnet20 --epochs 30 -o teacher/

      stochx train --data cifar10 --arch resnet20 --adversarial pgd:steps=7 --recipe trades -o at/
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/train")
    args: dict[str, object] = {
        "data": data,
        "arch": arch or (None if init else "resnet20"),
        "init": init,
        "limit": limit,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "augment": augment,
        "optimizer": optimizer,
        "schedule": schedule,
        "decay": decay,
        "average": average,
        "accumulate": accumulate,
        "validation": validation,
        "patience": patience,
        "adversarial": adversarial,
        "recipe": recipe,
        "eps": eps,
        "norm": norm,
        "delay": delay,
        "device": device,
        "precision": precision,
        "seed": seed,
        "save_epochs": save_epochs,
        "output": str(target),
    }
    args = settled(args, trained=init is not None)
    o.empty_or(target, resume, overwrite)
    out.notes(quiet)
    from stochx.cli._trained import run_training

    document, rows = run_training(args, target, resume=resume, quiet=quiet, start=start)
    if document is not None:
        out.show(document, rows, COLUMNS, json)


COLUMNS = [
    out.Column("epochs", out.number("epochs", "{}")),
    out.Column("loss", out.number("loss", "{:.4f}")),
    out.Column("train accuracy", out.number("train_accuracy", "{:.4f}")),
    out.Column("accuracy", lambda row: f"{row['accuracy']:.4f} ± {row['ci95']:.4f}"),
    out.Column("best epoch", out.number("best_epoch", "{}")),
    out.Column("quick robust", out.number("robust", "{:.4f}")),
    out.Column("n", out.number("n", "{}")),
    out.Column("model", lambda row: str(row["model"])),
]
