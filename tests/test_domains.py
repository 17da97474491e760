"""The few-shot domains in the layouts in which they lie on disk, and the rules that split their classes."""

from __future__ import annotations

import csv
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from planted import grey, load, packed, plant

from stochx.errors import InputError

SPLITS = ("train", "val", "test")


def classes(spec: str, split: str) -> list[str]:
    """The classes that have images in a split."""
    data = load(spec, split)
    assert data.labels is not None
    return sorted({data.classes[label] for label in data.labels})


def written(path: Path, *rows: tuple[object, ...]) -> Path:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def names(count: int, pattern: str = "{}/{}.png", images: int = 1) -> list[str]:
    return [pattern.format(c, i) for c in "abcdefghijklmnop"[:count] for i in range(images)]


# Rules ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder:root", "zip:path"])
def test_mod4_gives_every_second_class_to_train_and_the_others_in_turn(tmp_path: Path, kind: str) -> None:
    place = plant(tmp_path / "t", *names(9)) if kind == "folder:root" else packed(tmp_path / "t.zip", *names(9))
    found = {split: classes(f"{kind}={place},split=mod4", split) for split in SPLITS}
    assert found == {"train": ["a", "c", "e", "g", "i"], "val": ["b", "f"], "test": ["d", "h"]}


def test_a_split_keeps_images_keys_and_labels_together(tmp_path: Path) -> None:
    plant(tmp_path, *(every := names(4, images=2)))
    data = load(f"folder:root={tmp_path},split=mod4", "train")
    assert data.classes == ("a", "c") and list(data.labels or []) == [0, 0, 1, 1]
    assert [grey(data, i) for i in range(4)] == [every.index(key) for key in data.keys]


def test_arrays_are_split_with_their_pixels(tmp_path: Path) -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, 2, 3, 3, 1]), masks=images[..., 0])
    data = load(f"npz:path={tmp_path / 'a.npz'},split=mod4", "test")
    assert data.pixels is not None and data.pixels[:, 0, 0, 0].tolist() == [3, 4] and data.mask is not None
    assert data.classes == ("3",) and data.mask(0).all()
    assert len(load(f"npz:path={tmp_path / 'a.npz'}", "test")) == 6


def test_all_joins_what_split_folders_part(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat/a.png", "test/cat/b.png", "val/dog/c.png")
    assert classes(f"folder:root={tmp_path},split=all", "test") == ["cat", "dog"]
    assert len(load(f"folder:root={tmp_path},split=all", "train")) == 3


def test_split_folders_are_class_splits_where_they_share_none(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/1.png", "train/b/1.png", "val/c/1.png", "test/d/1.png")
    assert [classes(f"folder:root={tmp_path}", split) for split in SPLITS] == [["a", "b"], ["c"], ["d"]]


LISTS = {
    "base.txt": ("a\nb\n", "novel.txt", "d\n"),
    "train.json": (json.dumps(["a", "b"]), "test.json", json.dumps({"label_names": ["d"]})),
    "train.csv": ("filename,label\n1.jpg,a\n2.jpg,a\n3.jpg,b\n", "test.csv", "class_name,image_name\nd,1.jpg\n"),
}


@pytest.mark.parametrize("first", LISTS)
def test_lists_of_classes_make_a_split(tmp_path: Path, first: str) -> None:
    text, other, more = LISTS[first]
    plant(tmp_path / "t", *names(4))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / first).write_text(text)
    (tmp_path / "lists" / other).write_text(more)
    spec = f"folder:root={tmp_path / 't'},split={tmp_path / 'lists'}"
    assert (classes(spec, "train"), classes(spec, "test")) == (["a", "b"], ["d"])
    with pytest.raises(InputError, match="none of 4 classes belongs to `val`"):
        load(spec, "val")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"train": ["a", "b"], "test": ["b"]}, "the class `b` is in train and test"),
        ({"train": ["a"], "test": ["bb"]}, "names `bb`, which is not a class"),
        ({"other": ["a"]}, "names no splits"),
    ],
)
def test_lists_that_cannot_be_used_say_why(tmp_path: Path, content: object, said: str) -> None:
    plant(tmp_path / "t", *names(4))
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        load(f"folder:root={tmp_path / 't'},split={tmp_path / 's.json'}", "train")


def test_a_rule_that_is_none_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, *names(4))
    with pytest.raises(InputError, match="no such file: `mod5`") as caught:
        load(f"folder:root={tmp_path},split=mod5", "train")
    assert caught.value.hint == "use auto, all, mod4, or a file of class lists"


def test_omniglots_characters_are_classes_inside_nested_folders_of_a_zip() -> None:
    data = load(f"zip:path={shared('fewshot/omniglot_images_background_small1.zip')},nested=classes", "test")
    assert len(data.classes) == 136 and len(data) == 136 * 20
    assert "Greek/character01" in data.classes


# Domains --------------------------------------------------------------------------------------------------------------

FOLDERS = {  # where the official archives put their class folders
    "cub": "CUB_200_2011/images/00{}.Bird/{}.jpg",
    "cars": "car_data/train/{}/{}.jpg",
    "places": "data_256/x/{}/{}.jpg",
    "plantae": "train_val_images/Plantae/{}/{}.jpg",
    "eurosat": "2750/{}/{}.jpg",
    "cropdisease": "dataset/train/{}/{}.jpg",
}
ALL = ("eurosat", "cropdisease", "isic", "chestx")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_domain_is_read_where_its_archive_puts_it(tmp_path: Path, name: str) -> None:
    plant(tmp_path, *names(5, FOLDERS[name], images=3), "elsewhere/z/1.jpg")
    found = [len(classes(f"{name}:root={tmp_path}", split)) for split in SPLITS]
    assert found == ([5, 5, 5] if name in ALL else [3, 1, 1])
    assert len(load(f"{name}:root={tmp_path},split=all", "test")) == 15


@pytest.mark.parametrize("name", FOLDERS)
def test_a_domain_is_read_from_its_class_folders_themselves(tmp_path: Path, name: str) -> None:
    plant(tmp_path, *names(5))
    assert classes(f"{name}:root={tmp_path},split=all", "test") == list("abcde")


def test_places_takes_the_first_images_of_each_scene(tmp_path: Path) -> None:
    plant(tmp_path, *names(2, images=4))
    data = load(f"places:root={tmp_path},split=all,images=3")
    assert list(data.keys) == ["a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"]


def test_plantae_takes_the_largest_classes_and_of_equals_the_first_by_name(tmp_path: Path) -> None:
    plant(tmp_path, *names(3, images=2), *names(1, "z{}/{}.png", images=5))
    assert classes(f"plantae:root={tmp_path},split=all,classes=3", "test") == ["a", "b", "za"]


def test_cars_reads_the_official_devkit(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    plant(tmp_path, "cars_train/1.jpg", "cars_train/2.jpg")
    (tmp_path / "devkit").mkdir()
    kind = [("fname", object), ("class", object)]
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": np.array([("1.jpg", 2), ("2.jpg", 1)], kind)})
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": np.array(["Audi A", "BMW B"], object)})
    data = load(f"cars:root={tmp_path},split=all")
    assert [data.classes[label] for label in data.labels or []] == ["BMW B", "Audi A"]
    (tmp_path / "devkit/cars_meta.mat").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        load(f"cars:root={tmp_path}")


CARS = np.array([("1.jpg", 1)], [("fname", object), ("class", object)])


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        (CARS, np.array([]), "names images or classes that cannot be"),
        (np.array([("1.jpg", 0)], CARS.dtype), np.array(["a"], object), "names images or classes that cannot be"),
        (np.array([("../1.jpg", 1)], CARS.dtype), np.array(["a"], object), "names images or classes that cannot be"),
        (
            np.array([("1.jpg", "x")], CARS.dtype),
            np.array(["a"], object),
            r"annos\.mat` cannot be read: 'str' object has no",
        ),
        (np.array([1, 2]), np.array(["a"], object), r"annos\.mat` cannot be read: invalid index"),
        ("x", np.array(["a"], object), r"annos\.mat` cannot be read"),
    ],
)
def test_a_damaged_devkit_is_one_error(rows: object, names: object, message: str, tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    plant(tmp_path, "cars_train/1.jpg")
    (tmp_path / "devkit").mkdir()
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": rows})
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": names})
    with pytest.raises(InputError, match=message):
        load(f"cars:root={tmp_path},split=all")


def test_a_devkit_of_one_car_is_read(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    plant(tmp_path, "cars_train/1.jpg")
    (tmp_path / "devkit").mkdir()
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": CARS})
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": np.array(["Audi A"], object)})
    data = load(f"cars:root={tmp_path},split=all")
    assert (data.classes, data.labels) == (("Audi A",), [0])


@pytest.mark.parametrize("cell", ["1,0", "one"])
def test_a_table_of_what_is_no_number_is_one_error(cell: str, tmp_path: Path) -> None:
    header = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    written(tmp_path / "x_GroundTruth.csv", header, ("I_1", cell, 0, 0, 0, 0, 0, 0))
    plant(tmp_path, "ISIC2018_Task3_Training_Input/I_1.jpg")
    with pytest.raises(InputError, match=f"GroundTruth.csv` has `{cell}` for a number"):
        load(f"isic:root={tmp_path}")


def test_rows_that_are_cut_have_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("filename,label\n1.png\n")
    plant(tmp_path, "images/1.png")
    assert classes(f"miniimagenet:root={tmp_path}", "train") == [""]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", '{"train": 5}', "s.json` is not a list of classes"),
        ("s.json", '{"train": ["a"], "val": "b"}', "s.json` is not a list of classes"),
        ("lists/train.json", '{"label_names": 1.5}', "train.json` is not a list of classes"),
        ("lists/train.csv", "label\n" + "a" * 200_000, "train.csv` cannot be read: field larger than field limit"),
    ],
)
def test_lists_of_classes_that_are_none_are_one_error(name: str, text: str, message: str, tmp_path: Path) -> None:
    plant(tmp_path, "t/a/1.png", "t/b/2.png")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load(f"folder:root={tmp_path / 't'},split={file if name == 's.json' else file.parent}", "train")


def test_isic_reads_the_one_hot_table(tmp_path: Path) -> None:
    header = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    rows = (("I_1", 0.0, 1.0, 0, 0, 0, 0, 0), ("I_2", 1.0, 0, 0, 0, 0, 0, 0), ("I_3", 0, 0, 0, 0, 0, 0, 1.0))
    table = written(tmp_path / "ISIC2018_Task3_Training_GroundTruth/x_GroundTruth.csv", header, *rows)
    plant(tmp_path, "ISIC2018_Task3_Training_Input/I_1.jpg", "ISIC2018_Task3_Training_Input/I_2.jpg")
    data = load(f"isic:root={tmp_path}")
    assert [data.classes[label] for label in data.labels or []] == ["NV", "MEL"]
    written(table, ("image", "MEL"), ("I_1", 1))
    with pytest.raises(InputError, match="has no column `NV`"):
        load(f"isic:root={tmp_path}")


def test_chestx_takes_images_with_exactly_one_of_seven_findings(tmp_path: Path) -> None:
    rows = (
        ("1.png", "Mass"),
        ("2.png", "Mass|Nodule"),
        ("3.png", "No Finding"),
        ("4.png", "Hernia"),
        ("5.png", "Nodule"),
    )
    written(tmp_path / "Data_Entry_2017.csv", ("Image Index", "Finding Labels"), *rows)
    plant(tmp_path, "images_001/images/1.png", "images_001/images/2.png", "images_002/images/5.png")
    data = load(f"chestx:root={tmp_path}")
    assert [(key, data.classes[label]) for key, label in zip(data.keys, data.labels or [], strict=True)] == [
        ("images_001/images/1.png", "Mass"),
        ("images_002/images/5.png", "Nodule"),
    ]


@pytest.mark.parametrize("name", [*FOLDERS, "isic", "chestx", "miniimagenet"])
def test_a_domain_that_is_not_there_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        load(f"{name}:root={tmp_path}")
    with pytest.raises(InputError, match="no such folder"):
        load(f"{name}:root={tmp_path / 'absent'}")


# miniImageNet ---------------------------------------------------------------------------------------------------------

OWN = {"train": "ab", "val": "c", "test": "d"}


def test_miniimagenet_as_class_folders(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{split}/{name}/1.jpg" for split, some in OWN.items() for name in some))
    assert [classes(f"miniimagenet:root={tmp_path}", split) for split in SPLITS] == [["a", "b"], ["c"], ["d"]]
    assert classes(f"miniimagenet:root={tmp_path},split=all", "test") == list("abcd")


@pytest.mark.parametrize("form", ["filename,label", "class_name,image_name"])
def test_miniimagenet_as_lists(tmp_path: Path, form: str) -> None:
    for split, some in OWN.items():
        rows = [(f"{n}1.jpg", n) if form.startswith("file") else (n, f"{n}1.jpg") for n in some]
        written(tmp_path / f"{split}.csv", tuple(form.split(",")), *rows)
    plant(tmp_path, *(f"images/{name}1.jpg" for name in "abcd"))
    assert [classes(f"miniimagenet:root={tmp_path}", split) for split in SPLITS] == [["a", "b"], ["c"], ["d"]]
    (tmp_path / "images/d1.jpg").unlink()
    with pytest.raises(InputError, match=r"lacks `d1\.jpg`"):
        load(f"miniimagenet:root={tmp_path}", "test")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_miniimagenet_as_pickles_is_converted_once(tmp_path: Path, protocol: int) -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    file = tmp_path / "mini-imagenet-cache-train.pkl"
    file.write_bytes(pickle.dumps({"image_data": images, "class_dict": {"b": [0, 2], "a": [1]}}, protocol))
    first = load(f"miniimagenet:root={tmp_path}", "train")
    file.unlink()
    again = load(f"miniimagenet:root={tmp_path}", "train")
    for data in (first, again):
        assert data.classes == ("a", "b") and list(data.labels or []) == [1, 0, 1] and grey(data, 2) == 2


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("inside", [lambda mark: Evil(mark), lambda mark: {"image_data": Evil(mark), "class_dict": {}}])
def test_a_pickle_that_runs_code_is_refused_and_runs_none(tmp_path: Path, inside: object) -> None:
    file, mark = tmp_path / "mini-imagenet-cache-train.pkl", tmp_path / "mark"
    file.write_bytes(pickle.dumps(inside(mark)))  # type: ignore[operator]
    with pytest.raises(InputError, match=r"was not loaded: it imports `posix\.system`"):
        load(f"miniimagenet:root={tmp_path}", "train")
    assert not mark.exists() and not file.with_suffix(".npz").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", pickle.dumps([1]), pickle.dumps({"image_data": np.zeros(3), "class_dict": {"a": [0, 1, 2]}})],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(content)
    with pytest.raises(InputError, match="mini-imagenet-cache-test"):
        load(f"miniimagenet:root={tmp_path}", "test")
