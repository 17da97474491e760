"""The images that a command uses: a sample of a data set, and those that its networks were trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stochx.classes import match_classes
from stochx.datasets import Split
from stochx.engine.io.data import Data
from stochx.engine.io.fingerprints import fingerprints, union
from stochx.engine.io.held_out import ENTRY, HeldOut, data_hash
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import InputError, printable, quoted
from stochx.loading import load_data
from stochx.runs._training import validation_size
from stochx.runs.document import Document
from stochx.runs.watch import Watch
from stochx.settings.choices import Sampling
from stochx.settings.distill import Distill
from stochx.settings.groups import Limited
from stochx.settings.train import Train
from stochx.tasks.batches import Source
from stochx.tasks.known import trained_among, trained_sources
from stochx.tasks.reading import Stack, stack
from stochx.tasks.train import TrainingSplit, split_for_training

SPLITS: tuple[Split, Split] = ("train", "test")

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Sample:
    """The images that a command uses: how many of how many, chosen how, and a hash of their names in order.

    `trained` counts those that a network was trained on, None where no network's file says.
    """

    kind: Literal["all"] | Sampling
    count: int
    total: int
    hash: str
    trained: int | None = None


@dataclass(frozen=True)
class TrainingData:
    """The images of a training and of its final test, and the part of an undivided data set that the test uses.

    `extra` are images of another set to train on too.
    """

    train: Data
    test: Data
    train_sample: Sample
    test_sample: Sample
    held_out: HeldOut | None
    extra: Data | None = None

    def documents(self, known: int) -> Document:
        """Return both samples as JSON; `known` of the test images were trained on."""
        samples: Document = {
            "sample": dataclasses.asdict(self.train_sample),
            "test_sample": dataclasses.asdict(self.test_sample) | {"trained": known},
        }
        if self.extra is not None:
            samples["extra_sample"] = dataclasses.asdict(sample_of(self.extra.keys, len(self.extra), "first"))
        return samples


def sample_of(names: Sequence[str], total: int, kind: Sampling) -> Sample:
    """Describe the sample `names`."""
    text = "".join(f"{name}\n" for name in names)
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return Sample("all" if len(names) == total else kind, len(names), total, digest)


def take(data: Data, settings: Limited, name: str, files: Sequence[str] = ()) -> tuple[Data, Sample]:
    """Return the images of the data set `name` that `--limit` and `--sample` ask for, after image files.

    The sample is the same for every command, if it is taken before labels are matched with a network. A warning
    announces a balanced sample that was not asked for.
    """
    total = len(files) + len(data)
    count = settings.limit_of(total)
    files, rest = files[:count], max(0, count - len(files))
    kind = settings.sample or data.usual_sample
    taken = data.limited(rest, settings.sample)
    if rest < len(data):
        if kind == "balanced" and settings.sample is None:
            log.warning("images come sorted by class: %d of %d are used, balanced over classes", rest, len(data))
        else:
            log.info("`%s`: %d of %d images are used, %s", name, rest, len(data), kind)
    return taken, sample_of([*files, *taken.keys], total, kind)


def unseen_data(name: str, models: Mapping[str, Classifier]) -> Data:
    """Return the test images of the data set `name`: of an undivided one those that training held out, and say so."""
    data = load_data(name, "test")
    held = {text: HeldOut.noted(model.origin) for text, model in models.items()}
    if not any(held.values()):
        return data
    same = data_hash(data)
    for text, part in held.items():
        if part is not None and part.hash == same:
            places = part.places(data)
            log.warning(
                "`%s`: using the %d of %d images that were held out when `%s` was trained",
                name,
                len(places),
                len(data),
                printable(text),
            )
            return data.subset(places)
    return data


def training_data(settings: Train | Distill, start: Classifier | None) -> TrainingData:
    """Return the images to train on, and others for the final test.

    Of a data set that is not divided, a part is held out from training; the one that was held out from that of the
    network that training starts with, if it used the same images.
    Raises `InputError` for splits of different classes, and where nothing can be held out.
    """
    train, test = (load_data(settings.data, split) for split in SPLITS)
    if train.classes != test.classes:
        raise InputError(
            f"`{settings.data}` has other classes for testing than for training",
            "for a classifier they must be the same: use `split=all`",
        )
    held = None
    if HeldOut.of(train) == HeldOut.of(test):  # the same keys and classes: it has one set of images for all splits
        noted = HeldOut.noted(start.origin) if start is not None else None
        held = HeldOut.of(train)
        held = noted if noted is not None and noted.hash == held.hash else held
        train, test = _parted(train, held, settings.data)
    train, train_sample = take(train, settings, settings.data)
    test, test_sample = take(test, settings, settings.data)
    extra = None if settings.extra is None else load_data(settings.extra, "train")
    if extra is not None:
        _check_size(extra, train, settings)
    return TrainingData(train, test, train_sample, test_sample, held, extra)


def _check_size(extra: Data, train: Data, settings: Train | Distill) -> None:
    """Raise `InputError` for extra images of another size than those that they join; files are resized alike."""
    if extra.pixels is None or train.pixels is None:
        return
    (height, width), (rows, columns) = extra.pixels.shape[-2:], train.pixels.shape[-2:]
    if (height, width) != (rows, columns):
        raise InputError(
            f"the images of `{settings.extra}` are {height} x {width}, those of `{settings.data}` {rows} x {columns}",
            "resize them first",
        )


def read_for_training(
    settings: Train | Distill, model: Classifier, data: TrainingData, train: Data, test: Data, watch: Watch
) -> tuple[TrainingSplit, Stack]:
    """Read the images to train on, with the extra ones, and those of the final test.

    `train` and `test` are those of `data` with labels that are the outputs of `model`; the extra ones get such labels
    too. Raises `InputError` for extra images of other classes.
    """
    extra = None if data.extra is None else _with_outputs(data.extra, model, str(settings.extra))
    total = len(train) + len(test) + (0 if extra is None else len(extra))
    with watch.progress("reading images", total) as advance:
        split = split_for_training(train, model.preparation, validation_size(settings, len(train)), advance)
        if extra is not None:
            more = stack(extra, model.preparation, advance)
            split = dataclasses.replace(split, extra=more, failed=[*split.failed, *more.failed])
        return split, stack(test, model.preparation, advance)


def _with_outputs(extra: Data, model: Classifier, name: str) -> Data:
    """Return extra images with labels that are outputs of the network, whose classes are settled already."""
    if extra.labels is None:
        raise InputError(f"`{name}` has no labels", "use class folders, or an npz with `labels`")
    labels = [int(label) for label in extra.labels]
    try:
        outputs = match_classes(extra.classes, model.classes, sorted({*labels}), name)
    except InputError as error:
        raise InputError(str(error), "extra images need the classes of `--data`") from None
    return dataclasses.replace(extra, labels=[outputs[label] for label in labels], classes=model.classes)


def _parted(data: Data, held: HeldOut, name: str) -> tuple[Data, Data]:
    """Split an undivided data set into images to train on and those that are held out, and say so."""
    if data.labels is None:
        raise InputError(f"`{name}` has no labels", "use class folders, or an npz with `labels`")
    places = {*held.places(data)}
    if not places:
        raise InputError(
            f"`{name}` has no test images, and no class has two of which one could be held out",
            "add folders `train` and `test`",
        )
    log.warning(
        "`%s` has no split of its own: %d of %d images are held out for testing, the same in every run",
        name,
        len(places),
        len(data),
    )
    return data.subset([i for i in range(len(data)) if i not in places]), data.subset(sorted(places))


def note_training(
    model: Classifier, split: TrainingSplit, tests: Stack, held: HeldOut | None, start: Classifier | None
) -> int:
    """Note in `model` the images that it is about to be trained on, and those that are held out; changes it.

    What its `start` knows, it knows too. Returns the number of test images among them, and warns of those.
    """
    known = None if start is None else start.trained
    own = fingerprints([*split.pixels, *split.held_pixels])
    if split.extra is not None:
        own = union(own, _extra_fingerprints(split, split.extra))
    model.trained = own if known is None else union(known, own)
    note = {ENTRY: start.origin[ENTRY]} if start is not None and ENTRY in start.origin else {}
    model.origin |= note if held is None else held.note()
    among = trained_among(zip(tests.keys, tests.pixels, strict=True), model.trained)
    if among:
        log.warning("%d of the %d test images are training images too: %s", len(among), len(tests), quoted(among))
    return len(among)


def _extra_fingerprints(split: TrainingSplit, extra: Stack) -> Tensor:
    """Return the fingerprints of extra images, and warn where held-out ones are among them."""
    found = fingerprints(extra.pixels[i] for i in range(len(extra)))  # one by one: there may be millions
    among = trained_among((("", pixels) for pixels in split.held_pixels), found)
    if among:
        log.warning("%d of the %d validation images are extra images too", len(among), len(split.held_pixels))
    return found


def count_trained(seen: Iterable[tuple[str, Classifier, Sequence[Source]]], world: World, watch: Watch) -> int | None:
    """Warn of the images that each network sees and was trained on; return the largest number, None if no file says."""
    counts = []
    for text, model, sources in seen:
        if model.trained is None or not world.leads:
            continue
        with watch.progress("comparing with training images", len(sources)) as advance:
            known = trained_sources(sources, model.trained, advance)
        warn_of_trained(known, len(sources), text)
        counts.append(len(known))
    return max(counts, default=None)


def warn_of_trained(known: Sequence[str], total: int, model: str) -> None:
    """Warn of the images `known`, of `total`, that a network was trained on."""
    if known:
        log.warning("`%s` was trained on %d of the %d images: %s", printable(model), len(known), total, quoted(known))
