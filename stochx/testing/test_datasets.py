"""Contract of every data set."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from stochx.catalog import DATASETS
from stochx.datasets import Split
from stochx.engine.io.data import Data
from stochx.errors import StochxError
from stochx.testing.samples import plant_folders, plant_npz, plant_shards, plant_zip

SPLITS: tuple[Split, ...] = get_args(Split)
PATHS = ("root", "path")  # keys that say where a data set lies
PACKAGES = {"parquet": "pyarrow", "hdf5": "h5py"}  # what reads the files of a data set, where it is an extra


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder to read, and files of each kind."""
    folder = plant_folders(tmp_path_factory.mktemp("data"))
    beside = tmp_path_factory.mktemp("files")
    return [folder, plant_zip(beside / "data.zip", folder), plant_npz(beside / "data.npz"), *plant_shards(beside)]


def key_of(spec: str) -> str:
    """The key that says where the data lies, unless the spec gives it; empty for data that lies nowhere."""
    return next((f.key for f in DATASETS.fields(spec) if f.key in PATHS and f"{f.key}=" not in spec), "")


def at(spec: str, place: Path) -> str:
    """The spec, with its data at a place."""
    return f"{spec}{',' if ':' in spec else ':'}{key_of(spec)}={place}"


def read(spec: str, places: list[Path]) -> dict[Split, Data]:
    """The splits that can be read: at the first of the places that holds one, where the data lies on the disk."""
    package = PACKAGES.get(DATASETS.parse_name(spec)[0])
    if package is not None:
        pytest.importorskip(package)
    errors = []
    for text in [at(spec, place) for place in places] if key_of(spec) else [spec]:
        splits: dict[Split, Data] = {}
        for split in SPLITS:
            try:
                splits[split] = DATASETS.make(text)(split)
            except StochxError as error:
                errors.append(f"{text}, {split}: {error}")
            except Exception as error:
                kind = type(error).__name__
                raise AssertionError(f"{split} raises {kind}: return a `Data`, or raise `InputError`") from error
        if splits:
            return splits
    listed = "\n".join(errors)
    raise AssertionError(
        "no split could be read: return a `Data`, or say where it lies with `--spec datasets:NAME:root=DIR`\n" + listed
    )


def test_a_split_is_data(dataset: str, places: list[Path]) -> None:
    for split, data in read(dataset, places).items():
        assert isinstance(data, Data), f"{split} is a {type(data).__name__}: return a `Data`"
        assert len(data) > 0, f"{split} is empty: raise `InputError`, with a hint"
        assert len(set(data.keys)) == len(data), f"{split}: keys are given twice: name each image once"
        if data.labels is not None:
            fits = len(data.labels) == len(data) and all(0 <= int(y) < len(data.classes) for y in data.labels)
            assert fits, f"{split}: give `labels` for all {len(data)} images, each an index into `classes`"


def test_an_item_is_an_image_in_the_unit_range_and_repeats(dataset: str, places: list[Path]) -> None:
    for split, data in read(dataset, places).items():
        item = data.item(len(data) - 1)
        shape = tuple(item.image.shape)
        kind = "an 8-bit RGB image, or (H, W, C) uint8"
        assert len(shape) == 3 and shape[0] <= 16, f"{split}: the image is {shape}: `read` gives {kind}"
        assert item.image.min() >= 0 and item.image.max() <= 1, f"{split}: the image leaves [0, 1]"
        if item.mask is not None:
            assert item.mask.shape == shape[1:], f"{split}: the mask is {tuple(item.mask.shape)}, the image {shape}"
        again = read(dataset, places)[split].item(len(data) - 1)
        same = again.key == item.key and torch.equal(again.image, item.image)
        assert same, f"{split}: the same index gives another image when it is read again: sort, and draw by a seed"
        if data.pixels is not None:
            fits = data.pixels.dtype == torch.uint8 and len(data.pixels) == len(data)
            assert fits, f"{split}: `pixels` must be uint8 (N, C, H, W)"
            pixels = torch.from_numpy(np.array(data.read(0))).permute(2, 0, 1)
            assert torch.equal(data.pixels[0], pixels), f"{split}: `pixels[0]` is not what `read(0)` gives"


def test_data_that_is_not_there_is_one_clear_error(dataset: str, tmp_path: Path) -> None:
    key = key_of(dataset)
    if not key:
        return
    text = at(dataset, tmp_path / "absent")
    try:
        DATASETS.make(text)("test")
    except StochxError as error:
        assert error.hint, f"`{text}`: the error gives no hint: `InputError(message, hint)`"
    except Exception as error:
        raise AssertionError(f"`{text}` raises {type(error).__name__}: raise `InputError`, with a hint") from error
    else:
        raise AssertionError(f"`{text}` was read: raise `InputError` for a place that is not there")
