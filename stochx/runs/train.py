"""Run `stochx train`: train a classifier, measure it on the test images, write its weights."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial

from stochx.architectures import architecture, untrained
from stochx.classes import with_classes_of
from stochx.engine.device import select_runtime
from stochx.engine.io.data import Data
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import noise_layers, penalty
from stochx.engine.network.weights import save
from stochx.engine.seeds import seeded
from stochx.engine.world import World
from stochx.errors import InputError
from stochx.factory import USUAL
from stochx.loading import open_model
from stochx.runs import Outcome
from stochx.runs._networks import given
from stochx.runs._results import exit_code, machine_facts, make_document
from stochx.runs._samples import TrainingData, note_training, read_for_training, training_data
from stochx.runs._training import make_adversarial, summarise_training, train_classifier
from stochx.runs.watch import Watch
from stochx.settings import Train
from stochx.settings.values import Size
from stochx.tasks.objectives import CrossEntropy, objective
from stochx.tasks.train import accuracy, build


def run(settings: Train, world: World, watch: Watch) -> Outcome:
    """Train, measure, and write `model.safetensors` beside the run's files."""
    if settings.arch is not None:
        architecture(settings.arch, 2)  # raises for an unknown one, before the data is read
    runtime = select_runtime(settings.device, settings.precision)
    start = None if settings.init is None else open_model(settings.init, given(settings, settings.arch)).model
    data = training_data(settings, start)
    model, train, test = _initial(settings, start, data)
    model = model.to(runtime.device)
    split, tests = read_for_training(settings, model, data, train, test, watch)
    known = note_training(model, split, tests, data.held_out, start)
    loss = objective(
        CrossEntropy(settings.smoothing),
        adversarial=make_adversarial(settings),
        penalty=penalty if noise_layers(model) else None,
        seed=settings.seed,
    )
    with runtime.scope():
        folder, rows = train_classifier(settings, model, loss, split, world, watch)
        if not world.leads:
            return Outcome(None)
        with seeded(settings.seed, "test"), watch.progress("testing", len(tests)) as advance:
            measured = accuracy(model, tests, advance)
        machine = machine_facts(settings)
    path = folder.folder / "model.safetensors"
    model.origin = {
        **model.origin,
        "trained on": settings.data.partition(":")[0],
        "training": _describe(settings),
    }
    save(path, model)
    trained = summarise_training(settings, rows, measured, len(split.held_labels))
    failed = [*split.failed, *tests.failed]
    document = make_document(settings, watch, machine, [dataclasses.asdict(trained) | {"model": str(path)}], failed)
    document |= data.documents(known)
    folder.finish(rows, document)
    return Outcome(document, exit_code(rows, failed))


def _initial(settings: Train, start: Classifier | None, data: TrainingData) -> tuple[Classifier, Data, Data]:
    """Return the network to train, a new one or `start` with its weights, and the data with its classes."""
    if start is None:
        count, usual = len(data.train.classes), _usual_size(data.train)
        chosen = architecture(settings.arch or "resnet20", count, usual)  # draws, so not within `build`
        model = build(partial(untrained, chosen), data.train.classes, settings.seed)
        return model, data.train, data.test
    train, test = (with_classes_of(start, part, settings.data) for part in (data.train, data.test))
    return start.requires_grad_(True), train, test


def _usual_size(data: Data) -> Size:
    """Return the size of the images, if some of them share it and it is small; else the usual one of networks."""
    shapes = set[tuple[int, int]]()
    for place in {0, len(data) // 2, len(data) - 1}:
        with contextlib.suppress(InputError):  # unreadable, which reading all of them reports
            height, width = data.item(place).image.shape[1:]
            shapes.add((height, width))
    height, width = shapes.pop() if len(shapes) == 1 else (USUAL, USUAL)
    if max(height, width) > USUAL:
        return USUAL
    return height if height == width else (height, width)


def _describe(settings: Train) -> str:
    """Describe the training, for the header of the network's file."""
    record, parts = settings.recorded(), [f"{settings.epochs} epochs"]
    if settings.attack is not None:
        parts += [f"{record['recipe']} {settings.attack}", f"{record['norm']} {record['eps']}"]
    if settings.awp:
        parts.append(f"awp {settings.awp:g}")
    if settings.smoothing:
        parts.append(f"label smoothing {settings.smoothing:g}")
    if settings.extra is not None:
        parts.append(f"{settings.extra_part:.0%} extra images")
    return ", ".join(parts)
