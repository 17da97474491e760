"""Run `stochx train`: train a classifier, measure it on the test images, write its weights."""

from __future__ import annotations

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
from stochx.loading import load_data, open_model
from stochx.runs import Outcome
from stochx.runs._networks import given, limited
from stochx.runs._results import machine_facts, make_document
from stochx.runs._training import PARTS, make_adversarial, summarise_training, train_classifier, validation_size
from stochx.runs.watch import Watch
from stochx.settings import Train
from stochx.tasks.objectives import objective
from stochx.tasks.train import accuracy, build, split_for_training


def run(settings: Train, world: World, watch: Watch) -> Outcome:
    """Train, measure, and write `model.safetensors` beside the run's files."""
    if settings.arch is not None:
        architecture(settings.arch, 2)  # raises for an unknown one, before the data is read
    runtime = select_runtime(settings.device, settings.precision)
    train, test = (limited(load_data(settings.data, part), settings.limit) for part in PARTS)
    model, train, test = _initial(settings, train, test)
    model = model.to(runtime.device)
    with watch.progress("reading images", len(train)) as advance:
        split = split_for_training(train, model.preparation, validation_size(settings, len(train)), advance)
    loss = objective(
        adversarial=make_adversarial(settings),
        penalty=penalty if noise_layers(model) else None,
        seed=settings.seed,
    )
    with runtime.scope():
        folder, rows = train_classifier(settings, model, loss, split, world, watch)
        if not world.leads:
            return Outcome(None)
        with seeded(settings.seed, "test"), watch.progress("testing", 2 * len(test)) as advance:
            measured = accuracy(model, test, advance)
        machine = machine_facts(settings)
    path = folder.folder / "model.safetensors"
    model.origin = {
        **model.origin,
        "trained on": settings.data.partition(":")[0],
        "training": _describe(settings),
    }
    save(path, model)
    trained = summarise_training(settings, rows, measured, len(split.held_labels))
    document = make_document(settings, watch, machine, [dataclasses.asdict(trained) | {"model": str(path)}])
    folder.finish(rows, document)
    return Outcome(document)


def _initial(settings: Train, train: Data, test: Data) -> tuple[Classifier, Data, Data]:
    """Return the network to train, a new one or `init` with its weights, and the data with its classes."""
    if settings.init is None:
        chosen = architecture(settings.arch or "resnet20", len(train.classes))  # draws, so not within `build`
        return build(partial(untrained, chosen), train.classes, settings.seed), train, test
    model = open_model(settings.init, given(settings, settings.arch)).model
    train, test = (with_classes_of(model, data, settings.data) for data in (train, test))
    return model.requires_grad_(True), train, test


def _describe(settings: Train) -> str:
    """Describe the training, for the header of the network's file."""
    if settings.attack is None:
        return f"{settings.epochs} epochs"
    record = settings.recorded()
    attack = f"{record['recipe']} {settings.attack}, {record['norm']} {record['eps']}"
    return f"{settings.epochs} epochs, {attack}"
