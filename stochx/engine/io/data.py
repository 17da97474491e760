"""Items of a data set: a key, an image in [0, 1], its class, and its object mask."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from stochx.engine.io.images import RGB, Picture, Preparation, prepared_image, prepared_mask
from stochx.engine.parts import Drawing, Parts
from stochx.engine.seeds import generator
from stochx.errors import InputError, printable, storable
from stochx.settings.choices import Sampling


@dataclass(frozen=True)
class Item:
    """An image (C, H, W) in [0, 1], its class index, and the mask (H, W) and parts of its object if there are any."""

    key: str
    image: Tensor
    label: int | None = None
    mask: Tensor | None = None
    domain: str | None = None
    parts: Callable[[], Parts] | None = None


@dataclass(frozen=True)
class Data(Dataset[tuple[Tensor, int]]):
    """Images by index, read on demand: `len(data)`, `data[7]`, `data.item(7)`.

    `read(i)` returns an 8-bit RGB image, or (H, W, C) uint8; `mask(i)` a mask (H, W); `parts(i)` the drawing of an
    object of parts. `pixels` (N, C, H, W) uint8 is set if all images are in memory at one size, for training to read at
    once. Labels are class indices. `preparation` is that of `data[i]`. A pickle holds no images: `reopen()` opens the
    data set again, and these are its images `places`.
    """

    classes: tuple[str, ...]
    keys: Sequence[str]
    read: Callable[[int], Picture]
    labels: Sequence[int] | None = None
    mask: Callable[[int], np.ndarray] | None = None
    domains: Sequence[str] | None = None
    pixels: Tensor | None = None
    preparation: Preparation | None = None
    reopen: Callable[[], Data] | None = None
    places: Sequence[int] | None = None
    parts: Callable[[int], Drawing] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(storable, self.classes)))  # as a network's file holds them

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return image `index` (C, H, W) in [0, 1] and its label, -1 without one; negative ones count from the end.

        Raises `IndexError` past the end, and `InputError` for an unusable image.
        """
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"there is no image {place}, there are {len(self)}")
        item = self.item(place % len(self), self.preparation)
        return item.image, -1 if item.label is None else item.label

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (self[place] for place in range(len(self)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle everything but the images, where they can be opened again."""
        if self.reopen is None:
            return super().__reduce_ex__(protocol)
        opened = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in LIVE}
        return _opened_again, (opened,)

    @property
    def is_sorted_by_class(self) -> bool:
        """Return true if images of a class stand together, so that the first ones are of few classes.

        They do so if neighbours differ in class at most half as often as in a random order: images may be sorted
        twice, for example within two folders.
        """
        labels = [] if self.labels is None else [int(label) for label in self.labels]
        changes = sum(a != b for a, b in itertools.pairwise(labels))
        sizes = Counter(labels).values()
        at_random = len(labels) - sum(size**2 for size in sizes) / max(1, len(labels))
        return 0 < changes < len(sizes) or 0 < changes <= at_random / 2

    @property
    def usual_sample(self) -> Sampling:
        """The sample to take where none is asked for: the first images, balanced ones if they come sorted by class."""
        return "balanced" if self.is_sorted_by_class else "first"

    def limited(self, count: int | None, sample: Sampling | None = None) -> Data:
        """Return `count` images: the first ones, or a sample balanced over classes; by default the usual one.

        A balanced sample depends on the sizes of the classes alone, and that of a smaller count is part of it: one
        image of each class, in a random order of classes, then another one of each, and so on. Raises `InputError` for
        a balanced sample of images without labels.
        """
        sample = sample or self.usual_sample
        if sample == "balanced" and self.labels is None:
            raise InputError("images without labels have no balanced sample", "leave out `--sample`")
        if count is None or count >= len(self):
            return self
        if sample == "first":
            return self.subset(range(count))
        assert self.labels is not None
        labels = torch.tensor([int(label) for label in self.labels])
        rounds = torch.empty_like(labels)
        for label in sorted({*labels.tolist()}):
            places = (labels == label).nonzero().flatten()
            rounds[places] = torch.randperm(len(places), generator=generator("sample", len(places)))
        classes = int(labels.max()) + 1
        turns = torch.randperm(classes, generator=generator("sample classes", classes))
        taken = sorted((rounds * classes + turns[labels]).argsort(stable=True)[:count].tolist())
        return self.subset(taken)

    def subset(self, indices: Sequence[int]) -> Data:
        """Return the images `indices`, in this order."""
        read, mask, parts, labels, domains = self.read, self.mask, self.parts, self.labels, self.domains
        return replace(
            self,
            keys=[self.keys[i] for i in indices],
            read=lambda i: read(indices[i]),
            labels=None if labels is None else [int(labels[i]) for i in indices],
            mask=None if mask is None else lambda i: mask(indices[i]),
            parts=None if parts is None else lambda i: parts(indices[i]),
            domains=None if domains is None else [domains[i] for i in indices],
            pixels=None if self.pixels is None else self.pixels[list(indices)],
            places=list(indices) if self.places is None else [self.places[i] for i in indices],
        )

    def item(self, index: int, prepare: Preparation | None = None) -> Item:
        """Return item `index`, with image and mask prepared alike; raises `InputError` for an unusable image."""
        key, picture, parts = self.keys[index], self.read(index), self.parts
        try:
            image = prepared_image(picture, prepare)
            mask = None if self.mask is None else prepared_mask(self.mask(index), prepare)
        except InputError as error:
            raise InputError(f"`{printable(key)}`: {error}", error.hint) from None
        return Item(
            key=key,
            image=image,
            label=int(self.labels[index]) if self.labels is not None else None,
            mask=mask,
            domain=self.domains[index] if self.domains is not None else None,
            parts=None if parts is None else lambda: parts(index).prepared(prepare),
        )


LIVE = ("read", "mask", "parts", "pixels")  # fields that a pickle leaves out


def _opened_again(parts: dict[str, Any]) -> Data:
    """Return the data of a pickle; each process opens a data set once."""
    whole = _open_once(parts["reopen"])
    places = range(len(whole)) if parts["places"] is None else parts["places"]
    if max(places, default=-1) >= len(whole) or [whole.keys[i] for i in places] != list(parts["keys"]):
        raise InputError("the images of a data set have changed since it was opened", "open it again")
    return replace(whole.subset(places), **parts)


@cache
def _open_once(reopen: Callable[[], Data]) -> Data:
    return reopen()


def channel_axis(shape: Sequence[int]) -> int:
    """Return the axis, 1 or 3, that holds the channels of arrays (N, H, W, C) or (N, C, H, W): 1 or 3, or the fewest.

    Raises `ValueError` where both may.
    """
    first, last = shape[1], shape[3]
    for axis, count in ((3, last), (1, first)):
        if count in (1, RGB):
            return axis
    if first == last:
        raise ValueError(f"which axis of {tuple(shape)} holds the channels cannot be told")
    return 3 if last < first else 1


def from_arrays(
    pixels: np.ndarray,
    labels: Sequence[int] | None,
    classes: Sequence[str],
    prefix: str,
    masks: np.ndarray | None = None,
    domains: Sequence[str] | None = None,
) -> Data:
    """Data from (N, H, W, C) uint8 in memory; keys are `prefix/00000` and so on."""
    return Data(
        classes=tuple(classes),
        keys=[f"{prefix}/{i:05d}" for i in range(len(pixels))],
        read=lambda i: Image.fromarray(pixels[i]) if pixels.shape[3] == RGB else pixels[i],
        labels=labels,
        mask=None if masks is None else lambda i: np.asarray(masks[i], dtype=bool),
        domains=domains,
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
    )
