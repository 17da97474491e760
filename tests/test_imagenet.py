"""ImageNet's validation images in each layout that they come in; labels never depend on which part is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import shared
from planted import encoded, grey, load, plant

from stochx.engine.io.wnids import WNIDS
from stochx.errors import InputError
from stochx.presets import imagenet_classes

TENCH, SNAKE, CLIFF = "n01440764", "n01751748", "n09193705"
NAMES = [f"ILSVRC2012_val_{k:08d}.JPEG" for k in (1, 2, 3)]
TRUTH = [SNAKE, CLIFF, TENCH]  # of images 1, 2, 3
LABELS = [65, 970, 0]
DEVKIT = "ILSVRC2012_devkit_t12/data"


def flat(folder: Path, names: list[str] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        (folder / name).write_bytes(encoded(k, "JPEG"))


def annotate(folder: Path, truth: list[str] = TRUTH) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, wnid in zip(NAMES, truth, strict=True):
        objects = f"<object><name>{wnid}</name><bndbox/></object><object><name>{TENCH}</name></object>"
        text = f"<annotation><folder>val</folder><source><name>no</name></source>{objects}</annotation>"
        (folder / name).with_suffix(".xml").write_text(text)


def solve(root: Path) -> None:
    rows = [f"{Path(name).stem},{wnid} 1 2 3 4 {TENCH} 5 6 7 8 " for name, wnid in zip(NAMES, TRUTH, strict=True)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


def devkit(folder: Path) -> None:
    """Its numbers are its own: here 1 is the cliff, 2 the tench, 3 the snake, and 4 a class above them."""
    io, np = pytest.importorskip("scipy.io"), pytest.importorskip("numpy")
    folder.mkdir(parents=True)
    rows = list(enumerate([CLIFF, TENCH, SNAKE, "n00001740"], 1))
    table = np.array(rows, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    io.savemat(folder / "meta.mat", {"synsets": table})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n2\n")


@pytest.mark.parametrize("below", ["val", "", "imagenet/val", "ILSVRC/Data/CLS-LOC/val"])
def test_class_folders_are_read_by_file_name(tmp_path: Path, below: str) -> None:
    for k, (name, wnid) in enumerate(zip(NAMES, TRUTH, strict=True)):
        (tmp_path / below / wnid).mkdir(parents=True)
        (tmp_path / below / wnid / name).write_bytes(encoded(k))
    plant(tmp_path / below, f"{TENCH}/._hidden.JPEG", f"{TENCH}/notes.txt", "other/x.JPEG")
    data = load(f"imagenet:root={tmp_path}", "test")
    assert (data.labels, data.keys) == (LABELS, NAMES)
    assert [grey(data, i) for i in range(3)] == [0, 1, 2]


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "annotations": ("", lambda root: annotate(root / "annotations")),
    "Annotations": ("images", lambda root: annotate(root / "Annotations/CLS-LOC/val")),
    "beside images": ("val", lambda root: annotate(root / "val")),
    "val_annotations": ("val", lambda root: annotate(root / "val_annotations")),
    "kaggle's": ("ILSVRC/Data/CLS-LOC/val", lambda root: annotate(root / "ILSVRC/Annotations/CLS-LOC/val")),
    "kaggle's table": ("ILSVRC/Data/CLS-LOC/val", solve),
    "devkit": ("val", lambda root: devkit(root / DEVKIT)),
    "devkit's files": ("", lambda root: devkit(root / "data")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flat_images_find_their_classes(tmp_path: Path, layout: str) -> None:
    below, write = LAYOUTS[layout]
    flat(tmp_path / below)
    write(tmp_path)
    data = load(f"imagenet:root={tmp_path}", "test")
    assert (data.labels, data.keys) == (LABELS, NAMES)
    assert abs(grey(data, 2) - 2) <= 1


def test_a_part_of_the_images_keeps_its_labels(tmp_path: Path) -> None:
    flat(tmp_path, [NAMES[1]])
    devkit(tmp_path / DEVKIT)
    assert load(f"imagenet:root={tmp_path}", "test").labels == [970]


def test_the_folder_of_the_images_itself_may_be_given(tmp_path: Path) -> None:
    flat(tmp_path / "val")
    annotate(tmp_path / "annotations")
    assert load(f"imagenet:root={tmp_path / 'val'}", "test").labels == LABELS


def test_the_variable_says_where_imagenet_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, f"imagenet/val/{TENCH}/a.JPEG")
    monkeypatch.setenv("STOCHX_DATA", str(tmp_path))
    assert load("imagenet", "test").labels == [0]


def test_equal_names_in_two_folders_stay_apart(tmp_path: Path) -> None:
    plant(tmp_path, f"{TENCH}/a.png", f"{SNAKE}/a.png")
    assert load(f"imagenet:root={tmp_path}", "test").keys == [f"{TENCH}/a.png", f"{SNAKE}/a.png"]


def test_class_names_are_torchvisions(tmp_path: Path) -> None:
    data = load(f"imagenet:root={plant(tmp_path, f'{SNAKE}/a.png')}", "test")
    assert data.classes == imagenet_classes() and data.classes[65] == "sea snake"
    assert len(set(WNIDS)) == 1000 and list(WNIDS) == sorted(WNIDS)


def test_real_samples_have_the_index_that_their_name_says() -> None:
    names = [path.stem.split("_") for path in shared("imagenet_samples").glob("*.jpg")]
    assert len(names) == 200 and all(WNIDS[int(index)] == wnid for index, wnid in names)


def test_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none for training"):
        load(f"imagenet:root={tmp_path}", "train")


def test_where_nothing_is_found_the_hint_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ImageNet validation images in") as caught:
        load(f"imagenet:root={plant(tmp_path, 'val/cat/a.png')}", "test")
    assert "ILSVRC2012_val_00000001.JPEG" in caught.value.hint
    with pytest.raises(InputError, match="no such folder"):
        load(f"imagenet:root={tmp_path / 'absent'}", "test")


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    flat(tmp_path / "val")
    with pytest.raises(InputError, match="has ImageNet's images but not their classes") as caught:
        load(f"imagenet:root={tmp_path}", "test")
    assert "LOC_val_solution.csv" in caught.value.hint


def test_an_image_without_a_class_is_named(tmp_path: Path) -> None:
    flat(tmp_path, [*NAMES, "ILSVRC2012_val_00000004.JPEG"])
    annotate(tmp_path / "annotations")
    with pytest.raises(InputError, match=r"annotations` has no class for 1 images \(`ILSVRC2012_val_00000004`\)"):
        load(f"imagenet:root={tmp_path}", "test")


def test_classes_beyond_the_thousand_are_refused(tmp_path: Path) -> None:
    plant(tmp_path / "one", "n99999999/a.png")
    with pytest.raises(InputError, match=r"`n99999999/a\.png` has the class `n99999999`, which is not in ILSVRC2012"):
        load(f"imagenet:root={tmp_path / 'one'}", "test")
    flat(tmp_path / "two")
    annotate(tmp_path / "two/annotations", [TENCH, "n00000001", TENCH])
    with pytest.raises(InputError, match=r"`ILSVRC2012_val_00000002\.JPEG` has the class `n00000001`"):
        load(f"imagenet:root={tmp_path / 'two'}", "test")


BOMB = '<!DOCTYPE a [<!ENTITY b "n01440764">]><annotation><object><name>&b;</name></object></annotation>'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB.encode(), "not a plain annotation"),
        (f'<?xml version="1.0" encoding="utf-16"?>{BOMB}'.encode("utf-16"), "not a plain annotation"),
        (b"<annotation>" + b" " * 2**20, "not a plain annotation"),
        (b"<annotation><object>", "is damaged: no element found"),
        (b'<?xml version="1.0" encoding="nope"?><annotation/>', "is damaged: unknown encoding"),
        (b"<annotation/>", "names no object"),
        (b"", "is damaged: no element found"),
    ],
)
def test_hostile_annotations_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    flat(tmp_path)
    annotate(tmp_path / "annotations")
    (tmp_path / "annotations" / NAMES[1]).with_suffix(".xml").write_bytes(content)
    with pytest.raises(InputError, match=rf"ILSVRC2012_val_00000002\.xml` .*{words}"):
        load(f"imagenet:root={tmp_path}", "test")


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("x" * 200_000)
    with pytest.raises(InputError, match=r"LOC_val_solution\.csv` is damaged"):
        load(f"imagenet:root={tmp_path}", "test")
    (tmp_path / "LOC_val_solution.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="has no class for 3 images"):
        load(f"imagenet:root={tmp_path}", "test")


def test_a_devkit_without_its_table_says_what_helps(tmp_path: Path) -> None:
    flat(tmp_path)
    devkit(tmp_path / DEVKIT)
    truth = tmp_path / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("3\n7\n2\n")
    with pytest.raises(InputError, match=r"ground_truth\.txt` has `7` in line 2, which is not a class"):
        load(f"imagenet:root={tmp_path}", "test")
    truth.write_text("3\n4\n2\n")
    with pytest.raises(InputError, match="has the class `n00001740`, which is not in ILSVRC2012"):
        load(f"imagenet:root={tmp_path}", "test")
    (tmp_path / DEVKIT / "meta.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    with pytest.raises(InputError, match=r"meta\.mat` is damaged") as caught:
        load(f"imagenet:root={tmp_path}", "test")
    assert caught.value.hint.startswith("use `LOC_val_solution.csv`")
    (tmp_path / DEVKIT / "meta.mat").unlink()
    with pytest.raises(InputError, match=r"no such file: `.*meta\.mat`"):
        load(f"imagenet:root={tmp_path}", "test")
