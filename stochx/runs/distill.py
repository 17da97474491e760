"""Run `stochx distill`: make a student, train it with its teacher's help, measure both, write the student."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import torch

from stochx.architectures import architecture, untrained
from stochx.catalog import LESSONS
from stochx.classes import with_classes_of
from stochx.engine.device import select_runtime
from stochx.engine.io.held_out import ENTRY
from stochx.engine.network.classifier import Classifier, measure_noise
from stochx.engine.network.stochastic import noise_layers, penalty
from stochx.engine.network.weights import save
from stochx.engine.seeds import seeded
from stochx.engine.world import World
from stochx.errors import InputError, UsageError
from stochx.loading import open_model
from stochx.network_files import install_noise
from stochx.runs import Outcome
from stochx.runs._networks import given
from stochx.runs._results import exit_code, machine_facts, make_document
from stochx.runs._samples import note_training, read_for_training, training_data
from stochx.runs._training import make_adversarial, summarise_training, train_classifier
from stochx.runs.watch import Watch
from stochx.settings import Distill
from stochx.tasks.distill import (
    calibrate_student,
    calibration_steps,
    check_teacher,
    make_criterion,
    make_student,
    measure,
    shared_draws,
)
from stochx.tasks.objectives import objective
from stochx.tasks.train import accuracy


def run(settings: Distill, world: World, watch: Watch) -> Outcome:
    """Train the student, measure it with its noise on and off, and write `student.safetensors`."""
    if settings.arch is not None:
        architecture(settings.arch, 2)  # raises for an unknown one, before data and teacher are read
    runtime = select_runtime(settings.device, settings.precision)
    teacher = _open_teacher(settings, runtime.device)
    data = training_data(settings, teacher)
    train, test = (with_classes_of(teacher, part, settings.data) for part in (data.train, data.test))
    teacher = check_teacher(teacher, train)
    split, tests = read_for_training(settings, teacher, data, train, test, watch)
    lesson = None if settings.kd == "none" else LESSONS.make(settings.kd)
    with runtime.scope():
        student = _make_student(settings, teacher, split.pixels, watch)
        known = note_training(student, split, tests, data.held_out, teacher)
        loss = objective(
            make_criterion(teacher, lesson),
            make_adversarial(settings),
            penalty if noise_layers(student) else None,
            settings.seed,
        )
        folder, rows = train_classifier(settings, student, loss, split, world, watch)
        _measure_noise(student)  # again, since a head that starts at zero hides all noise before it
        passes = len(shared_draws(student, settings.draws, world)) + 2  # draws, noise off, teacher
        with watch.progress("testing", passes * len(tests)) as advance:
            noisy, quiet = measure(student, tests, settings.draws, settings.seed, world, advance)
            if not world.leads:
                return Outcome(None)
            taught = accuracy(teacher, tests, advance)
        machine = machine_facts(settings)
    path = folder.folder / "student.safetensors"
    save(path, student)
    row = dataclasses.asdict(summarise_training(settings, rows, noisy, len(split.held_labels)))
    for name, estimate in (("off", quiet), ("teacher", taught)):
        values = (None,) * 3 if estimate is None else (estimate.mean, estimate.low, estimate.high)
        row |= dict(zip((f"accuracy_{name}", f"low_{name}", f"high_{name}"), values, strict=True))
    row |= {"noise": settings.noise, "kind": student.noise, "model": str(path)}
    row |= {name: text for name, text in student.origin.items() if name != ENTRY}
    failed = [*split.failed, *tests.failed]
    document = make_document(settings, watch, machine, [row], failed) | data.documents(known)
    folder.finish(rows, document)
    return Outcome(document, exit_code(rows, failed))


def _open_teacher(settings: Distill, device: torch.device) -> Classifier:
    """Load the teacher; hints name the options that are its own here."""
    try:
        return open_model(settings.teacher, given(settings, settings.teacher_arch), device).model
    except (InputError, UsageError) as error:
        hint = error.hint.replace("--arch", "--teacher-arch").replace("--model", "--teacher")
        raise type(error)(str(error), hint) from None


def _make_student(settings: Distill, teacher: Classifier, pixels: torch.Tensor, watch: Watch) -> Classifier:
    """Return the student with its noise, calibrated on training images, and the facts of its origin."""
    build = None
    if settings.starts == "random":
        build = partial(_build, settings.arch or teacher.arch, len(teacher.classes))
    student = make_student(teacher, build, settings.seed)
    if settings.noise != "none":
        with seeded(settings.seed, "noise"):
            install_noise(student, settings.noise)
        with watch.progress("calibrating", calibration_steps(len(pixels))) as advance:
            calibrate_student(student, pixels, settings.seed, advance)
        _measure_noise(student)
    file = Path(settings.teacher)
    student.origin = {"teacher": file.name}
    if file.is_file():
        student.origin["teacher sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return student


def _measure_noise(student: Classifier) -> None:
    if noise_layers(student):
        student.noise = measure_noise(student, torch.rand_like(student.blank()))


def _build(arch: str, classes: int) -> Classifier:
    return untrained(architecture(arch, classes), classes)
