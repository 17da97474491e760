"""CIFAR-10 and CIFAR-100: strips of lossless WebP, or torchvision's folder, downloaded if absent."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stochx.datasets import Split
from stochx.datasets._root import data_root
from stochx.engine.io import images
from stochx.engine.io.archives import read_npy
from stochx.engine.io.data import Data, from_arrays
from stochx.engine.threads import usable_cpus
from stochx.engine.workers import Workers
from stochx.engine.world import local_rank
from stochx.errors import InputError, first_line, printable
from stochx.input_files import open_file

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

MOST = 2**24  # bytes of labels
TIMEOUT = 10.0  # seconds without a response from the network
PATIENCE = 1800.0  # seconds that other ranks wait for a download; torchrun stops them at once if it fails


def load(kind: str, root: str, split: Split) -> Data:
    """Load `cifar10` or `cifar100` as uint8 pixels in memory, from `root`, `STOCHX_DATA` or the cache folder."""
    folder = data_root(root)
    place = _place_of_strips(folder, kind)
    return _batches(folder, kind, split) if place is None else _strips(place, kind, split)


def find(kind: str, *names: str) -> Path | None:
    """Return the place of `cifar10` or `cifar100` in the data folder; `names` are torchvision's."""
    folder = data_root("")
    paths = (place / name for place in (folder, folder / kind) for name in names)
    return _place_of_strips(folder, kind) or next((path for path in paths if path.exists()), None)


def _place_of_strips(folder: Path, kind: str) -> Path | None:
    names = [f"{split}{end}" for split in ("train", "test") for end in ("_labels.npy", "_000.webp")]
    return next((place for place in (folder, folder / kind) if any((place / name).is_file() for name in names)), None)


# Strips ---------------------------------------------------------------------------------------------------------------


def _strips(folder: Path, kind: str, split: Split) -> Data:
    """Read `train_000.webp`, ..., of images stacked vertically, (n * 32, 32); `train_labels.npy`; `classes.txt`."""
    with open_file(folder / "classes.txt") as file:
        classes = file.read().decode(errors="replace").splitlines()
    if len(classes) != int(kind.removeprefix("cifar")):
        raise InputError(f"`{printable(folder / 'classes.txt')}` names {len(classes)} classes", f"is this {kind}?")
    labels = _strip_labels(folder / f"{split}_labels.npy", len(classes))
    files = sorted(f for f in folder.glob(f"{split}_*.webp") if re.fullmatch(rf"{split}_\d+", f.stem))
    missing = next((i for i, file in enumerate(files) if int(file.stem.rpartition("_")[2]) != i), None)
    if missing is not None:
        raise InputError(f"`{printable(folder / f'{split}_{missing:03d}.webp')}` is missing", "download all strips")
    with Workers(usable_cpus()) as pool:
        strips = list(pool.map(_strip, files))
    pixels = np.concatenate(strips) if strips else np.empty((0, 32, 32, 3), np.uint8)
    if len(pixels) != len(labels) or not labels:
        raise InputError(
            f"`{printable(folder)}` has {len(pixels)} {split} images and {len(labels)} labels",
            f"download all `{split}_*.webp` strips",
        )
    return from_arrays(pixels, labels, classes, f"{kind}/{split}")


def _strip(file: Path) -> np.ndarray:
    image = images.read(file)
    if image.width != 32 or image.height % 32:
        raise InputError(
            f"`{printable(file)}` is {image.width} x {image.height}, not a strip of 32 x 32 images", "download it again"
        )
    return np.asarray(image).reshape(-1, 32, 32, 3)


def _strip_labels(path: Path, classes: int) -> list[int]:
    with open_file(path) as file:
        try:
            labels = read_npy(file, MOST)
        except Exception as error:  # malicious bytes: the header's parser raises almost anything
            raise InputError(f"`{printable(path)}` is damaged: {first_line(error)}", "download it again") from None
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "ui"
        or (labels.size and not 0 <= labels.min() <= labels.max() < classes)
    ):
        raise InputError(f"`{printable(path)}` does not contain labels from 0 to {classes - 1}", "download it again")
    return [int(label) for label in labels]


# Torchvision ----------------------------------------------------------------------------------------------------------


def _batches(folder: Path, kind: str, split: Split) -> Data:
    """Read torchvision's pickles, which it loads only if they have the checksums of the original files."""
    from torchvision import datasets  # slow to import, and not needed for strips

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    places = [folder, folder / kind] + ([folder.parent] if folder.name == source.base_folder else [])
    root = next((place for place in places if (place / source.base_folder).is_dir()), None)
    if root is None:
        if local_rank() == 0:
            _provide(folder, source, kind)
        else:
            _await(folder / source.base_folder)
        root = folder
    try:
        cifar = source(root, train=split == "train", download=False)
    except RuntimeError:
        place = printable(root / source.base_folder)
        raise InputError(f"`{place}` is damaged or incomplete", "remove that folder to download it again") from None
    return from_arrays(np.ascontiguousarray(cifar.data), cifar.targets, cifar.classes, f"{kind}/{split}")


def _provide(folder: Path, source: type[CIFAR10], kind: str) -> None:
    """Unpack the archive in `folder`, or download it, and move the result into place once it is complete."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    archive = folder / source.filename
    hint = f"put `{source.filename}` or its folder `{source.base_folder}` into `{printable(folder)}`, or set `root`"
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
                if not (folder / source.base_folder).is_dir():  # otherwise another process was first
                    raise
    except PermissionError:
        raise InputError(f"`{printable(folder)}` contains no {kind} and is not writable", hint) from None
    except (OSError, RuntimeError, EOFError) as error:  # URLError is an OSError
        raise InputError(f"no {kind} in `{printable(folder)}`, and the download failed: {error}", hint) from None


def _await(place: Path) -> None:
    """Wait for the folder from the first process of this machine, which is complete once it has its name."""
    start = time.monotonic()
    while not place.is_dir():
        if time.monotonic() - start > PATIENCE:
            raise InputError(f"local rank 0 did not provide `{printable(place)}`", "run a single process to see why")
        time.sleep(0.2)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
