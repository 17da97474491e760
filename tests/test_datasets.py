"""Data sets: every layout that people have on disk, hostile ones too, and shapes whose masks are the evidence."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import shutil
import socket
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import shared
from PIL import Image
from torch import Tensor

from stochx.catalog import DATASETS
from stochx.datasets import _cifar
from stochx.datasets import zip as zip_file
from stochx.datasets._outlines import NAMES, OUTLINES, area
from stochx.datasets._scenes import DOMAINS
from stochx.datasets.shapes import Shapes
from stochx.engine.data import Data
from stochx.errors import InputError, UsageError


def load(spec: str, split: str = "train") -> Data:
    return DATASETS.make(spec)(split)  # type: ignore[arg-type]


def encoded(grey: int, form: str = "PNG") -> bytes:
    Image.new("RGB", (12, 10), (grey,) * 3).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


def plant(root: Path, *names: str) -> Path:
    """One image a name; the k-th is of grey k."""
    for grey, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(grey))
    return root


def packed(path: Path, *names: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for grey, name in enumerate(names):
            archive.writestr(name, encoded(grey))
    return path


def grey(data: Data, index: int) -> int:
    return np.asarray(data.read(index))[0, 0, 0]


# Class folders, on disk and in a zip ----------------------------------------------------------------------------------

TWO = {"cat/a.png": "cat", "dog/b.png": "dog"}
SPLITS = {"train/cat/a.png": "cat", "train/dog/b.png": "dog"}
GREEK = {"x/Greek/alpha/1.png": "Greek/alpha", "x/Greek/beta/1.png": "Greek/beta", "x/Latin/a/1.png": "Latin/a"}
HIDDEN = ["dog/._b.png", ".git/x/y.png", "__MACOSX/cat/a.png", "dog/notes.txt"]
LAYOUTS = {  # the files, the split, and the class of each image in it
    "plain": (["dog/b.png", "cat/a.png", "cat/c.JPG"], "train", {**TWO, "cat/c.JPG": "cat"}),
    "wrapped": (["set/dog/b.png", "set/cat/a.png"], "train", {"set/cat/a.png": "cat", "set/dog/b.png": "dog"}),
    "nested": (list(GREEK), "test", GREEK),
    "one class": (["set/cat/a.png", "set/cat/b.png"], "train", {"set/cat/a.png": "cat", "set/cat/b.png": "cat"}),
    "hidden": (["cat/a.png", *HIDDEN, "dog/b.png"], "train", TWO),
    "train": ([*SPLITS, "test/dog/c.png"], "train", SPLITS),
    "test": ([*SPLITS, "test/dog/c.png", "val/dog/d.png"], "test", {"test/dog/c.png": "dog"}),
    "val": (["in/train/cat/a.png", "in/train/dog/b.png", "in/val/dog/c.png"], "test", {"in/val/dog/c.png": "dog"}),
    "only train": (list(SPLITS), "test", SPLITS),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_folders_name_the_classes(tmp_path: Path, kind: str, layout: str) -> None:
    names, split, expected = LAYOUTS[layout]
    if kind == "folder":
        data = load(f"folder:root={plant(tmp_path, *names)}", split)
    else:
        data = load(f"zip:path={packed(tmp_path / 'a.zip', *names)}", split)
    assert data.labels is not None
    assert {key: data.classes[label] for key, label in zip(data.keys, data.labels, strict=True)} == expected
    assert list(data.keys) == sorted(data.keys) and list(data.classes) == sorted(data.classes)
    assert [grey(data, i) for i in range(len(data))] == [names.index(key) for key in data.keys]


def test_both_splits_number_the_classes_alike(tmp_path: Path) -> None:
    plant(tmp_path, "train/bee/a.png", "train/cat/a.png", "test/cat/a.png")
    assert load(f"folder:root={tmp_path}", "test").labels == (1,)
    assert load(f"folder:root={tmp_path}", "test").classes == ("bee", "cat")


def test_images_beside_class_folders_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "cat/a.png", "dog/a.png", "overview.png")
    assert len(load(f"folder:root={tmp_path}")) == 2
    assert "1 images beside class folders are left out (`overview.png`)" in caplog.text


def test_a_folder_reads_images_when_asked(tmp_path: Path) -> None:
    plant(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat/a.png").write_bytes(encoded(9)[:40])
    data = load(f"folder:root={tmp_path}")
    assert grey(data, 1) == 1
    with pytest.raises(InputError, match=r"`.*cat/a\.png` is"):
        data.read(0)


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    plant(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "dog/self").symlink_to(tmp_path)
    assert list(load(f"folder:root={tmp_path}").keys) == ["cat/a.png", "dog/b.png"]


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    plant(tmp_path / "real", "cat/a.png")
    plant(tmp_path / "set", "dog/b.png")
    (tmp_path / "set/cat").symlink_to(tmp_path / "real/cat")
    assert load(f"folder:root={tmp_path / 'set'}").classes == ("cat", "dog")


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_a_folder_without_images_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="no image in"):
        load(f"{kind}:root={tmp_path}")
    with pytest.raises(InputError, match="no such folder"):
        load(f"{kind}:root={tmp_path / 'absent'}")
    (tmp_path / "file.png").write_bytes(encoded(0))
    with pytest.raises(InputError, match="is not a folder"):
        load(f"{kind}:root={tmp_path / 'file.png'}")


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no class folders"):
        load(f"folder:root={plant(tmp_path, 'a.png', 'b.png')}")


def test_a_test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat/a.png", "test/b.png")
    with pytest.raises(InputError, match="has no class folders in `test`"):
        load(f"folder:root={tmp_path}", "test")


def test_loose_images_have_no_labels(tmp_path: Path) -> None:
    data = load(f"images:root={plant(tmp_path, 'b.png', 'deep/er/a.png', 'notes.txt')}")
    assert list(data.keys) == ["b.png", "deep/er/a.png"]
    assert (data.labels, data.classes) == (None, ())
    assert data.item(1).label is None and grey(data, 1) == 1


# Zips -----------------------------------------------------------------------------------------------------------------


def test_threads_and_forks_read_one_zip(tmp_path: Path) -> None:
    names = [f"{c}/{i:03d}.png" for c in "ab" for i in range(100)]
    data = load(f"zip:path={packed(tmp_path / 'a.zip', *names)}")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: grey(data, i), range(200))) == list(range(200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
        child = os.fork()
    right = all(grey(data, i) == i for i in range(200))
    if child == 0:
        os._exit(0 if right else 1)
    assert right and os.waitpid(child, 0)[1] == 0


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"a\.zip` is not a zip"):
        load(f"zip:path={path}")
    with pytest.raises(InputError, match=r"no such file: `.*b\.zip`"):
        load(f"zip:path={tmp_path / 'b.zip'}")
    with pytest.raises(InputError, match=r"no image in `.*c\.zip`"):
        load(f"zip:path={packed(tmp_path / 'c.zip')}")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "cat/a.png", "dog/b.png")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="is not a zip, or is damaged"):
        load(f"zip:path={path}")


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "cat/a.png", "dog/b.png", compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(encoded(1), encoded(1)[:-20] + bytes(20)))
    data = load(f"zip:path={path}")
    assert grey(data, 0) == 0
    with pytest.raises(InputError, match=r"a\.zip:dog/b\.png` is damaged: Bad CRC"):
        data.read(1)


def test_a_member_that_is_no_image_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/a.png", "text")
    with pytest.raises(InputError, match=r"a\.zip:cat/a\.png` is not an image"):
        load(f"zip:path={tmp_path / 'a.zip'}").read(0)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("cat/a.png", "w") as f:
        for _ in range(257):
            f.write(bytes(2**20))
    data = load(f"zip:path={tmp_path / 'a.zip'}")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"cat/a\.png` unpacks to more than 256 MiB"):
        data.read(0)
    assert time.perf_counter() - start < 0.05


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", bytes(2**24))
    data = load(f"zip:path={tmp_path / 'a.zip'}")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace((2**24).to_bytes(4, "little"), (2**10).to_bytes(4, "little")))
    data = load(f"zip:path={tmp_path / 'a.zip'}")
    with pytest.raises(InputError, match=r"cat/a\.png` is damaged: Bad CRC"):
        data.read(0)


def test_unbounded_compressions_are_refused(tmp_path: Path) -> None:
    data = load(f"zip:path={packed(tmp_path / 'a.zip', 'cat/a.png', compression=zipfile.ZIP_LZMA)}")
    with pytest.raises(InputError, match="compressed in an unusual way"):
        data.read(0)
    assert zip_file.BOUNDED == (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    content = bytearray(packed(tmp_path / "a.zip", "cat/a.png").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="is encrypted"):
        load(f"zip:path={tmp_path / 'a.zip'}").read(0)


def test_names_that_leave_the_zip_are_not_classes(tmp_path: Path) -> None:
    data = load(f"zip:path={packed(tmp_path / 'a.zip', 'cat/a.png', '../../evil/b.png', 'dog/c.png')}")
    assert data.classes == ("cat", "dog")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("name", "count", "classes", "first"),
    [
        ("omniglot_images_background_small1", 2720, 136, "Balinese/character01"),
        ("miniimagenet_val", 480, 16, "n01855672"),
    ],
)
def test_real_few_shot_zips_are_read(name: str, count: int, classes: int, first: str) -> None:
    data = load(f"zip:path={shared(f'fewshot/{name}.zip')}")
    assert data.labels is not None
    assert (len(data), len(data.classes), data.classes[0]) == (count, classes, first)
    assert np.bincount(data.labels).tolist() == [count // classes] * classes
    sizes = {data.read(i).size for i in range(0, count, 40)}
    assert sizes == ({(105, 105)} if "omniglot" in name else {(84, 84)})


# Arrays ---------------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)


def saved(path: Path, **arrays: object) -> str:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return f"npz:path={path}"


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": PIXELS, "labels": [2, 0, 1, 1]},
        {"x": PIXELS, "y": np.array([[2], [0], [1], [1]])},
        {"x": PIXELS.transpose(0, 3, 1, 2), "y": np.array([2, 0, 1, 1], np.uint8)},
        {"x": PIXELS / 255, "y": [2, 0, 1, 1]},
        {"x": (PIXELS / 255).astype(np.float32).transpose(0, 3, 1, 2), "y": [2, 0, 1, 1]},
    ],
)
def test_arrays_are_read_in_any_order_and_type(tmp_path: Path, arrays: dict[str, object]) -> None:
    data = load(saved(tmp_path / "a.npz", **arrays))
    assert data.pixels is not None
    assert torch.equal(data.pixels, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert np.array_equal(data.read(1), PIXELS[1])
    assert (data.labels, data.classes, data.keys[3]) == ([2, 0, 1, 1], ("0", "1", "2"), "a/00003")


def test_arrays_may_name_classes_and_have_masks(tmp_path: Path) -> None:
    masks = PIXELS[..., 0] > 99
    data = load(saved(tmp_path / "a.npz", images=PIXELS, y=[0, 1, 0, 1], classes=["cat", "dog"], masks=masks * 255))
    mask = data.item(2).mask
    assert data.classes == ("cat", "dog")
    assert mask is not None and np.array_equal(mask, masks[2])


def test_arrays_need_no_labels(tmp_path: Path) -> None:
    data = load(saved(tmp_path / "a.npz", images=PIXELS))
    assert (data.labels, data.classes) == (None, ())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": PIXELS}, "has no array `images` or `x`"),
        ({"x": PIXELS[0]}, r"images are \(N, H, W, 3\)"),
        ({"x": PIXELS[..., :2]}, r"images are \(N, H, W, 3\)"),
        ({"x": PIXELS[:0]}, "it holds no image"),
        ({"x": PIXELS[:, :5]}, "at least 8 x 8, got 5 x 10"),
        ({"x": PIXELS.astype(np.int64)}, "uint8 or floats, got int64"),
        ({"x": np.where(PIXELS > 250, np.nan, 0.5)}, "hold NaN"),
        ({"x": np.where(PIXELS > 250, np.inf, 0.5)}, "got 0.5 to inf"),
        ({"x": PIXELS.astype(np.float32)}, r"lie in \[0, 1\]"),
        ({"x": PIXELS, "y": [0, 1, 2]}, r"4 images need labels \(4,\), got \(3,\)"),
        ({"x": PIXELS, "y": [0.0, 1, 2, 3]}, "whole numbers, got float64"),
        ({"x": PIXELS, "y": [0, 1, 2, -1]}, "got -1 to 2"),
        ({"x": PIXELS, "y": [0, 1, 2, 10**9]}, "got 0 to 1000000000"),
        ({"x": PIXELS, "y": [0, 1, 2, 3], "classes": ["a", "b"]}, "label 3 is outside of 2 classes"),
        ({"x": PIXELS, "y": [0, 1, 2, 3], "classes": [1, 2, 3, 4]}, "classes are a list of texts"),
        ({"x": PIXELS, "masks": np.ones((4, 3, 3), bool)}, r"masks are \(4, 12, 10\), got \(4, 3, 3\)"),
        ({"x": PIXELS, "masks": np.ones((4, 12, 10))}, "masks are booleans or whole numbers"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load(saved(tmp_path / "a.npz", **arrays))
    assert "a.npz`" in str(caught.value) and caught.value.hint


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("exploded",)


def test_pickled_arrays_are_refused_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be read: Object arrays"):
        load(saved(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object)))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="is not an npz file"):
        load(f"npz:path={tmp_path / 'b.npz'}")
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", x=PIXELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[100:140] = bytes(40)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz` cannot be read"):
        load(f"npz:path={tmp_path / 'a.npz'}")


# CIFAR ----------------------------------------------------------------------------------------------------------------

TINY = np.random.default_rng(4).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def strips(folder: Path, split: str = "test", classes: int = 10, labels: object = (0, 1, 2, 3, 4, 9)) -> Path:
    """Two strips of three images."""
    folder.mkdir(exist_ok=True, parents=True)
    for k in range(2):
        image = Image.fromarray(TINY[3 * k : 3 * k + 3].reshape(-1, 32, 3))
        image.save(folder / f"{split}_{k:03d}.webp", lossless=True)
    np.save(folder / f"{split}_labels.npy", np.array(labels, np.uint8))
    (folder / "classes.txt").write_text("\n".join(f"class {k}" for k in range(classes)) + "\n")
    return folder


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_strips_are_read_from_their_folder_or_the_one_above(tmp_path: Path, below: str) -> None:
    strips(tmp_path / below)
    data = load(f"cifar10:root={tmp_path}", "test")
    assert data.pixels is not None
    assert torch.equal(data.pixels, torch.from_numpy(TINY).permute(0, 3, 1, 2))
    assert (data.labels, data.classes[9], data.keys[5]) == ([0, 1, 2, 3, 4, 9], "class 9", "cifar10/test/00005")


def test_the_variable_says_where_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strips(tmp_path / "cifar100", classes=100)
    monkeypatch.setenv("STOCHX_DATA", str(tmp_path))
    assert len(load("cifar100", "test")) == 6


def test_a_part_is_read_where_strips_and_labels_agree(tmp_path: Path) -> None:
    (strips(tmp_path, labels=[5, 6, 7]) / "test_001.webp").unlink()
    assert load(f"cifar10:root={tmp_path}", "test").labels == [5, 6, 7]


def test_incomplete_strips_are_refused(tmp_path: Path) -> None:
    (strips(tmp_path) / "test_001.webp").unlink()
    with pytest.raises(InputError, match="has 3 test images and 6 labels"):
        load(f"cifar10:root={tmp_path}", "test")
    (strips(tmp_path, labels=[5, 6, 7]) / "test_000.webp").unlink()
    with pytest.raises(InputError, match=r"test_000\.webp` is missing"):
        load(f"cifar10:root={tmp_path}", "test")
    with pytest.raises(InputError, match=r"no such file: `.*train_labels\.npy`"):
        load(f"cifar10:root={tmp_path}", "train")


def test_wrong_strips_are_refused(tmp_path: Path) -> None:
    strips(tmp_path, labels=[0, 1, 2, 3, 4, 10])
    with pytest.raises(InputError, match="does not hold labels from 0 to 9"):
        load(f"cifar10:root={tmp_path}", "test")
    with pytest.raises(InputError, match=r"classes\.txt` names 10 classes") as caught:
        load(f"cifar100:root={tmp_path}", "test")
    assert caught.value.hint == "is this cifar100?"
    Image.new("RGB", (40, 64)).save(strips(tmp_path) / "test_001.webp")
    with pytest.raises(InputError, match=r"test_001\.webp` is 40 x 64, no strip"):
        load(f"cifar10:root={tmp_path}", "test")
    np.save(tmp_path / "test_labels.npy", np.array([Bomb()]), allow_pickle=True)
    with pytest.raises(InputError, match=r"test_labels\.npy` is damaged: Object arrays"):
        load(f"cifar10:root={tmp_path}", "test")


def batches(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's folder in miniature; the checksums that torchvision knows are replaced by those of these files."""
    source = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[kind]
    folder = root / source.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    flat = TINY.transpose(0, 3, 1, 2).reshape(6, -1)
    key, names = ("labels", TEN) if kind == "cifar10" else ("fine_labels", [f"fine {k}" for k in range(100)])
    for split in ("train", "test"):
        files = [write(name, {"data": flat, key: [0, 1, 2, 3, 4, 9]}) for name, _ in getattr(source, f"{split}_list")]
        monkeypatch.setattr(source, f"{split}_list", files)
    name, checksum = write(source.meta["filename"], {source.meta["key"]: names})
    monkeypatch.setattr(source, "meta", {**source.meta, "filename": name, "md5": checksum})


@pytest.mark.parametrize("below", ["", "cifar10", "itself"])
def test_torchvisions_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    batches(tmp_path / below.removeprefix("itself"), "cifar10", monkeypatch)
    root = tmp_path / "cifar-10-batches-py" if below == "itself" else tmp_path
    data = load(f"cifar10:root={root}", "test")
    assert data.pixels is not None and torch.equal(data.pixels, torch.from_numpy(TINY).permute(0, 3, 1, 2))
    assert (data.labels, data.classes[3]) == ([0, 1, 2, 3, 4, 9], "cat")
    assert len(load(f"cifar10:root={root}", "train")) == 30


def test_torchvisions_cifar100_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches(tmp_path, "cifar100", monkeypatch)
    assert load(f"cifar100:root={tmp_path}", "train").classes[99] == "fine 99"


def test_foreign_pickles_are_refused_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batches(tmp_path, "cifar10", monkeypatch)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="cifar-10-batches-py` is damaged or not complete"):
        load(f"cifar10:root={tmp_path}", "test")
    assert not (tmp_path / "exploded").exists()


def test_without_data_and_network_the_hint_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        assert socket.getdefaulttimeout() == _cifar.TIMEOUT
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.delenv("STOCHX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with pytest.raises(InputError, match=r"no cifar10 in .*Name or service not known") as caught:
        load("cifar10")
    folder = tmp_path / "stochx/data"
    assert f"put `cifar-10-python.tar.gz` or its folder `cifar-10-batches-py` into `{folder}`" in caught.value.hint
    assert list(folder.iterdir()) == [] and socket.getdefaulttimeout() is None


def test_a_mistyped_root_starts_no_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load(f"cifar10:root={tmp_path / 'absent'}")


def test_what_is_brought_is_moved_into_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches(tmp_path / "net", "cifar10", monkeypatch)

    def download(self: torchvision.datasets.CIFAR10) -> None:
        (tmp_path / "net" / self.base_folder).rename(Path(self.root) / self.base_folder)

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    (tmp_path / "home").mkdir()
    assert len(load(f"cifar10:root={tmp_path / 'home'}", "test")) == 6
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["cifar-10-batches-py"]


def test_an_archive_beside_is_unpacked_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision.datasets.CIFAR10
    batches(tmp_path / "net", "cifar10", monkeypatch)
    (tmp_path / "home").mkdir()
    shutil.make_archive(str(tmp_path / "home/cifar-10-python"), "gztar", tmp_path / "net")
    checksum = hashlib.md5((tmp_path / "home" / source.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(source, "tgz_md5", checksum)
    assert len(load(f"cifar10:root={tmp_path / 'home'}", "test")) == 6


TEST_SUM = "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
TRAIN_SUM = "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"


@pytest.mark.parametrize(
    ("split", "count", "checksum"),
    [("test", 10_000, TEST_SUM), pytest.param("train", 50_000, TRAIN_SUM, marks=pytest.mark.slow)],
)
def test_real_cifar10_is_bit_exact(split: str, count: int, checksum: str) -> None:
    data = load(f"cifar10:root={shared('cifar10')}", split)
    assert data.pixels is not None and data.labels is not None
    assert hashlib.sha256(data.pixels.permute(0, 2, 3, 1).numpy().tobytes()).hexdigest() == checksum
    assert np.bincount(data.labels).tolist() == [count // 10] * 10
    assert list(data.classes) == TEN


def test_the_real_part_of_cifar100_is_read() -> None:
    data = load(f"cifar100:root={shared('cifar100').parent}", "test")
    assert data.labels is not None
    assert np.bincount(data.labels).tolist() == [50] * 100
    assert (data.classes[0], data.classes[99]) == ("apple", "worm")


# Shapes ---------------------------------------------------------------------------------------------------------------


def masks(data: Data) -> np.ndarray:
    assert data.mask is not None
    return np.stack([data.mask(i) for i in range(len(data))])


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_item_does_not_depend_on_its_company(domain: str) -> None:
    few, many = (Shapes(count=count, domain=domain)("train") for count in (3, 700))  # type: ignore[arg-type]
    assert few.pixels is not None and many.pixels is not None
    assert torch.equal(few.pixels, many.pixels[:3])
    assert np.array_equal(masks(few), masks(many)[:3])


@pytest.mark.parametrize("domain", DOMAINS)
def test_large_sets_are_drawn_when_asked_and_the_same(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Shapes(count=20, domain=domain)("test")  # type: ignore[arg-type]
    monkeypatch.setattr("stochx.datasets.shapes.IN_MEMORY", 0)
    asked = Shapes(count=20, domain=domain)("test")  # type: ignore[arg-type]
    assert asked.pixels is None and list(asked.keys) == list(made.keys)
    for i in range(4):
        assert np.array_equal(asked.read(i), made.read(i))
    assert np.array_equal(masks(asked), masks(made))


def test_seeds_splits_and_domains_draw_other_images() -> None:
    sets = [Shapes(count=10)("train"), Shapes(count=50)("test"), Shapes(count=10, seed=1)("train")]
    sets += [Shapes(count=10, domain=domain)("train") for domain in ("sketch", "inverted", "clutter")]
    for one, other in itertools.combinations(sets, 2):
        assert (masks(one) != masks(other)).any((1, 2)).all()


def test_mixed_holds_every_domain_as_it_is() -> None:
    mixed, sketch = Shapes(count=80, domain="mixed")("train"), Shapes(count=80, domain="sketch")("train")
    assert mixed.domains is not None and mixed.labels is not None
    for domain in DOMAINS:
        labels = [y for y, d in zip(mixed.labels, mixed.domains, strict=True) if d == domain]
        assert np.bincount(labels).tolist() == [2] * 10
    assert mixed.domains[10] == "sketch" and np.array_equal(mixed.read(10), sketch.read(10))


def test_a_scene_is_the_same_at_any_size() -> None:
    small, large = (Shapes(count=16, classes=16, size=size)("train") for size in (64, 192))
    for i in range(16):
        assert small.mask is not None and large.mask is not None
        shrunk = large.mask(i).reshape(64, 3, 64, 3).mean((1, 3)) > 0.5
        assert (shrunk ^ small.mask(i)).mean() < 0.01


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_object_is_whole_and_of_sensible_size(size: int) -> None:
    drawn = masks(Shapes(count=400, classes=16, size=size)("train"))
    covered = drawn.mean((1, 2))
    assert 0.08 < covered.min() < 0.16 and 0.28 < covered.max() < 0.35
    border = np.concatenate([drawn[:, [0, -1]].reshape(400, -1), drawn[:, :, [0, -1]].reshape(400, -1)], 1)
    assert not border.any()


def test_evidence_lies_within_the_mask() -> None:
    """A class changes nothing outside of the object: scenes of one chance, but another shape, share their ground."""
    from stochx.datasets._scenes import draw

    for paint in DOMAINS.values():
        one, other = (draw(32, [shape], [11]) for shape in ("disc", "star"))
        outside = (one.distance > 1) & (other.distance > 1)
        assert outside.sum() > 300
        assert np.array_equal(paint(one)[outside], paint(other)[outside])
        assert (paint(one) != paint(other)).any()


def test_outlines_are_true_distances_within_the_unit_circle() -> None:
    side = np.linspace(-1.1, 1.1, 300)
    x, y = np.meshgrid(side, side)
    for name, outline in OUTLINES.items():
        distance = outline(x, y)
        slope = np.hypot(*np.gradient(distance, side, side))
        assert np.hypot(x, y)[distance < 0].max() <= 1.001, name
        assert np.median(np.abs(slope - 1)) < 1e-3, name
        assert outline(x.astype(np.float32), y.astype(np.float32)).dtype == np.float32, name
    assert area("disc") == pytest.approx(np.pi, abs=0.01) and area("square") == pytest.approx(1.96, abs=0.01)


def test_no_two_outlines_are_alike_under_rotation() -> None:
    side = np.linspace(-1, 1, 48)
    x, y = np.meshgrid(side, side)
    angles = np.arange(0, 2 * np.pi, np.pi / 30)
    turned = [(np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x) for a in angles]
    drawn = {name: np.stack([OUTLINES[name](*xy) < 0 for xy in turned]) for name in NAMES}
    for one, other in itertools.combinations(NAMES, 2):
        apart = np.logical_xor(drawn[one][0], drawn[other]).mean((1, 2)).min()
        assert apart > 0.05, (one, other)


def separable(images: Tensor, labels: Tensor) -> float:
    """Held-out accuracy of ridge regression on the pixels."""
    x = torch.cat([images.flatten(1).double() / 255, torch.ones(len(images), 1)], 1)
    targets = torch.nn.functional.one_hot(labels, 10).double()
    half = len(x) // 2
    weights = torch.linalg.solve(x[:half].T @ x[:half] + 30 * torch.eye(x.shape[1]), x[:half].T @ targets[:half])
    return ((x[half:] @ weights).argmax(1) == labels[half:]).double().mean().item()


def test_photos_cannot_be_told_by_single_pixels() -> None:
    data = Shapes(count=2000)("train")
    assert data.pixels is not None and data.labels is not None
    small = torch.nn.functional.avg_pool2d(data.pixels.float(), 2)
    assert separable(small, torch.tensor(data.labels)) < 0.3


@pytest.mark.slow
def test_a_small_network_learns_shapes_in_a_minute() -> None:
    from torch import nn

    def stage(c_in: int, c_out: int) -> list[nn.Module]:
        return [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]

    train, test = (Shapes(count=2000)(split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert train.pixels is not None and test.pixels is not None
    x, y = train.pixels.float() / 255, torch.tensor(train.labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [*stage(3, 32), nn.MaxPool2d(2), *stage(32, 64), nn.MaxPool2d(2), *stage(64, 128), *stage(128, 128)]
        net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, 10))
        optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=6 * 63)
        for batch in (b for _ in range(6) for b in torch.randperm(2000).split(32)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
    with torch.inference_mode():
        right = net.eval()(test.pixels.float() / 255).argmax(1) == torch.tensor(test.labels)
    assert right.double().mean() > 0.9


@pytest.mark.parametrize("typed", ["size=15", "classes=17", "classes=0", "count=0"])
def test_shapes_beyond_reason_are_refused(typed: str) -> None:
    with pytest.raises(UsageError, match=f"`shapes:{typed}`: {typed.partition('=')[0]} is"):
        load(f"shapes:{typed}")
    with pytest.raises(UsageError, match="has no choice `oil`"):
        load("shapes:domain=oil")


def test_two_thousand_shapes_take_about_a_second() -> None:
    Shapes(count=20)("train")
    start = time.process_time()
    assert len(Shapes(count=2000)("train")) == 2000
    assert time.process_time() - start < 4
