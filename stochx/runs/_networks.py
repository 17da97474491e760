"""The networks and images that settings name."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import torch

from stochx.classes import are_numbers, match_classes
from stochx.engine.io.data import Data, Item
from stochx.engine.io.images import read
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import InputError, UsageError, printable, suggest
from stochx.loading import Given, Loaded, open_model
from stochx.runs._samples import Sample, count_trained, sample_of, take, unseen_data
from stochx.runs.document import Document
from stochx.runs.watch import Watch
from stochx.settings.groups import Description, Images, Labelled, Network
from stochx.tasks.batches import Source


def open_network(text: str, settings: Network, device: torch.device) -> Loaded:
    """Load a network, and what is known of it."""
    return open_model(text, given(settings, settings.arch), device)


def identify(loaded: Loaded) -> Document:
    """Identify a network: its architecture, the hash of its file, and its own noise."""
    model, facts = loaded.model, {fact.name: fact.value for fact in loaded.facts}
    return {
        "arch": model.arch,
        "sha256": facts.get("sha256"),
        "noise": model.noise,
        "noises": model.noises or None,
    }


def given(settings: Description, arch: str | None) -> Given:
    """Return what the settings state about a network."""
    mean, std = settings.normalisation
    several = isinstance(settings, Labelled) and settings.multilabel
    return Given(arch, mean, std, settings.sizes, settings.class_names, settings.ema, several)


def explained_network(settings: Images, device: torch.device) -> Classifier:
    """Load the network that is explained, which sees whole images with `--no-crop`."""
    model = open_network(settings.model, settings, device).model
    if not settings.crop:
        model.prepare_by(dataclasses.replace(model.preparation, whole=True))
    return model


def image_sources(settings: Images, model: Classifier, world: World, watch: Watch) -> tuple[list[Source], Sample]:
    """Return the image files, then the data set's images, as many as are asked for, and warn of those trained on."""
    files, name = settings.images, settings.data
    if name is None:
        count = settings.limit_of(len(files))
        sample = sample_of(files[:count], len(files), "first")
        sources = [Source(path, partial(_read_file, Path(path), model)) for path in files[:count]]
    else:
        data, sample = take(unseen_data(name, {settings.model: model}), settings, name, files)
        sources = [Source(path, partial(_read_file, Path(path), model)) for path in files[: sample.count]]
        sources += data_sources(data, name, model) if sample.count > len(files) else []
    trained = count_trained([(settings.model, model, sources)], world, watch)
    return sources, dataclasses.replace(sample, trained=trained)


def data_sources(data: Data, name: str, model: Classifier) -> list[Source]:
    """Return the images of the data set `name`."""
    if not len(data):
        raise InputError(f"`{name}` holds no images", "check the path")
    names = _true_classes(data, name, model)
    return [
        Source(data.keys[i], partial(data.item, i, model.preparation), true=names[i] if names else None)
        for i in range(len(data))
    ]


def _true_classes(data: Data, name: str, model: Classifier) -> list[str]:
    """Return the class of each image as the network calls it, or else as the data set does; empty without labels."""
    labels = [] if data.labels is None else [int(label) for label in data.labels]
    if are_numbers(model.classes):
        return [data.classes[label] for label in labels]
    try:
        outputs = match_classes(data.classes, model.classes, sorted({*labels}), name)
    except InputError:
        return [data.classes[label] for label in labels]
    return [model.classes[outputs[label]] for label in labels]


def _read_file(path: Path, model: Classifier) -> Item:
    picture = read(path)  # its errors name the file
    try:
        image = model.preparation.tensor(picture)
    except InputError as error:
        raise InputError(f"`{printable(path)}`: {error}", error.hint) from None
    return Item(hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest(), image)


def class_index(text: str | None, model: Classifier) -> int | None:
    """Find a class by its index or name; raises `UsageError` for one that the network does not have."""
    if text is None:
        return None
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) < len(model.classes):
            raise UsageError(
                f"there is no class {text}: the model has {len(model.classes)}", f"use 0 to {len(model.classes) - 1}"
            )
        return int(text)
    if text not in model.classes:
        raise UsageError(f"the model has no class `{text}`", suggest(text, model.classes) if len(text) < 40 else "")
    return model.classes.index(text)
