"""Samples that entries are tested on: a small network, images, features of few-shot episodes, data sets on disk."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stochx.catalog import HEADS
from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.parts import Parts, Variants

KINDS = [f"n{number:08d}" for number in (1440764, 1443537, 1484850, 1491361, 1494475, 1496331, 1498041, 1514668)]


def random_images(*shape: int, seed: int = 1) -> Tensor:
    """Images in [0.25, 0.75], float64."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.5 + 0.25


class TinyNet(nn.Module):
    """Every kind of wiring on (N, 3, 16, 16): strided stem, batch norms, residual sum, concatenation, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.norm2(self.conv(x)) + x)
        x = self.pool(torch.cat([x, self.conv(x)], 1))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def tiny_network(seed: int = 7) -> TinyNet:
    """Return a `TinyNet` in float64 and in eval mode, with batch norms that have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TinyNet().double()
        for _ in range(20):
            net(torch.rand(32, 3, 16, 16, dtype=torch.float64))
    return net.eval()


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Fail where what is done inside changes weights, modes, hooks, gradients or torch's global generator."""
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    yield
    same = torch.equal(torch.get_rng_state(), state)
    assert same, "torch's global generator moved: draw from `stochx.engine.seeds.generator(key, ...)`"
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, weights[key])]
    assert not changed, f"the network's `{changed[0]}` changed: leave weights and buffers as they are"
    kept = [name for name, p in model.named_parameters() if p.grad is not None or not p.requires_grad]
    assert not kept, f"`{kept[0]}` has a `grad`, or lost `requires_grad`: use `torch.autograd.grad`, not `.backward()`"
    left = [
        name or "the network"
        for name, m in model.named_modules()
        if m.training or m._forward_hooks or m._forward_pre_hooks
    ]
    assert not left, f"`{left[0]}` is in train mode or keeps a hook: remove hooks and restore modes in `finally`"


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    """In the block new tensors are float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


# Modes of torch in which a user may call an entry; none of them changes its result.
MODES: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype float64": float64_by_default,
}


def sample_parts(x: Tensor, labels: Sequence[int]) -> list[Parts]:
    """Return the parts of images (N, C, H, H): four squares, of five classes; gray where one is missing.

    The only piece of the background is one without which nothing changes.
    """
    table: tuple[Variants, ...] = ((0, 0, 0, 0), (0, 0, 1, 1), (1, 1, 0, 0), (0, 1, 0, 1), (1, 0, 1, 0))
    masks = torch.zeros(4, *x.shape[2:], dtype=torch.bool)
    half = x.shape[2] // 2
    for mask, (row, column) in zip(masks, itertools.product((1, half + 1), repeat=2), strict=True):
        mask[row : row + half - 3, column : column + half - 3] = True

    def parts(image: Tensor, label: int) -> Parts:
        own = table[label]

        def draw(variants: Variants, kept: tuple[bool, ...]) -> Tensor:
            grays = [
                None if new == old else 0.5 if new is None else 0.75 for new, old in zip(variants, own, strict=True)
            ]
            drawn = image.clone()
            for mask, gray in zip(masks, grays, strict=True):
                if gray is not None:
                    drawn[:, mask] = gray
            return drawn

        return Parts(masks, ~masks.any(0)[None], own, label, table, ["a", "b", "c", "d", "e"], draw)

    return [parts(image, label) for image, label in zip(x, labels, strict=True)]


def values(*shape: int, seed: int = 0, signed: bool = True) -> Tensor:
    """Uniform random numbers in [-0.5, 0.5], or in [0, 1], float64."""
    source = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=source, dtype=torch.float64) - 0.5 * signed


def features(
    ways: int = 3,
    shots: int = 2,
    queries: int = 2,
    size: tuple[int, int] = (5, 6),
    channels: int = 4,
    count: int = 2,
) -> tuple[Tensor, Tensor]:
    """Return features of episodes, as after a ReLU: support (E, N, K, C, H, W) and query (E, N queries, C, H, W)."""
    support = values(count, ways, shots, channels, *size, seed=1).relu()
    return support, values(count, ways * queries, channels, *size, seed=2).relu()


def make_head(text: str, ways: int = 3, size: tuple[int, int] = (5, 6), channels: int = 4) -> FewShotHead[Any]:
    """Return a head with random weights, always the same ones, in float64 and in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        head = HEADS.make(text)((channels, *size), ways)
    assert isinstance(head, FewShotHead), f"`__call__` returned a {type(head).__name__}: return a `FewShotHead`"
    return head.double()


def plant_folders(root: Path) -> Path:
    """Write class folders in `train`, `val` and `test`, and beside them the tables of sets that are listed in one.

    Classes are WordNet ids and no file name is there twice, so that sets of any layout find something to read.
    """
    paths = []
    for place, kind in enumerate(KINDS):
        split = ("train", "train", "train", "train", "val", "val", "test", "test")[place]
        for k in range(2):
            file = root / split / kind / f"{kind}_{k}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (20 * place, 40 * k, 90)).save(file)
            paths.append(file)
    _write(root / "Data_Entry_2017.csv", ["Image Index", "Finding Labels"], [[file.name, "Mass"] for file in paths])
    lesions = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    one_hot = [[file.stem, *(int(k == place % 7) for k in range(7))] for place, file in enumerate(paths)]
    _write(root / "GroundTruth.csv", ["image", *lesions], one_hot)
    for name, split, classes in (("cifar10", "train", 10), ("cifar100", "test", 100)):
        folder = root / name
        folder.mkdir()
        Image.new("RGB", (32, 96), (9, 99, 199)).save(folder / f"{split}_000.webp", lossless=True)
        np.save(folder / f"{split}_labels.npy", np.arange(3, dtype=np.uint8))
        (folder / "classes.txt").write_text("\n".join(map(str, range(classes))) + "\n")
    return root


def _write(file: Path, header: list[str], rows: list[list[Any]]) -> None:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def plant_zip(file: Path, folder: Path) -> Path:
    """Pack the class folders of `plant_folders` into a zip."""
    with ZipFile(file, "w") as archive:
        for image in sorted(folder.glob("t*/*/*.jpg")):
            archive.write(image, image.relative_to(folder))
    return file


def plant_npz(file: Path) -> Path:
    """Write eight images of four classes, with labels and masks, into an npz."""
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 10, 3), dtype=np.uint8)
    masks = np.zeros((8, 12, 10), bool)
    masks[:, 2:6, 3:7] = True
    np.savez(file, images=images, labels=np.arange(8) % 4, classes=np.array(list("abcd")), masks=masks)
    return file


def plant_shards(folder: Path) -> list[Path]:
    """Write eight images of four classes into a tar, and into Parquet and HDF5 files where their packages are there."""
    encoded = []
    for k in range(8):
        Image.new("RGB", (12, 10), (20 * k, 40, 90)).save(buffer := io.BytesIO(), "PNG")
        encoded.append(buffer.getvalue())
    files = [folder / "data.tar"]
    with tarfile.open(files[0], "w") as archive:
        for k, content in enumerate(encoded):
            for name, part in ((f"{k}.png", content), (f"{k}.cls", b"%d" % (k % 4))):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    if util.find_spec("pyarrow"):
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        files.append(folder / "data.parquet")
        parquet.write_table(arrow.table({"image": encoded, "label": [k % 4 for k in range(8)]}), files[-1])
    if util.find_spec("h5py"):
        files.append(folder / "data.h5")
        with importlib.import_module("h5py").File(files[-1], "w") as file:
            file["images"] = np.random.default_rng(0).integers(0, 256, (8, 12, 10, 3), dtype=np.uint8)
            file["labels"] = np.arange(8) % 4
    return files
