"""A model argument -> `Classifier`, a data argument -> `Data`."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from stochx.architectures import is_factory
from stochx.catalog import DATASETS
from stochx.classes import with_classes_of
from stochx.datasets import Split
from stochx.engine.io.data import Data
from stochx.engine.io.images import SUFFIXES, Preparation, read, to_tensor
from stochx.engine.modes import plain_modes
from stochx.engine.network.classifier import Classifier, measure_noise
from stochx.engine.network.reading import INDEPENDENT, failure
from stochx.ensembles import ensemble_facts, ensemble_parts, make_ensemble
from stochx.errors import InputError, UsageError, reason
from stochx.factory import from_factory
from stochx.facts import Fact, classes_fact, input_fact, normalisation_fact
from stochx.file_parts import Choice
from stochx.hub import PREFIX as hub_prefix
from stochx.hub import fetched
from stochx.input_files import exists
from stochx.network_files import file_and_part, from_file
from stochx.pretrained import from_timm, from_torchvision
from stochx.settings.choices import WEIGHTS
from stochx.settings.values import Size, sizes

REMEDIES = {
    "weights": "; `--ema` takes the average, and `FILE#PART` any of them",
    "input": "; `--size` gives it",
    "normalisation": "; `--mean` and `--std` give it",
    "classes": "; `--classes` names them",
}

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, and what is known of it."""

    model: Classifier
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Given:
    """What the user states about a network, which overrides every other source.

    `size` is the side of the input in pixels, or (size, size before the crop), each a side or (height, width), or a
    text as `--size` takes it, such as `384x128`; `classes` names the outputs. `ema` takes the averaged weights of a
    file that holds them. With `multilabel` each class is present or not by itself.
    """

    arch: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: str | int | tuple[Size, Size] | None = None
    classes: Sequence[str] | None = None
    ema: bool = False
    multilabel: bool = False

    @property
    def sizes(self) -> tuple[Size, Size] | None:
        """Size of the input, and of the image before the crop."""
        if isinstance(self.size, str):
            return sizes(self.size)
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def load_model(  # noqa: PLR0913  # as many as there are things to tell
    text: str | os.PathLike[str],
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: str | int | tuple[Size, Size] | None = None,
    classes: Sequence[str] | None = None,
    ema: bool = False,
    multilabel: bool = False,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Return a frozen classifier in eval mode from a weights file, torchvision name, `timm:NAME` or own code.

    Own code is a function without arguments, `package.module:function` or `FILE.py:function`; `FILE#PART` chooses
    between several weights in a file. `A+B` or `0.9*A+0.1*B` is a randomised ensemble, which draws one of its networks
    for each image. The other arguments tell what these do not, see `Given`. Raises `InputError` or
    `UsageError` with a remedy for what cannot be loaded.
    """
    return open_model(os.fspath(text), Given(arch, mean, std, size, classes, ema, multilabel), device).model


@plain_modes()
def open_model(
    text: str, given: Given | None = None, device: torch.device | str = "cpu", features: bool = False
) -> Loaded:
    """`load_model`, with where each fact about the model comes from; with `features` also one without classes."""
    given = given or Given()
    parts = ensemble_parts(text)
    if parts is not None:
        members = [open_model(part.model, given, device).model for part in parts]
        model = make_ensemble(text, parts, members)
        model.multilabel = given.multilabel
        return Loaded(model, tuple(ensemble_facts(model, parts)))
    name, part = file_and_part(text)
    hub = fetched(str(name)) if text.startswith(hub_prefix) else None
    path = name if hub is None else hub.path
    if path.suffix in WEIGHTS or exists(path):
        model, facts = from_file(path, Choice(part, given.ema), given.arch, given.sizes, features)
        facts += [] if hub is None else _hub_facts(model, str(name), hub.commit)
    elif given.ema:
        raise UsageError(f"`--ema` chooses among the weights of a file, and `{text}` is a name", "leave it out")
    elif text.startswith("timm:"):
        model, facts = from_timm(text.removeprefix("timm:"), features)
    elif is_factory(text):
        model, facts = from_factory(text, given.sizes)
    else:
        model, facts = from_torchvision(text)
    facts = _apply(given, model, facts)
    if given.multilabel:
        model.multilabel = True
        facts = [fact for fact in facts if INDEPENDENT not in fact.value]
        facts.append(Fact("labels", "several: each class by itself, with the sigmoid of its logit", "given"))
    for fact in facts:
        if fact.source == "guessed":
            log.warning("`%s`: guessed %s: %s%s", text, fact.name, fact.value, REMEDIES.get(fact.name, ""))
        elif fact.name == "output":
            log.warning("`%s` %s", text, fact.value)
    model = model.to(device).eval().requires_grad_(False)
    try:
        model.noise = measure_noise(model, torch.rand_like(model.blank()))
    except Exception as error:  # the user's forward can raise anything
        raise failure(error, text, model.input_shape) from None
    count = sum(p.numel() for p in model.parameters())
    facts.sort(key=lambda fact: fact.name == "input")  # beside what is measured
    facts += [Fact("parameters", f"{count:,}", "measured"), Fact("noise", model.noise, "measured")]
    return Loaded(model, tuple(facts))


def _hub_facts(model: Classifier, name: str, commit: str) -> list[Fact]:
    """Say which commit of a network on the hub was taken, also in what is made of it."""
    model.origin["hub"] = f"{name} at {commit}"
    return [Fact("hub", model.origin["hub"], "file")]


def _apply(given: Given, model: Classifier, facts: list[Fact]) -> list[Fact]:
    """Set what is given, and replace its facts."""
    news = list[Fact]()
    if given.mean is not None or given.std is not None:
        mean, std = (values.flatten().tolist() for values in (model.mean, model.std))
        model.normalise_by(mean if given.mean is None else given.mean, std if given.std is None else given.std)
        news.append(normalisation_fact(model, "given"))
    if given.sizes is not None:
        crop, resize = given.sizes
        model.prepare_by(Preparation(resize, crop, resampling=model.preparation.resampling))
        news.append(input_fact(model, "given"))
    if given.classes is not None:
        if len(given.classes) != len(model.classes):
            raise UsageError(
                f"{len(given.classes)} names for {len(model.classes)} classes", "name every output, in their order"
            )
        model.classes, model.guessed_classes = tuple(given.classes), False
        news.append(classes_fact(model, "given"))
    replaced = {fact.name: fact for fact in news}
    return [replaced.get(fact.name, fact) for fact in facts]


@plain_modes()
def load_data(text: str, split: Split = "test", *, model: Classifier | None = None, innermost: bool = False) -> Data:
    """Return the images of `shapes:size=32`, `cifar10:root=DIR`, a folder, a zip or an npz, a torch `Dataset`.

    With `model` they are prepared for it, and their labels are indices of its classes. With `innermost` the folders in
    the class folders of a bare path are classes, as the characters of alphabets are. Raises `StochxError` for what
    cannot be read, and for classes that the model does not know.
    """
    spec = _data_spec(text)
    if innermost and spec != text and any(field.key == "nested" for field in DATASETS.fields(spec)):
        spec += ",nested=classes"
    try:
        opened = DATASETS.make(spec)(split)
    except OSError as error:
        raise InputError(f"`{text}` cannot be read: {reason(error)}", "check its path and its permissions") from None
    data = dataclasses.replace(opened, reopen=_Opens(text, split, innermost))
    if model is None:
        return data
    named = data if data.labels is None else with_classes_of(copy.copy(model), data, text)
    return dataclasses.replace(named, preparation=model.preparation)


@dataclass(frozen=True)
class _Opens:
    """Opens a data set, also in another process."""

    text: str
    split: Split
    innermost: bool

    def __call__(self) -> Data:
        return load_data(self.text, self.split, innermost=self.innermost)


def read_image(path: str | Path, model: Classifier | None = None) -> Tensor:
    """Return an image file as every command reads it: upright RGB, (3, H, W) float32 in [0, 1].

    With `model` it is prepared for it, (1, H, W) for one that takes gray images, and on its device. Raises `InputError`
    for a file that is no usable image.
    """
    image = read(Path(path).expanduser())
    return to_tensor(image) if model is None else model.preparation.tensor(image).to(model.mean.device)


def _data_spec(text: str) -> str:
    """A bare path as the data set that reads it."""
    path = Path(text)
    if text.partition(":")[0] in DATASETS or not exists(path):
        return text
    if "," in text:
        raise UsageError(f"the path `{text}` contains a comma", "rename it")
    if path.suffix.lower() in SUFFIXES:
        raise UsageError(f"`{text}` is an image, not a data set", "give it as an argument")
    if path.is_dir():
        nested = any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
        kind = "folders" if nested else "files"
    else:
        kind = path.suffix.lower()
    readers = [name for name in DATASETS if kind in cast(tuple[str, ...], DATASETS.declares(name, "reads") or ())]
    if not readers:
        raise UsageError(f"no data set can read `{text}`", "name one, e.g. `npz:path=FILE`")
    return f"{readers[0]}:{DATASETS.fields(readers[0])[0].key}={text}"
