"""Class folders, loose images and zips: every layout that people have on disk, hostile ones too."""

from __future__ import annotations

import os
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from PIL import Image
from planted import encoded, grey, load, packed, plant

from stochx.datasets import zip as zip_file
from stochx.engine.io import images
from stochx.errors import InputError
from stochx.loading import load_data

# Class folders, on disk and in a zip ----------------------------------------------------------------------------------

TWO = {"cat/a.png": "cat", "dog/b.png": "dog"}
SPLITS = {"train/cat/a.png": "cat", "train/dog/b.png": "dog"}
HIDDEN = ["dog/._b.png", ".git/x/y.png", "__MACOSX/cat/a.png", "dog/notes.txt", "dog/.ipynb_checkpoints/b.png"]
LAYOUTS = {  # the files, the split, and the class of each image in it
    "plain": (["dog/b.png", "cat/a.png", "cat/c.JPG"], "train", {**TWO, "cat/c.JPG": "cat"}),
    "wrapped": (["set/dog/b.png", "set/cat/a.png"], "train", {"set/cat/a.png": "cat", "set/dog/b.png": "dog"}),
    "nested": (["x/Greek/1.png", "x/Latin/1.png"], "test", {"x/Greek/1.png": "Greek", "x/Latin/1.png": "Latin"}),
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
    assert "images outside of class folders: 1, such as `overview.png`" in caplog.text


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


def test_a_split_may_be_a_link_to_another(tmp_path: Path) -> None:
    plant(tmp_path, "train/cat/a.png", "train/dog/b.png")
    (tmp_path / "val").symlink_to("train")
    assert list(load(f"folder:root={tmp_path}", "val").keys) == ["val/cat/a.png", "val/dog/b.png"]
    assert len(load(f"folder:root={tmp_path}")) == 2


def test_links_to_links_that_multiply_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "cat/a.png")
    for depth in range(40):  # 2 ** 40 paths to one folder
        folder = tmp_path / f"deep{depth}"
        folder.mkdir()
        for name in ("one", "two"):
            (folder / name).symlink_to(tmp_path / (f"deep{depth - 1}" if depth else "cat"))
    with pytest.raises(InputError, match="is linked to over 64 times"):
        load(f"images:root={tmp_path}")


def test_a_link_without_its_file_is_named(tmp_path: Path) -> None:
    plant(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat/gone.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"`.*cat/gone\.png` is a link to a file that does not exist"):
        load(f"folder:root={tmp_path}").read(1)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_files_of_file_managers_are_left_out_without_a_word(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["cat/a.png", "cat/Thumbs.db", "dog/desktop.ini", "dog/b.png", "@eaDir/a.png/SYNOPHOTO.png", ".DS_Store"]
    source = f"zip:path={packed(tmp_path / 'a.zip', *names)}" if kind == "zip" else f"root={plant(tmp_path, *names)}"
    assert list(load(source if kind == "zip" else f"folder:{source}").keys) == ["cat/a.png", "dog/b.png"]
    assert not caplog.text


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_a_folder_without_images_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="no images in"):
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


FORMS = {".jfif": "JPEG", ".JPE": "JPEG", ".avif": "AVIF", ".png": "PNG", ".jpg": "JPEG", ".pbm": "PPM"}


@pytest.mark.parametrize("kind", ["folder", "zip", "eurosat"])
def test_images_are_found_under_all_their_suffixes(tmp_path: Path, kind: str) -> None:
    if not images.AVIF:
        pytest.skip("this build of Pillow has no AVIF")
    files = {f"{name}/{i}{suffix}": encoded(9, form) for name in "ab" for i, (suffix, form) in enumerate(FORMS.items())}
    for name, content in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    data = load(f"zip:path={tmp_path / 'a.zip'}" if kind == "zip" else f"{kind}:root={tmp_path / 'set'}")
    assert sorted(data.keys) == sorted(files)
    assert all(abs(int(grey(data, i)) - 9) <= 3 for i in range(12))


OTHERS = ["cat/a.png", "cat/b.heic", "cat/c.heic", "dog/d.png", "bird/e.heic", "read me.txt", "cat/LICENSE", ".x.heic"]


@pytest.mark.parametrize("kind", ["folder", "zip", "images", "places:split=all"])
def test_files_that_are_no_images_are_counted_and_empty_classes_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "zip":
        data = load(f"zip:path={packed(tmp_path / 'a.zip', *OTHERS)}")
    else:
        data = load(f"{kind}{',' if ':' in kind else ':'}root={plant(tmp_path, *OTHERS)}")
    assert list(data.keys) == ["cat/a.png", "dog/d.png"]
    assert "that are no images: 5 (.heic: 3, no suffix: 1, .txt: 1), such as `bird/e.heic`" in caplog.text
    assert ("folders without images: 1, `bird`" in caplog.text) == (kind != "images")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_class_folders_with_nothing_in_them_are_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "zip":
        packed(tmp_path / "a.zip", "train/cat/a.png", "test/cat/b.png", "train/dog/c.png")
        with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
            archive.mkdir("test/dog")
        load(f"zip:path={tmp_path / 'a.zip'}")
    else:
        plant(tmp_path, "train/cat/a.png", "test/cat/b.png", "train/dog/c.png")
        (tmp_path / "test" / "dog").mkdir()
        load(f"folder:root={tmp_path}")
    assert "folders without images: 1, `test/dog`" in caplog.text


DEEP = ["land/forest/1.png", "land/beach/2.png", "land/3.png", "sea/4.png"]


@pytest.mark.parametrize("kind", ["folder:root=", "zip:path="])
def test_folders_inside_class_folders_are_refused_unless_asked_for(tmp_path: Path, kind: str) -> None:
    place = packed(tmp_path / "a.zip", *DEEP) if kind.startswith("zip") else plant(tmp_path / "set", *DEEP)
    with pytest.raises(InputError, match=r"folders inside class folders, such as `land/beach`") as refused:
        load(f"{kind}{place}")
    assert "nested=classes" in refused.value.hint and "nested=parts" in refused.value.hint
    for nested, titles in (
        ("classes", ["land", "land/beach", "land/forest", "sea"]),
        ("parts", ["land", "land", "land", "sea"]),
    ):
        data = load(f"{kind}{place},nested={nested}")
        assert [data.classes[label] for label in data.labels] == titles
        assert list(data.keys) == ["land/3.png", "land/beach/2.png", "land/forest/1.png", "sea/4.png"]


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


def test_a_zip_with_backslashes_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "set\\cat\\a.png", "set\\dog\\b.png", "set\\dog\\")
    data = load(f"zip:path={path}")
    assert data.classes == ("cat", "dog") and list(data.keys) == ["set/cat/a.png", "set/dog/b.png"]
    assert [grey(data, i) for i in (0, 1)] == [0, 1]


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"a\.zip` is not a zip"):
        load(f"zip:path={path}")
    with pytest.raises(InputError, match=r"no such file: `.*b\.zip`"):
        load(f"zip:path={tmp_path / 'b.zip'}")
    with pytest.raises(InputError, match=r"no images in `.*c\.zip`"):
        load(f"zip:path={packed(tmp_path / 'c.zip')}")


def test_a_zip_with_two_members_of_one_name_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "cat/a.png", "dog/b.png")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cat\\a.png", encoded(7))
    with pytest.raises(InputError, match=r"two members of one name, `cat/a\.png`"):
        load(f"zip:path={path}")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "cat/a.png", "dog/b.png")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="is not a zip file, or is damaged"):
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
    with pytest.raises(InputError, match="unsupported compression"):
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
        ("omniglot_images_background_small1.zip,nested=classes", 2720, 136, "Balinese/character01"),
        ("miniimagenet_val.zip", 480, 16, "n01855672"),
    ],
)
def test_real_few_shot_zips_are_read(name: str, count: int, classes: int, first: str) -> None:
    data = load(f"zip:path={shared('fewshot') / name}")
    assert data.labels is not None
    assert (len(data), len(data.classes), data.classes[0]) == (count, classes, first)
    assert np.bincount(data.labels).tolist() == [count // classes] * classes
    sizes = {data.read(i).size for i in range(0, count, 40)}
    assert sizes == ({(105, 105)} if "omniglot" in name else {(84, 84)})


SPELLINGS = [
    ("Train", None, "Test"),
    ("training", "dev", "testing"),
    ("training_set", None, "test_set"),
    ("TRAIN", "valid", None),
    ("train-images", "Validation", "eval"),
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_split_folders_are_recognised_however_they_are_spelled(spelling, tmp_path):
    for number, folder in enumerate(spelling):
        for name in ("ant", "bee") if folder else ():
            (tmp_path / folder / name).mkdir(parents=True)
            for k in range(number + 1):
                Image.new("RGB", (4, 4)).save(tmp_path / folder / name / f"{k}.png")
    _, val, test = spelling
    counts = {"train": 2, "val": 4 if val else 6, "test": 6 if test else 4}
    for split, count in counts.items():
        data = load_data(f"folder:root={tmp_path}", split)
        assert data.classes == ("ant", "bee") and len(data) == count


def test_two_folders_of_one_split_are_refused(tmp_path):
    for folder in ("train", "Training", "test"):
        (tmp_path / folder / "ant").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "ant" / "0.png")
    with pytest.raises(InputError, match="has `Training` and `train`"):
        load_data(f"folder:root={tmp_path}", "train")


def test_classes_that_are_called_as_splits_are_classes(tmp_path):
    for name in ("dev", "val", "ops"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    assert load_data(f"folder:root={tmp_path}", "train").classes == ("dev", "ops", "val")


def test_what_stands_beside_split_folders_is_named(tmp_path, caplog):
    for folder in ("train/ant", "test/ant", "extra/ant"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "0.png")
    assert len(load_data(f"folder:root={tmp_path}", "train")) == 1
    assert "ignoring `extra` beside the split folders" in caplog.text


@pytest.mark.parametrize("count", [1, 4, 5, 12, 20])
def test_a_limit_is_balanced_over_classes_where_images_are_sorted_by_class(count, tmp_path):
    sizes = {"ant": 9, "bee": 6, "cat": 3, "dog": 2}
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        for k in range(size):
            Image.new("RGB", (16, 16), (k, 0, 0)).save(tmp_path / name / f"{k}.png")
    whole = load_data(f"folder:root={tmp_path}")
    part = whole.limited(count)
    assert part.keys == whole.limited(count).keys and len(part) == count
    assert {*part.keys} <= {*whole.limited(min(20, count + 1)).keys}
    shares = [list(part.labels).count(label) for label in range(4)]
    allowed = next(most for most in range(1, 10) if sum(min(most, size) for size in sizes.values()) >= count)
    assert all(
        min(allowed - 1, size) <= share <= min(allowed, size)
        for share, size in zip(shares, sizes.values(), strict=True)
    )
    for i, key in enumerate(part.keys):
        assert part.item(i).label == part.labels[i] == sorted(sizes).index(key.split("/")[0])
        assert round(float(part.item(i).image[0, 0, 0]) * 255) == int(key.split("/")[1].split(".")[0])


def test_a_limit_is_the_first_images_in_mixed_order():
    data = load_data("shapes:size=16,classes=3,count=30")
    part = data.limited(7)
    assert part.keys == data.keys[:7] and list(part.labels) == [int(label) for label in data.labels[:7]]
    assert part.pixels.equal(data.pixels[:7])
    assert data.limited(None) is data and data.limited(30) is data
