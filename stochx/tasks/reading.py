"""The images of a data set as one tensor, at a network's size, without those that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation
from stochx.engine.io.scratch import scratch
from stochx.engine.passes import Report, unreported
from stochx.engine.workers import Workers
from stochx.errors import InputError
from stochx.tasks.batches import Failed

READERS = 8  # images decoded in parallel


@dataclass(frozen=True)
class Stack:
    """Images (N, C, H, W) uint8 with labels (N,) and keys, and the images that could not be read."""

    pixels: Tensor
    labels: Tensor
    keys: Sequence[str]
    failed: Sequence[Failed] = ()

    def __len__(self) -> int:
        return len(self.labels)


def stack(data: Data, preparation: Preparation, report: Report = unreported) -> Stack:
    """Read all images at the network's size; raises the first error if none can be read."""
    if data.labels is None:
        raise InputError("the data set has no labels", "use class folders, or an npz with `labels`")
    count = len(data)
    labels = torch.tensor([int(label) for label in data.labels])
    fits = data.pixels is not None and data.pixels.shape[1:] == preparation.shape
    if data.pixels is not None and fits and preparation.resize == preparation.crop:
        report(count)
        return Stack(data.pixels, labels, data.keys)
    pixels = scratch((count, *preparation.shape), torch.uint8)

    def place(i: int) -> InputError | None:
        try:
            pixels[i] = (data.item(i, preparation).image * 255).round().to(torch.uint8)
        except InputError as error:
            return error
        return None

    kept, failed = list[int](), list[Failed]()
    with Workers(READERS) as readers:
        for i, error in enumerate(readers.map(place, range(count))):
            if error is None:
                kept.append(i)
            else:
                failed.append(Failed(i, data.keys[i], error))
            report(1)
    if failed and not kept:
        raise failed[0].error
    for new, old in enumerate(kept):  # in place: the images may be larger than memory
        if new != old:
            pixels[new] = pixels[old]
    return Stack(pixels[: len(kept)], labels[kept], [data.keys[i] for i in kept], failed)
