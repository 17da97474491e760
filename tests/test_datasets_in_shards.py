"""Data sets in files of many images each: Parquet, HDF5 and tar; hostile and damaged ones too."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import encoded, grey, load

from stochx.errors import InputError
from stochx.installation import install_hint
from stochx.loading import load_data

# Parquet --------------------------------------------------------------------------------------------------------------

CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}


def parquet(path: Path, columns: dict[str, Any], noted: object = None, group: int = 2) -> Path:
    """Write columns, with what Hugging Face notes about them."""
    arrow, store = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(columns)
    if noted is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": noted}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_table(table, path, row_group_size=group)
    return path


def cells(*greys: int) -> list[dict[str, object]]:
    return [{"bytes": encoded(grey), "path": f"{grey}.png"} for grey in greys]


def test_images_are_read_from_the_columns_that_hugging_face_notes(tmp_path: Path) -> None:
    columns = {"thumb": [b"no"] * 5, "id": range(5), "photo": cells(*range(5)), "kind": [2, 0, 0, 1, 2]}
    file = parquet(tmp_path / "a.parquet", columns, {"photo": {"_type": "Image"}, "kind": CLASSES})
    data = load_data(str(file))
    assert [grey(data, i) for i in (4, 0, 3, 1, 2)] == [4, 0, 3, 1, 2]
    assert (data.labels, data.classes) == ([2, 0, 0, 1, 2], ("cat", "dog", "eel"))
    assert data.keys[4] == "a.parquet/00004"


@pytest.mark.parametrize(
    ("columns", "labels", "classes"),
    [
        ({"label": [1, 0, 3], "img": [encoded(k) for k in range(3)]}, [1, 0, 3], ("0", "1", "2", "3")),
        ({"x": cells(0, 1, 2), "label": ["owl", "ant", "owl"]}, [1, 0, 1], ("ant", "owl")),
        ({"image": cells(0, 1, 2), "label": [-1, -1, -1]}, None, ()),
        ({"image": cells(0, 1, 2)}, None, ()),
    ],
)
def test_columns_are_found_without_notes(tmp_path: Path, columns: Any, labels: Any, classes: tuple[str, ...]) -> None:
    data = load(f"parquet:path={parquet(tmp_path / 'a.parquet', columns)}")
    assert [grey(data, i) for i in range(3)] == [0, 1, 2]
    assert (data.labels, data.classes) == (labels, classes)


def test_columns_may_be_named(tmp_path: Path) -> None:
    columns = {"image": cells(9, 9), "label": [0, 1], "second": cells(5, 6), "coarse": [7, 0]}
    data = load(f"parquet:path={parquet(tmp_path / 'a.parquet', columns)},image=second,label=coarse")
    assert (grey(data, 1), data.labels) == (6, [7, 0])


def shards_of_three(folder: Path) -> Path:
    """`train` in two files, `validation` in one; the classes of `train` alone are numbered otherwise."""
    for name, greys, labels in (
        ("train-00000-of-00002", (0, 1, 2), ["owl", "bee", "owl"]),
        ("train-00001-of-00002", (3,), ["bee"]),
        ("validation-00000-of-00001", (4, 5), ["ant", "owl"]),
    ):
        parquet(folder / f"data/{name}.parquet", {"image": cells(*greys), "label": labels})
    return folder


def test_files_are_splits_by_their_names_and_share_classes(tmp_path: Path) -> None:
    root = shards_of_three(tmp_path)
    train, val, test = (load(f"parquet:path={root}", split) for split in ("train", "val", "test"))
    assert [grey(train, i) for i in range(4)] == [0, 1, 2, 3]
    assert (train.labels, train.classes) == ([2, 1, 2, 1], ("ant", "bee", "owl"))
    assert val.labels == test.labels == [0, 2]
    assert (grey(val, 0), val.keys[0]) == (4, "data/validation-00000-of-00001.parquet/00000")


def test_a_pattern_selects_files(tmp_path: Path) -> None:
    root = shards_of_three(tmp_path)
    data = load(f"parquet:path={root}/*/train-*.parquet", "test")
    assert (len(data), data.keys[3]) == (4, "data/train-00001-of-00002.parquet/00000")
    with pytest.raises(InputError, match="no files"):
        load(f"parquet:path={root}/*/test-*.parquet")


def test_classes_are_split_over_all_files(tmp_path: Path) -> None:
    lists = tmp_path / "lists.json"
    lists.write_text('{"train": ["ant", "owl"], "test": ["bee"]}')
    data = load(f"parquet:path={shards_of_three(tmp_path / 'root')},split={lists}")
    assert ([grey(data, i) for i in range(4)], data.labels) == ([0, 2, 4, 5], [1, 1, 0, 1])


def test_only_some_groups_of_rows_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stochx.datasets import parquet as module

    file = parquet(tmp_path / "a.parquet", {"image": cells(*range(6))}, group=1)
    data = load(f"parquet:path={file}")
    monkeypatch.setattr(module, "KEPT_BYTES", 1)
    kept = data.read.__self__.kept  # type: ignore[attr-defined]
    assert [grey(data, i) for i in (5, 2, 2, 0)] == [5, 2, 2, 0]
    assert [*kept] == [(0, 0)]


@pytest.mark.parametrize(
    ("columns", "noted", "message"),
    [
        ({"image": cells(0), "label": [3]}, {"label": CLASSES}, "labels outside of its 3 classes"),
        ({"image": cells(0), "label": [-4]}, None, "labels must lie in 0"),
        ({"image": cells(0), "label": [None]}, None, "has the label `None`"),
        ({"image": cells(0), "label": [[1, 2]]}, None, r"has the label `\[1, 2\]`"),
        ({"image": [0.5], "label": [0]}, {"image": {"_type": "Image"}}, "contains double, not images"),
        ({"text": ["a"], "label": [0]}, None, "no column of images"),
        ({"image": cells()}, None, "no images"),
    ],
)
def test_unfit_columns_are_one_error(tmp_path: Path, columns: Any, noted: Any, message: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    if columns == {"image": []}:
        columns = {"image": arrow.array([], arrow.binary())}
    file = parquet(tmp_path / "a.parquet", columns, noted)
    with pytest.raises(InputError, match=message) as caught:
        load(f"parquet:path={file}")
    assert str(file) in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    "note", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": {"names": 3}}}}', b"[" * 9999]
)
def test_damaged_notes_are_none(tmp_path: Path, note: bytes) -> None:
    arrow, store = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"image": cells(0, 1), "label": [0, 1]}).replace_schema_metadata({"huggingface": note})
    store.write_table(table, tmp_path / "a.parquet")
    assert load(f"parquet:path={tmp_path / 'a.parquet'}").classes == ("0", "1")


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    broken = [*cells(0), {"bytes": None, "path": "b.png"}, {"bytes": b"text", "path": "c.png"}]
    data = load(f"parquet:path={parquet(tmp_path / 'a.parquet', {'image': broken})}")
    assert grey(data, 0) == 0
    with pytest.raises(InputError, match=r"a\.parquet:1` has no image"):
        data.read(1)
    with pytest.raises(InputError, match=r"a\.parquet:2` is not an image"):
        data.read(2)


# HDF5 -----------------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)


def hdf5(path: Path, **arrays: Any) -> Path:
    with pytest.importorskip("h5py").File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": PIXELS, "labels": [2, 0, 1, 1]},
        {"x": PIXELS.transpose(0, 3, 1, 2), "y": np.array([2, 0, 1, 1]).reshape(4, 1, 1, 1)},
        {"image": (PIXELS / 255).astype(np.float32), "label": np.array([2, 0, 1, 1], np.uint8)},
    ],
)
def test_arrays_are_read_in_any_order_and_type(tmp_path: Path, arrays: dict[str, Any]) -> None:
    data = load_data(str(hdf5(tmp_path / "a.h5", **arrays)))
    assert all(np.array_equal(data.read(i), PIXELS[i]) for i in (3, 0, 1, 2))
    assert (data.labels, data.classes, data.keys[3]) == ([2, 0, 1, 1], ("0", "1", "2"), "a/00003")


def test_arrays_are_named_grey_or_encoded_and_labels_may_be_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    file = hdf5(
        tmp_path / "a.hdf5", **{"train/grey": PIXELS[..., 0], "thin": PIXELS[..., :1], "kind": ["owl", "ant"] * 2}
    )
    with h5py.File(file, "a") as content:
        files = content.create_dataset("files", 4, h5py.vlen_dtype(np.uint8))
        for i in range(4):
            files[i] = np.frombuffer(encoded(i), np.uint8)
    for name in ("train/grey", "thin"):
        data = load(f"hdf5:path={file},image={name},label=kind")
        assert np.array_equal(data.read(2), PIXELS[2, ..., :1])
        assert (data.labels, data.classes) == ([1, 0, 1, 0], ("ant", "owl"))
    files = load(f"hdf5:path={file},image=files")
    assert ([grey(files, i) for i in range(4)], files.labels) == ([0, 1, 2, 3], None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": PIXELS}, "has no dataset `images`.*"),
        ({"images": PIXELS[0, 0, 0]}, "must contain images"),
        ({"images": PIXELS[..., None]}, "must be"),
        ({"images": PIXELS[:0]}, "contains no images"),
        ({"images": PIXELS[:, :4]}, "must be of 8 x 8"),
        ({"images": PIXELS.astype(int)}, "must be uint8 or floats"),
        ({"images": PIXELS, "labels": [0, 1]}, "4 images need labels"),
        ({"images": PIXELS, "labels": [0, 1, -1, 0]}, "labels must lie in 0"),
        ({"images": PIXELS, "labels": [0.5] * 4}, "must be numbers or names"),
        ({"images/a": PIXELS}, "is not an array"),
    ],
)
def test_unfit_arrays_are_one_error(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = hdf5(tmp_path / "a.h5", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        load(f"hdf5:path={file}")
    assert str(file) in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_floats_outside_the_unit_range_are_an_error_of_their_image(tmp_path: Path, value: float) -> None:
    floats = PIXELS / 255
    floats[2, 3, 3, 1] = value
    data = load(f"hdf5:path={hdf5(tmp_path / 'a.h5', images=floats)}")
    assert np.array_equal(data.read(1), PIXELS[1])
    with pytest.raises(InputError, match=r"a\.h5:images:2` leaves \[0, 1\]"):
        data.read(2)


def test_arrays_of_other_files_and_giant_ones_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    other = hdf5(tmp_path / "other.h5", images=PIXELS)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink(other, "images")
        raw = [(str(other), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("raw", (4, 8, 8), np.uint8, external=raw)
        layout = h5py.VirtualLayout((4, 12, 10, 3), np.uint8)
        layout[:] = h5py.VirtualSource(other, "images", (4, 12, 10, 3))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("many", (10**12, 8, 8), np.uint8, chunks=(1, 8, 8))
        file.create_dataset("large", (1, 10**5, 10**5), np.uint8, chunks=(1, 8, 8))
        file.create_dataset("chunk", (2**20, 64, 64), np.uint8, chunks=(2**19, 64, 64))
    for name, message in (
        *((name, "lies in another file") for name in ("linked", "raw", "virtual")),
        ("many", "more than"),
        ("large", "million pixels"),
        ("chunk", "chunks of more than 1 GiB"),
    ):
        with pytest.raises(InputError, match=message):
            load(f"hdf5:path={tmp_path / 'a.h5'},image={name}")


# Tar ------------------------------------------------------------------------------------------------------------------


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(*labels: object, first: int = 0) -> dict[str, bytes]:
    return {
        name: content
        for grey, label in enumerate(labels, first)
        for name, content in ((f"{grey}.png", encoded(grey)), (f"{grey}.cls", str(label).encode()))
    }


def test_samples_are_read_by_index_with_their_labels(tmp_path: Path) -> None:
    members = samples(2, 0, 1) | {
        "a/x.y.png": b"no",
        "a/3.JPG": encoded(3),
        "a/3.json": b'{"label": 2}',
        "._4.png": b"no",
    }
    data = load_data(str(tar(tmp_path / "a.tar", members)))
    assert [grey(data, i) for i in (3, 0, 2, 1)] == [3, 0, 2, 1]
    assert (data.labels, data.classes) == ([2, 0, 1, 2], ("0", "1", "2"))
    assert data.keys == ["a.tar/0.png", "a.tar/1.png", "a.tar/2.png", "a.tar/a/3.JPG"]


def test_labels_in_json_have_a_key_and_may_be_absent(tmp_path: Path) -> None:
    file = tar(tmp_path / "a.tar", {"b.png": encoded(0), "b.json": b'{"kind": "owl", "label": 3.5}'})
    assert load(f"webdataset:path={file},label=kind").classes == ("owl",)
    assert load(f"webdataset:path={file},label=other").labels is None
    with pytest.raises(InputError, match=r"a\.tar:b\.json`: `label` is neither a number nor a name"):
        load(f"webdataset:path={file}")


def test_tar_files_are_splits_by_their_names_and_share_classes(tmp_path: Path) -> None:
    for name, labels, first in (("train-000000", "ac", 0), ("train-000001", "c", 2), ("val-000000", "bc", 3)):
        tar(tmp_path / f"{name}.tar", samples(*labels, first=first))
    train, test = (load(f"webdataset:path={tmp_path}/*.tar", split) for split in ("train", "test"))
    assert ([grey(train, i) for i in range(3)], train.labels) == ([0, 1, 2], [0, 2, 2])
    assert ([grey(test, i) for i in range(2)], test.labels) == ([3, 4], [1, 2])
    assert train.classes == test.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme.txt": b"hello"}, "no images"),
        ({**samples(0, 1), "5.png": encoded(5)}, r"images without a label, such as `a\.tar/5\.png`"),
        ({"0.png": encoded(0), "0.jpg": encoded(0)}, "second image of `0`"),
        ({**samples(0), "./0.cls": b"1"}, "second label of `0`"),
        (samples(-1), "labels must lie in 0"),
        (samples(0, "owl"), "numbers and names"),
        ({"0.png": encoded(0), "0.cls": b"\xff"}, r"a\.tar:0\.cls` is damaged"),
        ({"0.png": encoded(0), "0.json": b"[" * 99999}, r"a\.tar:0\.json` is damaged"),
        ({"0.png": encoded(0), "0.cls": bytes(2**20 + 1)}, "larger than 1 MiB"),
    ],
)
def test_unfit_samples_are_one_error(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    file = tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=message) as caught:
        load(f"webdataset:path={file}")
    assert str(file) in str(caught.value) and caught.value.hint


def test_a_compressed_tar_and_a_size_below_zero_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"a\.tar` is damaged"):
        load(f"webdataset:path={tmp_path / 'a.tar'}")
    member = tarfile.TarInfo("0.png")
    member.size = -1024
    (tmp_path / "b.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match=r"b\.tar` is damaged: it ends early"):
        load(f"webdataset:path={tmp_path / 'b.tar'}")


# Damage ---------------------------------------------------------------------------------------------------------------


def some_parquet(path: Path) -> Path:
    return parquet(path, {"image": cells(*range(4)), "label": [0, 1, 2, 0]})


def some_hdf5(path: Path) -> Path:
    return hdf5(path, images=PIXELS, labels=[0, 1, 2, 0])


def some_tar(path: Path) -> Path:
    return tar(path, samples(0, 1, 2, 0))


KINDS = {"parquet": some_parquet, "hdf5": some_hdf5, "webdataset": some_tar}


@pytest.mark.parametrize("entry", KINDS)
def test_a_damaged_file_is_one_error_wherever_it_is_cut_or_changed(tmp_path: Path, entry: str) -> None:
    content = KINDS[entry](tmp_path / "a").read_bytes()
    draws = np.random.default_rng(0)
    refused = 0
    for k in range(400):
        file = tmp_path / f"b{k}"
        changed = bytearray(content[: draws.integers(len(content))] if k % 4 == 0 else content)
        header = max(0, len(content) - 900) if k % 2 else 0  # Parquet's is at the end
        for place in draws.integers(header, len(content), draws.integers(1, 8)):
            changed[place : place + 1] = draws.bytes(1) if place < len(changed) else b""
        file.write_bytes(changed)
        try:
            data = load(f"{entry}:path={file}")
            data.read(len(data) - 1)
        except InputError as error:
            refused += 1
            assert file.name in str(error) and error.hint
    assert refused > 80


def test_a_footer_with_any_number_changed_is_one_error_and_never_ends_the_process(tmp_path: Path) -> None:
    content = some_parquet(tmp_path / "a").read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(footer, content.index(b"ARROW:schema", footer)):
        changed = bytearray(content)
        changed[place] ^= 1  # the sign of a number
        (tmp_path / "b").write_bytes(changed)
        try:
            data = load(f"parquet:path={tmp_path / 'b'}")
            assert len(data) == 4
            data.read(0)
        except InputError as error:
            assert error.hint


# Packages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "suffix", "module"), [("parquet", ".parquet", "pyarrow.parquet"), ("hdf5", ".h5", "h5py")]
)
def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, suffix: str, module: str
) -> None:
    file = tmp_path / f"a{suffix}"
    file.touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"needs the package {module.partition('.')[0]}") as caught:
        load(f"{entry}:path={file}")
    assert caught.value.hint == install_hint(entry)
