"""A network that needs no training, the nearest of four colours, and folders of images that it classifies right."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier

COLOURS = {"ant": (220, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 220), "dog": (220, 220, 40)}


def nearest_colour(classes):
    """A network that needs no training: the nearest of four colours."""
    colours = torch.tensor(
        [COLOURS.get(name, default) for name, default in zip(classes, COLOURS.values(), strict=True)]
    )
    colours = colours / 255

    class Nearest(nn.Module):
        def forward(self, x):
            return 20 * x.mean((2, 3)) @ colours.T - 10 * (colours**2).sum(1)

    return Classifier(Nearest(), classes, Preparation(16, 16))


def folders(place, names, colours=COLOURS):
    """Three images of each name."""
    for name in names:
        (place / name).mkdir(parents=True)
        for k in range(3):
            pixels = np.full((16, 16, 3), colours[name.lower().strip("_ ")], np.uint8)
            pixels[k, k] ^= 8
            Image.fromarray(pixels).save(place / name / f"{k}.png")
    return place


def data(classes, labels):
    return Data(classes, [str(i) for i in range(len(labels))], lambda i: None, labels)
