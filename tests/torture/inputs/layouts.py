"""Data sets of several files, such as a table beside images, one of which is odd or damaged."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import scipy.io
from PIL import Image
from torture.inputs import maps, odd, pickles
from torture.inputs.data import IMAGES, LABELS, ODD_LABELS, image, odd_name, opened

SHORT = np.array([("x",)], [("other", object)])  # a table that lacks its columns
CELLS = ("", "x.png", "0.png", "../0.png", "a" * 200_000, "nan", "1", "0.9", "\0", '"', "a,b", "Mass", "é", "\ud800")


def prepare(folder: Path) -> None:
    """Read one of each kind."""
    for number, make in enumerate(DOMAINS):
        (folder / str(number)).mkdir(exist_ok=True)
        with suppress(Exception):  # a fault, of which its case tells
            make(Random(0), folder / str(number))


def layouts(draw: Random, folder: Path) -> None:
    """Read a data set of several files, one of which is odd."""
    draw.choice(DOMAINS)(draw, folder)


def _table(draw: Random, heading: str, rows: list[str]) -> bytes:
    """Return a table with odd cells, or damaged."""
    lines = [heading, *rows]
    for _ in range(draw.choice((0, 1, 1, 3))):
        place = draw.randrange(len(lines))
        cells = lines[place].split(",")
        kind = draw.randrange(4)
        if kind == 0:
            cells[draw.randrange(len(cells))] = draw.choice(CELLS)
        elif kind == 1:
            cells.append(draw.choice(CELLS))
        elif kind == 2:
            del cells[draw.randrange(len(cells))]
        else:
            cells = cells[:1]
        lines[place] = ",".join(cells)
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return odd.damaged(draw, content) if draw.random() < 0.3 else content


def _matlab(**arrays: object) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    return file.getvalue()


def _put(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def _isic(draw: Random, folder: Path) -> None:
    for number in range(3):
        _put(folder, f"ISIC2018_Task3_Training_Input/{number}.jpg", image())
    rows = [f"{number}," + ",".join("1.0" if place == number else "0.0" for place in range(7)) for number in range(3)]
    _put(folder, "GroundTruth.csv", _table(draw, "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", rows))
    opened(f"isic:root={folder}")


def _chestx(draw: Random, folder: Path) -> None:
    for number in range(3):
        _put(folder, f"images/{number}.png", image())
    rows = [f"{number}.png,{name},0" for number, name in enumerate(("Mass", "Effusion", "Nodule"))]
    _put(folder, "Data_Entry_2017.csv", _table(draw, "Image Index,Finding Labels,Follow-up", rows))
    opened(f"chestx:root={folder}")


def _miniimagenet(draw: Random, folder: Path) -> None:
    for number in range(3):
        _put(folder, f"images/{number}.png", image())
    heading = draw.choice(("filename,label", "label,filename"))
    _put(folder, "test.csv", _table(draw, heading, [f"{number}.png,n{number}" for number in range(3)]))
    opened(f"miniimagenet:root={folder}")


def _cache(draw: Random, folder: Path) -> None:
    content = pickle.dumps({"image_data": IMAGES, "class_dict": {"a": [0, 1, 2], "b": [3, 4, 5]}}, draw.choice((2, 4)))
    forms = (odd.damaged(draw, content), draw.choice(list(pickles.programs().values())))
    _put(folder, "mini-imagenet-cache-test.pkl", draw.choice(forms))
    opened(f"miniimagenet:root={folder}")


def _cars(draw: Random, folder: Path) -> None:
    _put(folder, "cars_train/0.jpg", image())
    rows = np.array([("0.jpg", 1.0), ("0.jpg", draw.choice((2, 0, 9, -1)))], [("fname", object), ("class", object)])
    files = {
        "annos": _matlab(annotations=draw.choice((rows, rows[:1], np.array([1, 2]), "x", SHORT))),
        "meta": _matlab(
            class_names=draw.choice((np.array(["a", "b"], object), np.array([1.0, 2.0]), "x", np.zeros((0, 0))))
        ),
    }
    for name, content in files.items():
        place = f"devkit/cars_{'train_' if name == 'annos' else ''}{name}.mat"
        _put(folder, place, odd.damaged(draw, content) if draw.random() < 0.3 else content)
    opened(f"cars:root={folder},split=all")


def _imagenet(draw: Random, folder: Path) -> None:
    stems = [f"ILSVRC2012_val_{number:08}" for number in (1, 2)]
    for stem in stems:
        _put(folder, f"{stem}.JPEG", image())
    kind = draw.randrange(3)
    if kind == 0:
        _put(
            folder,
            "LOC_val_solution.csv",
            _table(draw, "ImageId,PredictionString", [f"{stem},n01440764 1 2 3" for stem in stems]),
        )
    elif kind == 1:
        text = b"<annotation><object><name>n01440764</name></object></annotation>"
        for stem in stems:
            _put(folder, f"val/{stem}.xml", odd.damaged(draw, text) if draw.random() < 0.5 else text)
    else:
        truth = draw.choice(("1\n1\n", "1\n", "9\n1", "\0", "x\n1", "1 " * 9))
        table = np.array([(1.0, "n01440764")], [("ILSVRC2012_ID", object), ("WNID", object)])
        _put(folder, "ILSVRC2012_validation_ground_truth.txt", truth.encode())
        content = _matlab(synsets=draw.choice((table, SHORT, np.array([1]), "x")))
        _put(folder, "meta.mat", odd.damaged(draw, content) if draw.random() < 0.5 else content)
    opened(f"imagenet:root={folder}")


def _strips(draw: Random, folder: Path) -> None:
    strip = io.BytesIO()
    Image.fromarray(np.zeros((32 * 6, draw.choice((32, 32, 31)), 3), np.uint8)).save(strip, "WEBP", lossless=True)
    content = strip.getvalue()
    _put(folder, "test_000.webp", odd.damaged(draw, content) if draw.random() < 0.3 else content)
    labels = draw.choice((LABELS, draw.choice(ODD_LABELS)))
    _put(folder, "test_labels.npy", maps.array(draw) if draw.random() < 0.5 else maps.saved(labels))
    names = "\n".join(draw.choice((*odd.TEXTS, "a")) for _ in range(draw.choice((10, 10, 9))))
    _put(folder, "classes.txt", names.encode("utf-8", "surrogatepass"))
    opened(f"cifar10:root={folder}")


def _classes(draw: Random, folder: Path) -> None:
    for number in range(draw.choice((0, 2, 6))):
        name = odd_name(draw).replace("\0", "").replace("/..", "").replace("../", "").lstrip("/")[:200] or "x"
        where = folder / "data" / draw.choice(("a", "b", "train", "Test", name))
        with suppress(OSError, UnicodeError):  # no name that a file can have
            where.mkdir(parents=True, exist_ok=True)
            (where / f"{number}{draw.choice(('.png', '.jpg', '.txt', ''))}").write_bytes(
                draw.choice((image(), image(), b"", image()[:40]))
            )
    (folder / "data").mkdir(exist_ok=True)
    if draw.random() < 0.2:
        (folder / "data" / "loop").symlink_to(draw.choice(("..", ".", "absent", "loop")))
    opened(draw.choice((str(folder / "data"), f"folder:root={folder / 'data'}", f"images:root={folder / 'data'}")))


DOMAINS: tuple[Callable[[Random, Path], None], ...] = (
    _isic, _chestx, _miniimagenet, _cache, _cars, _imagenet, _strips, _classes, _classes,
)  # fmt: skip
