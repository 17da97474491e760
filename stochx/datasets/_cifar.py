"""The two CIFARs: strips of lossless WebP, or torchvision's folder, downloaded where there is a network."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stochx.datasets import Split
from stochx.datasets._root import data_root
from stochx.engine.io import images
from stochx.engine.io.data import Data, from_arrays
from stochx.engine.io.images import open_file
from stochx.engine.threads import usable_cpus
from stochx.engine.world import local_rank
from stochx.errors import InputError, printable

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

TIMEOUT = 10.0  # seconds without an answer from the network
PATIENCE = 1800.0  # seconds that other ranks wait for a download; torchrun ends them at once where it fails


def load(kind: str, root: str, split: Split) -> Data:
    """`cifar10` or `cifar100`: uint8 pixels in memory, from `root`, `STOCHX_DATA` or the cache folder."""
    folder = data_root(root)
    for place in (folder, folder / kind):
        if any((place / f"{s}{end}").is_file() for s in ("train", "test") for end in ("_labels.npy", "_000.webp")):
            return _strips(place, kind, split)
    return _batches(folder, kind, split)


# Strips ---------------------------------------------------------------------------------------------------------------


def _strips(folder: Path, kind: str, split: Split) -> Data:
    """`train_000.webp`, ...: images stacked vertically, (n * 32, 32); `train_labels.npy`; `classes.txt`."""
    with open_file(folder / "classes.txt") as file:
        classes = file.read().decode(errors="replace").splitlines()
    if len(classes) != int(kind.removeprefix("cifar")):
        raise InputError(f"`{printable(folder / 'classes.txt')}` names {len(classes)} classes", f"is this {kind}?")
    labels = _strip_labels(folder / f"{split}_labels.npy", len(classes))
    files = sorted(f for f in folder.glob(f"{split}_*.webp") if re.fullmatch(rf"{split}_\d+", f.stem))
    missing = next((i for i, file in enumerate(files) if int(file.stem.rpartition("_")[2]) != i), None)
    if missing is not None:
        raise InputError(f"`{printable(folder / f'{split}_{missing:03d}.webp')}` is missing", "bring all strips")
    with ThreadPoolExecutor(usable_cpus()) as pool:
        strips = list(pool.map(_strip, files))
    pixels = np.concatenate(strips) if strips else np.empty((0, 32, 32, 3), np.uint8)
    if len(pixels) != len(labels) or not labels:
        raise InputError(
            f"`{printable(folder)}` has {len(pixels)} {split} images and {len(labels)} labels",
            f"bring all `{split}_*.webp` strips",
        )
    return from_arrays(pixels, labels, classes, f"{kind}/{split}")


def _strip(file: Path) -> np.ndarray:
    image = images.read(file)
    if image.width != 32 or image.height % 32:
        raise InputError(
            f"`{printable(file)}` is {image.width} x {image.height}, no strip of 32 x 32 images", "bring it again"
        )
    return np.asarray(image).reshape(-1, 32, 32, 3)


def _strip_labels(path: Path, classes: int) -> list[int]:
    with open_file(path) as file:
        try:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, OSError, EOFError, SyntaxError) as error:
            raise InputError(f"`{printable(path)}` is damaged: {error}", "bring it again") from None
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "ui"
        or (labels.size and not 0 <= labels.min() <= labels.max() < classes)
    ):
        raise InputError(f"`{printable(path)}` does not hold labels from 0 to {classes - 1}", "bring it again")
    return [int(label) for label in labels]


# Torchvision ----------------------------------------------------------------------------------------------------------


def _batches(folder: Path, kind: str, split: Split) -> Data:
    """Torchvision's pickles; it loads them only when their checksums are those of the original files."""
    from torchvision import datasets  # slow to import, and strips need none of it

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    places = [folder, folder / kind] + ([folder.parent] if folder.name == source.base_folder else [])
    root = next((place for place in places if (place / source.base_folder).is_dir()), None)
    if root is None:
        if local_rank() == 0:
            _bring(folder, source, kind)
        else:
            _await(folder / source.base_folder)
        root = folder
    try:
        found = source(root, train=split == "train", download=False)
    except RuntimeError:
        place = printable(root / source.base_folder)
        raise InputError(f"`{place}` is damaged or not complete", "remove that folder, then it is made again") from None
    return from_arrays(np.ascontiguousarray(found.data), found.targets, found.classes, f"{kind}/{split}")


def _bring(folder: Path, source: type[CIFAR10], kind: str) -> None:
    """Unpack the archive in `folder`, or download it, and move the result into place when it is whole."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    archive = folder / source.filename
    hint = f"put `{source.filename}` or its folder `{source.base_folder}` into `{printable(folder)}`, or give `root`"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{kind}.") as work:
            if check_integrity(archive, source.tgz_md5):
                extract_archive(archive, work)
            else:
                with _socket_timeout(TIMEOUT), contextlib.redirect_stdout(sys.stderr):  # older torchvisions print
                    source(work, download=True)
            try:
                Path(work, source.base_folder).rename(folder / source.base_folder)
            except OSError:
                if not (folder / source.base_folder).is_dir():  # else another process was first
                    raise
    except PermissionError:
        raise InputError(f"`{printable(folder)}` holds no {kind} and may not be written", hint) from None
    except (OSError, RuntimeError, EOFError) as error:  # URLError is an OSError
        raise InputError(f"no {kind} in `{printable(folder)}`, and no download: {error}", hint) from None


def _await(place: Path) -> None:
    """Wait for what the first process of this machine brings; it is whole as soon as it has its name."""
    start = time.monotonic()
    while not place.is_dir():
        if time.monotonic() - start > PATIENCE:
            raise InputError(f"local rank 0 brought no `{printable(place)}`", "start one process alone to see why")
        time.sleep(0.2)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
