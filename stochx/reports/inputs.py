"""Files of images as a network saw them, at its own size: for people, and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stochx.engine.io.files import atomic
from stochx.engine.io.images import to_image
from stochx.tasks.attack import Attacked

KEPT = 24  # images of an attack that are kept beside their adversarial images
CRISP = 64  # pixels: smaller images are stored without loss


def save_input(path: Path, image: Tensor) -> None:
    """Write an image (3, H, W) in [0, 1] as a PNG."""
    with atomic(path) as temporary:
        to_image(image).save(temporary, format="PNG")


def save_sheet(path: Path, images: Tensor) -> None:
    """Write images (N, K, 3, H, W), N rows of K, as one PNG."""
    save_input(path, torch.cat([torch.cat([*row], -1) for row in images], -2))


def save_triples(folder: Path, attacked: Attacked, files: Sequence[str]) -> None:
    """Write `IMAGE.webp` of each of the first images of a run: image, attacked image, and their magnified difference.

    The attack is the worst of each image; grey is no change, and the largest change spans the whole range.
    """
    for n, record in enumerate(attacked.records):
        if record.index >= KEPT:
            continue
        name = record.worst_attack or next(iter(attacked.adversarial))
        x, adv = attacked.x[n].cpu(), attacked.adversarial[name][n].cpu()
        _save_webp(folder / f"{files[record.index]}.webp", to_image(torch.cat([x, adv, magnified(adv - x)], -1)))


def magnified(change: Tensor) -> Tensor:
    """Return a change of pixels around grey, its largest value at the end of the range."""
    return 0.5 + change / (2 * float(change.abs().max()) or 1.0)


def _save_webp(path: Path, picture: Image.Image) -> None:
    with atomic(path) as temporary:
        picture.save(temporary, format="WEBP", lossless=picture.height <= CRISP, quality=88, method=4)
