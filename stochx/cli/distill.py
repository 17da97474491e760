"""`stochx distill`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.catalog import ATTACKS, MODELS, NOISES
from stochx.cli import options as o
from stochx.cli import output as out
from stochx.cli.training import settled
from stochx.errors import UsageError, suggest

NONE = "none"
TAUGHT = {  # what the teacher teaches, and the keys of each with their defaults
    "soft-labels": {"tau": 4.0, "weight": 0.9},
    "logits": {"weight": 0.5},
    "features": {"weight": 0.5},
    "soft-randomisation": {"sigma": 0.1, "tau": 4.0, "weight": 0.9},
}


def lesson(text: str) -> tuple[str, dict[str, float]]:
    """`tau=4,weight=0.9` -> `("soft-labels", {"tau": 4, "weight": 0.9})`; `logits:weight=0.5`; `none`."""
    name, colon, rest = text.partition(":")
    if "=" in name:
        name, rest = "soft-labels", text
    if name == NONE and not colon:
        return NONE, {}
    if name not in TAUGHT:
        raise UsageError(f"`--kd {text}` teaches nothing known", suggest(name, [*TAUGHT, NONE]))
    values = dict(TAUGHT[name])
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if key not in values or not equals:
            raise UsageError(f"`--kd {text}` has no key `{key}`", suggest(key, values))
        try:
            values[key] = float(value)
        except ValueError:
            raise UsageError(f"`--kd {text}`: `{key}` expects a number, got `{value}`") from None
    if not 0 <= values["weight"] <= 1 or values.get("tau", 1) <= 0 or values.get("sigma", 0) < 0:
        raise UsageError(f"`--kd {text}` is out of range", "weight lies in [0, 1], tau above 0, sigma at 0 or above")
    return name, values


def _lesson(text: str) -> str:
    lesson(text)
    return text


def _noise(text: str) -> str:
    if text != NONE:
        NOISES.parse(text)
    return text


def _attack(text: str) -> str:
    if text != NONE:
        ATTACKS.parse(text)
    return text


def distill(
    teacher: Annotated[
        str,
        typer.Option(
            help="Trained network: weights, a torchvision name, timm:NAME or package.module:factory.",
            rich_help_panel=o.WHAT,
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Data set that the teacher was trained on.",
            autocompletion=o.complete(o.DATASETS),
            rich_help_panel=o.WHAT,
        ),
    ] = "cifar10",
    limit: o.Limit = None,
    teacher_arch: Annotated[
        str | None, typer.Option(help="Architecture of bare weights of the teacher.", rich_help_panel=o.WHAT)
    ] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    noise: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            callback=_noise,
            autocompletion=o.complete(NOISES),
            help="Noise in the student, or none. One of: " + ", ".join(NOISES) + ".",
            rich_help_panel=o.METHOD,
        ),
    ] = "adaptive",
    init: Annotated[
        str, typer.Option(help="The student's first weights: teacher or random.", rich_help_panel=o.METHOD)
    ] = "teacher",
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            callback=o.check_one(MODELS),
            autocompletion=o.complete(MODELS),
            help="Another architecture for the student, which then starts at random.",
            rich_help_panel=o.METHOD,
        ),
    ] = None,
    kd: Annotated[
        str,
        typer.Option(
            callback=_lesson,
            help="What the teacher teaches: tau=T,weight=W (soft labels), logits, features, soft-randomisation, none.",
            rich_help_panel=o.METHOD,
        ),
    ] = "tau=4,weight=0.9",
    adversarial: Annotated[
        str,
        typer.Option(
            metavar="ATTACK[:KEY=VALUE,...]",
            callback=_attack,
            autocompletion=o.complete(ATTACKS),
            help="Train on what an attack makes of the images, or none.",
            rich_help_panel=o.METHOD,
        ),
    ] = "pgd:steps=7",
    recipe: o.Recipe = None,
    eps: o.Eps = None,
    norm: o.Norm = None,
    delay: o.Delay = 0,
    epochs: o.Epochs = 10,
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
    draws: Annotated[
        int, typer.Option(min=1, help="Draws that judge the finished student.", rich_help_panel=o.METHOD)
    ] = 10,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    save_epochs: o.SaveEpochs = False,
    output: o.Output = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make a stochastic student of a trained network: same weights, noise in its layers, taught and trained on.

    Examples:
      stochx distill --teacher resnet.pt

      stochx distill --teacher resnet.safetensors --noise pni:granularity=channel --kd tau=4,weight=0.9 -o student/
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/distill")
    args: dict[str, Any] = {
        "teacher": teacher,
        "data": data,
        "limit": limit,
        "teacher_arch": teacher_arch,
        "mean": mean,
        "std": std,
        "noise": noise,
        "init": "random" if arch else init,
        "arch": arch,
        "kd": kd,
        "adversarial": adversarial,
        "recipe": recipe,
        "eps": eps,
        "norm": norm,
        "delay": delay,
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
        "draws": draws,
        "device": device,
        "precision": precision,
        "seed": seed,
        "save_epochs": save_epochs,
        "output": str(target),
    }
    o.one_of(init, ("teacher", "random"), "--init")
    args = settled(args, trained=args["init"] == "teacher")
    normalisation = o.three_numbers(mean), o.three_numbers(std)
    o.empty_or(target, resume, overwrite)
    out.notes(quiet)
    from stochx.cli._distilled import run_distillation

    document, rows = run_distillation(args, lesson(kd), normalisation, target, resume=resume, quiet=quiet, start=start)
    if document is not None:
        out.show(document, rows, COLUMNS, json)


COLUMNS = [
    out.Column("noise", lambda row: str(row["noise"])),
    out.Column("epochs", out.number("epochs", "{}")),
    out.Column("loss", out.number("loss", "{:.4f}")),
    out.Column("accuracy", lambda row: f"{row['accuracy']:.4f} ± {row['ci95']:.4f}"),
    out.Column("noise off", lambda row: f"{row['accuracy_off']:.4f} ± {row['ci95_off']:.4f}"),
    out.Column("teacher", lambda row: f"{row['accuracy_teacher']:.4f} ± {row['ci95_teacher']:.4f}"),
    out.Column("quick robust", out.number("robust", "{:.4f}")),
    out.Column("n", out.number("n", "{}")),
    out.Column("model", lambda row: str(row["model"])),
]
