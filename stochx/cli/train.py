"""`stochx train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stochx.catalog import MODELS
from stochx.cli import options as o
from stochx.cli import output as out


def _check_arch(text: str) -> str:
    MODELS.parse(text)
    return text


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
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Architecture. One of: " + ", ".join(MODELS) + ".",
            callback=_check_arch,
            autocompletion=o.complete(MODELS),
            rich_help_panel=o.WHAT,
        ),
    ] = "resnet20",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.", rich_help_panel=o.METHOD)] = 30,
    lr: Annotated[float, typer.Option(min=1e-6, help="Largest learning rate.", rich_help_panel=o.METHOD)] = 0.1,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.", rich_help_panel=o.METHOD)] = 64,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Shift and mirror images.", rich_help_panel=o.METHOD)
    ] = True,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    output: o.Output = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a plain classifier: a teacher, or a network to explain.

    Examples:
      stochx train --data shapes --arch resnet20 --epochs 5 -o teacher/

      stochx train --data cifar10 --arch wide-resnet:depth=16,width=4 --epochs 30 --resume
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/train")
    args: dict[str, object] = {
        "data": data,
        "arch": arch,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "augment": augment,
        "device": device,
        "seed": seed,
        "output": str(target),
    }
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
    out.Column("n", out.number("n", "{}")),
    out.Column("model", lambda row: str(row["model"])),
]
