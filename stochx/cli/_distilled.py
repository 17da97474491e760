"""The part of `stochx distill` that needs torch."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stochx.cli import output
from stochx.cli._epochs import Document, Row, machine_of
from stochx.cli._trained import adversarial_of, held_of, run_lessons, trained_of
from stochx.engine.device import select_runtime
from stochx.engine.network.classifier import Classifier, measure_noise
from stochx.engine.network.stochastic import noise_layers, penalty
from stochx.engine.network.weights import save
from stochx.engine.seeds import seeded
from stochx.engine.world import process_group
from stochx.loading import architecture, install_noise, load_data, load_model
from stochx.tasks.distill import calibrated, check_teacher, make_criterion, make_student, measure
from stochx.tasks.objectives import objective
from stochx.tasks.train import accuracy, split_for_training


def run_distillation(
    args: Mapping[str, Any],
    lesson: tuple[str, Mapping[str, float]],
    normalisation: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[Row]]:
    """Teach, measure, write `student.safetensors` and the run's files; nothing to print off rank 0."""
    mean, std = normalisation
    with process_group() as world:
        runtime = select_runtime(args["device"], args["precision"])
        train, test = load_data(args["data"], "train"), load_data(args["data"], "test")
        teacher = load_model(args["teacher"], arch=args["teacher_arch"], mean=mean, std=std, device=runtime.device)
        teacher = check_teacher(teacher, train)
        limit = min(len(train), args["limit"] or len(train))
        held = held_of(args, limit)
        learnt = split_for_training(train, teacher.preparation, limit, held)
        with runtime.scope():
            student = _student(args, teacher, learnt.pixels)
            lowered = objective(
                make_criterion(teacher, *lesson),
                adversarial_of(args),
                penalty if noise_layers(student) else None,
                args["seed"],
            )
            run, rows = run_lessons(args, folder, student, lowered, learnt, world, quiet=quiet, resume=resume)
            noisy, quieted = measure(student, test, args["draws"], args["seed"], world)
            if not world.leads:
                return None, []
            taught = accuracy(teacher, test)
            machine = machine_of(args)
        path = folder / "student.safetensors"
        save(path, student)
        made = dataclasses.asdict(trained_of(args, rows, noisy, len(learnt.held_labels)))
        for name, one in (("off", quieted), ("teacher", taught)):
            made |= {f"accuracy_{name}": one.mean, f"ci95_{name}": one.ci95}
        result = [made | {"noise": args["noise"], "kind": student.noise, "model": str(path), **student.origin}]
        document = output.result("distill", args, machine, result, time.perf_counter() - start)
        run.finish(rows, document)
        return document, result


def _student(args: Mapping[str, Any], teacher: Classifier, pixels: torch.Tensor) -> Classifier:
    """The student with its noise, calibrated on training images, and the facts of where it comes from."""
    build = None
    if args["init"] == "random":
        build = partial(_built, args["arch"] or teacher.arch, len(teacher.classes))
    student = make_student(teacher, build, args["seed"])
    if args["noise"] != "none":
        with seeded(args["seed"], "noise"):
            install_noise(student, args["noise"])
        calibrated(student, pixels, args["seed"])
        side = student.input_size
        student.noise = measure_noise(student, torch.rand(1, 3, side, side, device=student.mean.device))
    file = Path(args["teacher"])
    student.origin = {"teacher": file.name}
    if file.is_file():
        student.origin["teacher sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return student


def _built(arch: str, classes: int) -> Classifier:
    return architecture(arch, classes).build()
