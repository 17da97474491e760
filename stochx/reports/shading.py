"""Colours of a plane: the class of each cell, paler with less confidence, with lines between classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

PALE = 0.22  # saturation of a class at the lowest confidence


def shade(
    labels: np.ndarray, confidence: np.ndarray, colours: Mapping[int, str], classes: int, pixels: int
) -> np.ndarray:
    """Return a plane (H, W) of labels in colours (H', W', 3) in [0, 1], its longer side at least `pixels`.

    `colours` are those of the labels that appear, `#4477AA`; `classes` is the number of the network's classes.
    """
    table = np.ones((max(labels.max(), *colours) + 1, 3))
    for k, colour in colours.items():
        table[k] = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    floor = 1 / classes
    strength = PALE + (1 - PALE) * np.clip((confidence - floor) / (1 - floor), 0, 1)
    picture = 1 - strength[..., None] * (1 - table[labels])
    times = max(1, -(-pixels // max(labels.shape)))
    picture, labels = (part.repeat(times, 0).repeat(times, 1) for part in (picture, labels))
    edge = np.zeros(labels.shape, bool)
    for axis in range(2):
        change = np.diff(labels, axis=axis) != 0
        for side in ((1, 0), (0, 1)):
            edge |= np.pad(change, [side if k == axis else (0, 0) for k in range(2)])
    picture[edge] *= 0.3
    return picture
