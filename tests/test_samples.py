"""Samples, held-out parts and images that were trained on: nothing is judged on what it knows without a word."""

from __future__ import annotations

import json
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from colours import COLOURS, data, folders, nearest_colour
from PIL import Image
from support import stochx

from stochx.catalog import MODELS
from stochx.classes import in_both, in_order_of
from stochx.engine.io.data import from_arrays
from stochx.engine.io.fingerprints import fingerprint, fingerprints, from_bytes, to_bytes, union
from stochx.engine.io.held_out import HeldOut
from stochx.engine.io.images import Preparation
from stochx.engine.network.weights import load, save
from stochx.errors import InputError, UsageError
from stochx.loading import load_data, load_model
from stochx.settings import Attack, Score
from stochx.tasks.reading import stack

TRAIN = ("--arch", "convnet:width=2", "--epochs", "1", "--batch-size", "4", "--no-augment", "--device", "cpu")
ATTACK = ("-a", "fgsm", "--eps", "0.001", "--checks", "none", "--no-figure")


def photos(place, count=10, names=("ant", "bee"), first=0):
    """Different images, `count` of each name."""
    for c, name in enumerate(names):
        (place / name).mkdir(parents=True, exist_ok=True)
        for k in range(first, first + count):
            pixels = np.random.default_rng(97 * c + k).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(place / name / f"{k}.png")
    return place


def document(*args, cwd, code=0):
    done = stochx(*args, "--json", cwd=cwd)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def colours(tmp_path, monkeypatch):
    module = ModuleType("colour")
    module.net = lambda: nearest_colour(tuple(COLOURS)).eval()
    module.backwards = lambda: nearest_colour(tuple(reversed(COLOURS))).eval()
    monkeypatch.setitem(sys.modules, "colour", module)
    folders(tmp_path / "data", COLOURS)
    return tmp_path


# Samples --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "sample", "kind", "count"),
    [(None, None, "all", 12), (5, None, "balanced", 5), (5, "first", "first", 5), ("50%", None, "balanced", 6)],
)
def test_the_document_says_which_images_were_used(colours, limit, sample, kind, count):
    words = [w for pair in (("--limit", limit), ("--sample", sample)) if pair[1] for w in pair]
    hashes = set()
    commands = ("attack", "colour:net", *ATTACK), ("explain", "--model", "colour:net", "-m", "sobel", "--no-figure")
    for n, command in enumerate(commands):
        found, _ = document(*command, "--data", "data", *words, "-o", f"run{n}", cwd=colours)
        hashes.add(found["sample"].pop("hash"))
        assert found["sample"] == {"kind": kind, "count": count, "total": 12, "trained": None}
        lines = (colours / f"run{n}" / "records.jsonl").read_text().splitlines()
        titles = {json.loads(line)["image"].split("/")[0] for line in lines}
        assert len(lines) == count and titles == ({"ant", "bee"} if kind == "first" else {*COLOURS})
    assert len(hashes) == 1, "all commands use the same images"


def test_a_config_brings_the_sample_back(colours):
    first, _ = document("attack", "colour:net", "--data", "data", *ATTACK, "--limit", "25%", "-o", "one", cwd=colours)
    assert first["args"]["limit"] == "25%" and first["sample"]["count"] == 3
    again, _ = document("attack", "colour:net", "--config", "one/config.toml", "-o", "two", cwd=colours)
    assert again["sample"] == first["sample"]
    more, _ = document("attack", "colour:net", "--config", "one/config.toml", "-o", "one", "--limit", "6", "--resume",
                       cwd=colours)  # fmt: skip
    assert more["args"]["limit"] == 6 and more["sample"]["count"] == more["results"][0]["n"] == 6
    done = stochx("attack", "colour:net", "--config", "one/config.toml", "-o", "one", "--sample", "first", "--resume",
                  cwd=colours)  # fmt: skip
    assert done.returncode == 2 and "was run with `sample` unset, not `first`" in done.stderr


@pytest.mark.parametrize(
    "limit", ["0", "-3", "nan", "nan%", "101%", "0%", "-5%", "inf%", "%", "ten", "1.5", 0, -1, 0.1]
)
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(UsageError, match=r"`--limit"):
        Attack(model="net.pt", limit=limit)


def test_limits_are_numbers_and_shares():
    assert Attack(model="net.pt", limit="7").limit == Attack(model="net.pt", limit=7).limit == 7
    shares = {text: Attack(model="net.pt", limit=text).limit_of(500) for text in ("0.1%", "10%", "100%", "33.3%")}
    assert shares == {"0.1%": 1, "10%": 50, "100%": 500, "33.3%": 166}


def test_a_sample_needs_a_limit_and_classes():
    with pytest.raises(UsageError, match=r"`--sample first` has no `--limit`"):
        Attack(model="net.pt", sample="first")
    with pytest.raises(UsageError, match="needs classes"):
        Score(images=("a.png",), limit=3, sample="balanced")
    with pytest.raises(InputError, match="no balanced sample"):
        from_arrays(np.zeros((9, 8, 8, 3), np.uint8), None, (), "x").limited(3, "balanced")


def test_a_balanced_sample_of_a_mixed_set_has_as_many_of_each_class():
    mixed = load_data("shapes:size=16,classes=5,count=1000")
    assert [*mixed.limited(15).labels] == [0, 1, 2, 3, 4] * 3
    unequal = from_arrays(np.zeros((40, 8, 8, 3), np.uint8), [0, 1, 1, 1] * 10, ("a", "b"), "x")
    assert sum(unequal.limited(10, "balanced").labels) == 5 and sum(unequal.limited(10).labels) == 7


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 0, 0, 1, 1, 1], "balanced"),
        ([0, 0, 0, 1, 1, 1] * 2, "balanced"),  # sorted twice, as folders `test` and `train` are with `split=all`
        ([0] * 9 + [1, 0] + [1] * 9, "balanced"),  # one image in the wrong place
        ([0, 1, 2] * 5, "first"),
        ([0, 1, 1, 0, 2, 0, 1, 2, 2, 0], "first"),
        ([0] * 6, "first"),
    ],
)
def test_images_that_come_nearly_sorted_by_class_are_sampled(labels, kind):
    assert data(("a", "b", "c"), labels).usual_sample == kind


def test_image_files_come_before_a_sample_of_the_data(colours):
    files = [str(colours / "data" / name) for name in ("ant/0.png", "bee/0.png")]
    words = ("explain", *files, "--model", "colour:net", "-m", "sobel", "--no-figure", "--data", "data")
    found, _ = document(*words, "--limit", 6, "-o", "run", cwd=colours)
    images = [row["image"] for row in found["results"]]
    assert images[:2] == files and {name.split("/")[0] for name in images[2:]} == {*COLOURS}
    assert found["sample"]["kind"] == "balanced" and found["sample"]["total"] == 14


# Parts that are held out ----------------------------------------------------------------------------------------------


def test_a_part_of_each_class_is_held_out_by_the_names_of_images():
    keys = [f"{name}/{k}" for name, size in (("a", 10), ("b", 3), ("c", 1), ("d", 2)) for k in range(size)]
    labels = [0] * 10 + [1] * 3 + [2] + [3] * 2
    whole = data(("a", "b", "c", "d"), labels)
    whole.keys[:] = keys
    part = HeldOut.of(whole)
    held = [labels[i] for i in part.places(whole)]
    assert [held.count(label) for label in range(4)] == [2, 1, 0, 1]
    assert HeldOut.noted(part.note()) == part and HeldOut.noted({}) is None
    assert all(HeldOut.noted({"held out": text}) is None for text in ("many", "share=nan,hash=a", "share=2,hash=a"))
    fewer = whole.subset(range(15))
    assert HeldOut.of(fewer) != part


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that was trained on a folder without splits, and the document of its training."""
    place = tmp_path_factory.mktemp("undivided")
    photos(place / "data")
    found, said = document("train", "--data", "data", *TRAIN, "-o", "net", cwd=place)
    return place, found, said


def test_a_set_without_splits_is_tested_on_a_part_that_is_held_out(trained):
    place, found, said = trained
    assert "`data` has no split of its own: 4 of 20 images are held out for testing" in said
    assert found["sample"]["count"] == 16 and found["test_sample"]["count"] == found["results"][0]["n"] == 4
    assert found["test_sample"]["trained"] == 0 and found["failed"] == []
    model = load_model(str(place / "net" / "model.safetensors"))
    assert HeldOut.noted(model.origin) == HeldOut.of(load_data(str(place / "data")))
    assert len(model.trained) == 16


@pytest.mark.parametrize("command", ["attack", "explain", "score", "boundary"])
def test_what_was_held_out_is_what_a_network_is_judged_on(trained, command, tmp_path):
    place, *_ = trained
    words = {
        "attack": ("attack", "net/model.safetensors", *ATTACK),
        "explain": ("explain", "--model", "net/model.safetensors", "-m", "sobel", "--no-figure"),
        "score": ("score", "--model", "net/model.safetensors", "-m", "sobel", "-s", "sparseness", "--no-figure"),
        "boundary": ("boundary", "net/model.safetensors", "--plane", "gradient", "--resolution", "3", "--no-figure"),
    }[command]
    found, said = document(*words, "--data", "data", "-o", tmp_path / "run", cwd=place)
    assert "using the 4 of 20 images that were held out when `net/model.safetensors` was trained" in said
    assert "was trained on" not in said
    if command != "boundary":
        assert found["sample"]["total"] == 4 and found["sample"]["trained"] == 0


def test_images_that_were_trained_on_are_named(trained, tmp_path):
    place, *_ = trained
    shutil.copytree(place / "data", tmp_path / "other" / "data")
    photos(tmp_path / "other" / "data", 2, first=50)  # another folder: what was held out cannot be found
    words = ("attack", place / "net/model.safetensors", *ATTACK, "--data", "data", "-o", "run")
    found, said = document(*words, cwd=tmp_path / "other")
    assert "was trained on 16 of the 24 images: `ant/1.png`" in said
    assert found["sample"]["total"] == 24 and found["sample"]["trained"] == 16
    _, said = document("explain", place / "data/ant/1.png", place / "data/bee/3.png", "--model",
                       place / "net/model.safetensors", "-m", "sobel", "-o", "x", cwd=tmp_path)  # fmt: skip
    assert "was trained on" in said


def test_at_another_size_nothing_is_claimed_of_the_images_that_were_trained_on(trained, tmp_path):
    place, *_ = trained
    shutil.copytree(place / "data", tmp_path / "data")
    photos(tmp_path / "data", 2, first=50)
    words = ("attack", place / "net/model.safetensors", *ATTACK, "--data", "data", "--size", "24", "-o", "run")
    found, said = document(*words, cwd=tmp_path)
    assert found["sample"]["trained"] is None and "not recognised when they are prepared otherwise" in said


def test_a_student_is_tested_on_what_its_teacher_has_not_seen(trained, tmp_path):
    place, *_ = trained
    words = ("--epochs", 1, "--batch-size", 4, "--adversarial", "none", "--draws", 1, "--device", "cpu", "--seed", 3)
    found, said = document("distill", "--teacher", "net/model.safetensors", "--data", "data", *words, "-o",
                           tmp_path / "student", cwd=place)  # fmt: skip
    assert found["test_sample"]["count"] == 4 and found["test_sample"]["trained"] == 0 and "was trained on" not in said
    student = load_model(str(tmp_path / "student" / "student.safetensors"))
    assert HeldOut.noted(student.origin) == HeldOut.of(load_data(str(place / "data")))
    assert student.trained.equal(load_model(str(place / "net/model.safetensors")).trained)


def test_test_images_that_are_training_images_are_named(tmp_path):
    photos(tmp_path / "data" / "train", 4)
    photos(tmp_path / "data" / "test", 2, first=3)  # 3.png of both classes is in train too
    found, said = document("train", "--data", "data", *TRAIN, "-o", "net", cwd=tmp_path)
    assert "2 of the 4 test images are training images too: `test/ant/3.png`, `test/bee/3.png`" in said
    assert found["test_sample"]["trained"] == 2


def test_splits_of_other_classes_do_not_test_a_classifier(tmp_path):
    photos(tmp_path / "data", 3, ("a", "b", "c", "d", "e", "f"))
    done = stochx("train", "--data", "folder:root=data,split=mod4", *TRAIN, "-o", "net", cwd=tmp_path)
    assert done.returncode == 2 and "has other classes for testing than for training" in done.stderr


def test_one_image_a_class_leaves_nothing_to_hold_out(tmp_path):
    photos(tmp_path / "data", 1, ("a", "b", "c"))
    done = stochx("train", "--data", "data", *TRAIN, "-o", "net", cwd=tmp_path)
    assert done.returncode == 2 and "no class has two" in done.stderr


# Fingerprints ---------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_same_for_bytes_and_floats_and_tells_one_bit():
    pixels = torch.randint(0, 256, (5, 3, 7, 6), dtype=torch.uint8)
    known = fingerprints(pixels)
    assert [fingerprint(image.float() / 255) for image in pixels] == [fingerprint(image) for image in pixels]
    other = pixels[0].clone()
    other[0, 0, 0] ^= 1
    assert fingerprint(other) not in known.tolist() and fingerprint(pixels[0].view(3, 6, 7)) not in known.tolist()
    assert from_bytes(to_bytes(known)).equal(known) and union(known, known[:2]).equal(known)


def test_a_file_keeps_fingerprints_beside_its_weights(tmp_path):
    model = MODELS.make("convnet:width=2")(3)
    names = {*load(_saved(tmp_path / "plain.safetensors", model)).tensors}
    model.trained = fingerprints(torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8))
    stored = load(_saved(tmp_path / "known.safetensors", model))
    assert stored.trained.equal(model.trained) and {*stored.tensors} == names
    assert load_model(str(tmp_path / "known.safetensors")).trained.equal(model.trained)


def _saved(path, model):
    save(path, model)
    return path


def test_damaged_fingerprints_are_one_error(tmp_path):
    model = MODELS.make("convnet:width=2")(3)
    model.trained = torch.arange(4)
    content = _saved(tmp_path / "net.safetensors", model).read_bytes()
    start = content.index(b'"stochx.trained":"') + 18
    (tmp_path / "net.safetensors").write_bytes(content[:start] + b"?" + content[start + 1 :])
    with pytest.raises(InputError, match=r"the entry `stochx\.trained` of `.*` is damaged"):
        load(tmp_path / "net.safetensors")


# Images that cannot be read -------------------------------------------------------------------------------------------

BROKEN = [["train/ant/0.png"], ["train/bee/7.png"], ["train/ant/0.png", "train/bee/3.png", "test/bee/2.png"]]


@pytest.mark.parametrize("broken", BROKEN, ids=len)
def test_broken_images_do_not_stop_training(broken, tmp_path):
    photos(tmp_path / "data" / "train", 8)
    photos(tmp_path / "data" / "test", 3, first=20)
    names = [name.replace("test/bee/2", "test/bee/22") for name in broken]
    for name in names:
        (tmp_path / "data" / name).write_bytes(b"no image")
    found, said = document("train", "--data", "data", *TRAIN, "-o", "net", cwd=tmp_path, code=1)
    assert [each["image"] for each in found["failed"]] == names
    assert all(f"{name}` is not an image" in said for name in names)
    model = load_model(str(tmp_path / "net" / "model.safetensors"))
    assert len(model.trained) == 16 - sum(name.startswith("train") for name in names)
    assert found["results"][0]["n"] == 6 - sum(name.startswith("test") for name in names)
    teacher = ("distill", "--teacher", "net/model.safetensors", "--data", "data", "--adversarial", "none")
    found, _ = document(*teacher, "--epochs", 1, "--batch-size", 4, "--draws", 1, "-o", "st", cwd=tmp_path, code=1)
    assert [each["image"] for each in found["failed"]] == names and (tmp_path / "st" / "student.safetensors").exists()


def test_broken_images_leave_the_others_in_their_places(tmp_path):
    photos(tmp_path, 4)
    for name in ("ant/1.png", "ant/2.png", "bee/3.png"):
        (tmp_path / name).write_bytes(b"")
    whole = load_data(str(tmp_path))
    images = stack(whole, Preparation(16, 16))
    assert images.keys == ["ant/0.png", "ant/3.png", "bee/0.png", "bee/1.png", "bee/2.png"]
    assert images.labels.tolist() == [0, 0, 1, 1, 1] and [f.index for f in images.failed] == [1, 2, 7]
    for key, pixels in zip(images.keys, images.pixels, strict=True):
        assert pixels.equal(torch.from_numpy(np.array(Image.open(tmp_path / key))).permute(2, 0, 1))


def test_images_in_memory_are_cropped_as_others_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    whole = from_arrays(pixels, [0, 1], ("a", "b"), "x")
    images = stack(whole, Preparation(20, 16))
    for i in range(2):
        assert torch.equal(images.pixels[i], (whole.item(i, Preparation(20, 16)).image * 255).round().byte())


def test_a_broken_image_leaves_its_place_in_a_plane_to_the_next_of_its_class(tmp_path, colours):
    (colours / "data/bee/0.png").write_bytes(b"")
    words = ("boundary", "colour:net", "--data", "data", "--resolution", 3, "--no-figure")
    found, _ = document(*words, "-o", tmp_path / "run", cwd=colours, code=1)
    assert found["planes"][0]["images"] == ["ant/0.png", "bee/1.png", "cat/0.png"]
    assert [each["image"] for each in found["failed"]] == ["bee/0.png"]
    done = stochx(*words, "--images", "0,3,7", "-o", tmp_path / "named", cwd=colours)
    assert done.returncode == 2 and "`data/bee/0.png` is empty" in done.stderr


def test_images_that_are_all_broken_are_an_error(tmp_path):
    photos(tmp_path, 2)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        stack(load_data(str(tmp_path)), Preparation(16, 16))


def test_broken_images_do_not_stop_few_shot_learning(tmp_path):
    photos(tmp_path / "data", 6, ("a", "b", "c"))
    (tmp_path / "data" / "b" / "2.png").write_bytes(b"no image")
    few = ("--data", "data", "--way", 2, "--shot", 1, "--queries", 2, "--device", "cpu", "--episodes")
    found, _ = document("fsc-train", "--backbone", "convnet:width=2", "--size", 16, "--head", "prototypical", "--guide",
                        "none", *few, 2, "--every", 2, "-o", "few", cwd=tmp_path, code=1)  # fmt: skip
    assert [each["image"] for each in found["failed"]] == ["b/2.png"]
    for more in ((), ("--resume",)):
        found, _ = document("fsc-test", "few/model.safetensors", *few, 4, "-o", "test", *more, cwd=tmp_path, code=1)
        assert [each["image"] for each in found["failed"]] == ["b/2.png"] and found["results"][0]["n"] == 4


def test_a_broken_image_of_the_support_costs_no_more_than_itself(tmp_path):
    photos(tmp_path / "data", 4, ("a", "b", "c"))
    few = ("--way", 2, "--shot", 1, "--queries", 1, "--device", "cpu", "--episodes", 2, "--every", 2)
    document("fsc-train", "--backbone", "convnet:width=2", "--size", 16, "--guide", "none", "--data", "data", *few,
             "-o", "few", cwd=tmp_path)  # fmt: skip
    (tmp_path / "data" / "a" / "0.png").write_bytes(b"no image")
    words = ("fsc-explain", "data/b/1.png", "--model", "few/model.safetensors", "--support", "data", "--device", "cpu")
    found, _ = document(*words, "--no-figure", "-o", "maps", cwd=tmp_path, code=1)
    assert [each["image"] for each in found["failed"]] == ["a/0.png"]
    assert [row["class_name"] for row in found["results"]] == ["a", "b", "c"]


# Classes of data and outputs of networks ------------------------------------------------------------------------------


def test_info_shows_which_output_a_class_belongs_to(colours):
    folders(colours / "some", ["dog", "_Ant"])
    found, _ = document("info", "colour:net", "--data", "some", cwd=colours)
    assert found["mapping"] == {
        "how": "by name",
        "reason": None,
        "hint": None,
        "classes": [
            {"class": "_Ant", "output": 0, "name": "ant"},
            {"class": "dog", "output": 3, "name": "dog"},
        ],
    }
    table = stochx("info", "colour:net", "--data", "some", cwd=colours).stdout
    assert "class dog\toutput 3: dog\tby name" in table


def test_info_shows_classes_by_place_and_why_they_are_refused(colours, monkeypatch):
    sys.modules["colour"].numbers = lambda: nearest_colour(("0", "1", "2", "3")).eval()
    found, _ = document("info", "colour:numbers", "--data", "data", cwd=colours)
    assert found["mapping"]["how"] == "by place" and [c["output"] for c in found["mapping"]["classes"]] == [0, 1, 2, 3]
    folders(colours / "wolves", ["ant", "wolf"], COLOURS | {"wolf": (9, 9, 9)})
    found, _ = document("info", "colour:net", "--data", "wolves", cwd=colours, code=2)
    assert found["mapping"]["how"] == "refused" and "does not know 1 of 2 classes" in found["mapping"]["reason"]
    assert "does not know" in next(row["value"] for row in found["results"] if row["source"] == "refused")


def test_a_source_of_transfer_has_its_outputs_put_in_order(colours):
    net, backwards = (getattr(sys.modules["colour"], name)() for name in ("net", "backwards"))
    x = torch.rand(5, 3, 16, 16)
    assert in_order_of(net, net, "net") is net
    assert in_order_of(net, backwards, "backwards")(x).equal(backwards(x)[:, [3, 2, 1, 0]])
    with pytest.raises(InputError, match="`few` cannot stand in for the network"):
        in_order_of(net, nearest_colour(("ant", "bee", "cat", "cow")), "few")
    rows = []
    for source in ("net", "backwards"):
        words = ("attack", "colour:net", "--data", "data", "-a", "transfer", "--source", f"colour:{source}")
        found, _ = document(*words, "--eps", "0.5", "--checks", "none", "--no-figure", "-o", source, cwd=colours)
        rows.append(found["results"][0]["robust"])
    assert rows[0] == rows[1] < 1


def test_training_classes_are_recognised_in_another_spelling():
    assert in_both(["Tabby_Cat", "dog", "__"], ["tabby cat", "wolf", "-"]) == ["Tabby_Cat"]
