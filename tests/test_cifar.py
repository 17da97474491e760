"""The CIFARs: strips, torchvision's folder, and what happens where neither is there."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import shared
from PIL import Image
from planted import Bomb, load

from stochx.datasets import _cifar
from stochx.errors import InputError

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
    with pytest.raises(InputError, match="does not contain labels from 0 to 9"):
        load(f"cifar10:root={tmp_path}", "test")
    with pytest.raises(InputError, match=r"classes\.txt` names 10 classes") as caught:
        load(f"cifar100:root={tmp_path}", "test")
    assert caught.value.hint == "is this cifar100?"
    Image.new("RGB", (40, 64)).save(strips(tmp_path) / "test_001.webp")
    with pytest.raises(InputError, match=r"test_001\.webp` is 40 x 64, not a strip"):
        load(f"cifar10:root={tmp_path}", "test")
    np.save(tmp_path / "test_labels.npy", np.array([Bomb()]), allow_pickle=True)
    with pytest.raises(InputError, match=r"test_labels\.npy` is damaged: Object arrays"):
        load(f"cifar10:root={tmp_path}", "test")


@pytest.mark.parametrize(
    "header", ["{'x': " + "(" * 99, "{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000,), }", "{", "\0"]
)
def test_labels_of_a_lying_header_are_refused(header: str, tmp_path: Path) -> None:
    strips(tmp_path)
    text = header.ljust(118) + "\n"
    (tmp_path / "test_labels.npy").write_bytes(b"\x93NUMPY\x01\x00" + bytes([len(text), 0]) + text.encode())
    with pytest.raises(InputError, match=r"test_labels\.npy` is damaged: "):
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
    with pytest.raises(InputError, match="cifar-10-batches-py` is damaged or incomplete"):
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


def test_one_rank_of_a_machine_downloads_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches(tmp_path / "net", "cifar10", monkeypatch)
    (tmp_path / "home").mkdir()
    downloads = []
    rank, waiting = threading.local(), threading.Barrier(3)

    def download(self: torchvision.datasets.CIFAR10) -> None:
        downloads.append(rank.value)
        waiting.wait(10)
        time.sleep(0.3)
        assert not any(done.done() for done in ranks)
        (tmp_path / "net" / self.base_folder).rename(Path(self.root) / self.base_folder)

    def await_(place: Path) -> None:
        waiting.wait(10)
        wait(place)

    def as_rank(value: int) -> int:
        rank.value = value
        return len(load(f"cifar10:root={tmp_path / 'home'}", "test"))

    wait = _cifar._await
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    monkeypatch.setattr(_cifar, "local_rank", lambda: rank.value)
    monkeypatch.setattr(_cifar, "_await", await_)
    with ThreadPoolExecutor(3) as pool:
        ranks = [pool.submit(as_rank, value) for value in range(3)]
        assert [done.result(20) for done in ranks] == [6, 6, 6]
    assert downloads == [0]


def test_ranks_do_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(_cifar, "PATIENCE", 0.3)
    monkeypatch.setattr(_cifar, "_provide", lambda *_: pytest.fail("rank 1 downloads"))
    with pytest.raises(InputError, match=r"local rank 0 did not provide `.*cifar-10-batches-py`"):
        load(f"cifar10:root={tmp_path}", "test")


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
