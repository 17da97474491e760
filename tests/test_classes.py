"""Classes of data meet those of a network by name; a robustness number of mixed-up labels would be wrong in silence."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from colours import COLOURS, data, folders, nearest_colour
from support import stochx

from stochx.catalog import MODELS
from stochx.classes import match_classes, with_classes_of
from stochx.engine.io.wnids import WNIDS
from stochx.engine.network.weights import save
from stochx.errors import InputError
from stochx.loading import load_data, load_model
from stochx.presets import imagenet_classes

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TUTORIAL = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("classes", "outputs", "expected"),
    [
        (("ant", "bee", "dog"), ("ant", "bee", "cat", "dog"), {0: 0, 1: 1, 2: 3}),
        (("a", "b"), ("b", "a"), {0: 1, 1: 0}),
        (("Great_White Shark", "tabby-cat"), ("tabby cat", "great white shark"), {0: 1, 1: 0}),
        (("cat", "Cat"), ("Cat", "cat"), {0: 1, 1: 0}),  # exact names first
        (TUTORIAL, CIFAR, {i: i for i in range(10)}),
        (("n01440764", "n01443537"), imagenet_classes(), {0: 0, 1: 1}),
        (("goldfish", "tench"), WNIDS, {0: 1, 1: 0}),
        (("n02012849", "n03126707"), imagenet_classes(), {0: 134, 1: 517}),  # crane bird, crane
        (imagenet_classes(), WNIDS, {i: i for i in range(1000)}),
        (("0", "1", "2"), ("0", "1", "2", "3"), {0: 0, 1: 1, 2: 2}),
        (("0", "1", "2"), ("x", "y", "z", "w"), {0: 0, 1: 1, 2: 2}),
        (("x", "y"), ("0", "1"), {0: 0, 1: 1}),
        (("0", "1", "10", "2"), tuple(map(str, range(11))), {0: 0, 1: 1, 2: 10, 3: 2}),
        (("003", "7"), tuple(map(str, range(8))), {0: 3, 1: 7}),
        (("0", "1", "2"), ("0", "2", "1"), {0: 0, 1: 2, 2: 1}),  # trained on folders in the order of text
        (("0", "2", "1"), ("x", "y", "z"), {0: 0, 1: 2, 2: 1}),
    ],
)
def test_classes_are_matched(classes, outputs, expected):
    assert match_classes(classes, outputs, range(len(classes)), "photos") == expected


@pytest.mark.parametrize(
    ("classes", "outputs", "message"),
    [
        (("ant", "wolf"), ("ant", "bee"), "does not know 1 of 2 classes of `photos`: `wolf`"),
        (("x", "y", "z", "w", "v"), ("a",), r"5 of 5 classes of `photos`: `x`, `y`, `z`, \.\.\."),
        (("CARDIGAN",), imagenet_classes(), "several classes of the network fit `CARDIGAN`"),
        (("big cat", "bigcat"), ("Big-Cat", "dog"), "`big cat`, `bigcat` of `photos` are one class"),
        (("x", "y", "z"), ("0", "1"), "has 3 classes, the network has 2"),
        (("0", "1", "2"), ("x", "y"), "has 3 classes, the network has 2"),
        (("0", "3"), ("x", "y", "z", "w"), "does not know 2 of 2 classes of `photos`: `0`, `3`"),
        (("1", "2"), ("5", "6", "1"), "does not know 1 of 2 classes of `photos`: `2`"),
    ],
)
def test_what_cannot_be_matched_is_refused_and_named(classes, outputs, message):
    with pytest.raises(InputError, match=message):
        match_classes(classes, outputs, range(len(classes)), "photos")


def test_classes_without_images_need_no_counterpart():
    assert match_classes(("ant", "wolf", "dog"), ("dog", "ant"), [0, 2], "photos") == {0: 1, 2: 0}


def test_labels_become_outputs_and_names_are_given_to_a_network_without():
    model = nearest_colour(("0", "1", "2", "3"))
    named = with_classes_of(model, data(("ant", "bee", "cat", "dog"), [3, 0]), "photos")
    assert named.labels == [3, 0] and model.classes == named.classes == ("ant", "bee", "cat", "dog")
    moved = with_classes_of(model, data(("dog", "ant"), [0, 1, 1]), "photos")
    assert moved.labels == [3, 0, 0] and moved.classes == model.classes


def test_folders_that_are_numbers_are_outputs_of_that_number_and_this_is_said(caplog):
    order = sorted(map(str, range(12)))
    model = nearest_colour(("0", "1", "2", "3"))
    model.classes = tuple(map(str, range(12)))
    named = with_classes_of(model, data(tuple(order), [2, 4]), "photos")
    assert named.labels == [10, 2] and model.classes[2] == "2"
    assert "class `10` is output 10, by its number" in caplog.text and "`--classes 0,1,10,...`" in caplog.text
    model.classes = tuple(order)
    assert with_classes_of(model, data(tuple(order), [2, 4]), "photos").labels == [2, 4]


def test_a_guess_of_the_names_gives_way(tmp_path, caplog):
    model = MODELS.make("resnet20")(10)
    torch.save(model.network.state_dict(), tmp_path / "bare.pt")
    bare = load_model(str(tmp_path / "bare.pt"))
    assert bare.classes == CIFAR and bare.guessed_classes
    own = tuple("abcdefghij")
    assert with_classes_of(bare, data(own, [9, 1]), "photos").labels == [9, 1]
    assert bare.classes == own and "class names are not in its file" in caplog.text
    save(tmp_path / "named.safetensors", bare)
    with pytest.raises(InputError, match="does not know"):
        with_classes_of(load_model(str(tmp_path / "named.safetensors")), data(CIFAR, [0]), "photos")


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """A folder with a factory of the network, and folders of images."""
    module = ModuleType("colour")
    module.net = lambda: nearest_colour(tuple(COLOURS)).eval()
    monkeypatch.setitem(sys.modules, "colour", module)
    return tmp_path


@pytest.mark.parametrize("names", [["ant", "bee", "cat", "dog"], ["ant", "bee", "dog"], ["dog"], ["_Cat ", "ANT"]])
def test_a_folder_with_some_of_the_classes_is_attacked_by_name(names, colours):
    folders(colours / "data", names)
    done = stochx("attack", "colour:net", "--data", "data", "-a", "fgsm", "--eps", "0.001", "--json", cwd=colours)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["clean"] == 1 and row["n"] == 3 * len(names)


def test_an_unknown_class_is_refused_by_attack_and_boundary(colours):
    folders(colours / "data", ["ant", "wolf"], COLOURS | {"wolf": (9, 9, 9)})
    for command in (("attack", "-a", "fgsm"), ("boundary", "--plane", "gradient", "--images", "0")):
        done = stochx(command[0], "colour:net", "--data", "data", *command[1:], cwd=colours)
        assert done.returncode == 2 and "does not know 1 of 2 classes of `data`: `wolf`" in done.stderr


@pytest.mark.parametrize("broken", [["ant/0.png"], ["dog/2.png"], ["ant/0.png", "bee/1.png", "cat/2.png"]])
@pytest.mark.parametrize("checks", ["quick", "full"])
def test_broken_images_cost_no_more_than_themselves(broken, checks, colours):
    folders(colours / "data", COLOURS)
    for name in broken:
        (colours / "data" / name).write_bytes(b"no image")
    words = ("--data", "data", "-a", "fgsm", "--eps", "0.001", "--checks", checks, "-o", "run", "--json")
    done = stochx("attack", "colour:net", *words, cwd=colours)
    document = json.loads(done.stdout)
    (row,) = document["results"]
    assert done.returncode == 1 and row["n"] == 12 - len(broken) and row["clean"] == 1
    assert document["checks"] and (colours / "run" / "result.json").exists()
    assert len(document["failed"]) == len(broken)


def test_a_larger_limit_resumes_with_the_images_that_are_done(colours):
    folders(colours / "data", COLOURS)

    def attack(limit, *more):
        words = ("--data", "data", "-a", "fgsm", "--eps", "0.001", "--checks", "none", "-o", "run", "--json", *more)
        done = stochx("attack", "colour:net", *words, *(("--limit", limit) if limit else ()), cwd=colours)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), {line["image"] for line in lines()}

    def lines():
        return [json.loads(line) for line in (colours / "run" / "records.jsonl").read_text().splitlines()]

    first, few = attack(5)
    assert first["results"][0]["n"] == 5 and {name.split("/")[0] for name in few} == {*COLOURS}
    more, all_of_them = attack(None, "--resume")
    assert more["results"][0]["n"] == 12 and more["results"][0]["clean"] == 1
    assert len(all_of_them) == 12 and few < all_of_them
    assert [line["image"] for line in lines()] == sorted(all_of_them)  # each at its place


def test_an_image_with_another_label_is_attacked_again(colours):
    pixels = np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in COLOURS.values()])
    words = ("attack", "colour:net", "--data", "a.npz", "-a", "fgsm", "--eps", "0.001", "--json", "-o", "run")
    found = []
    for labels, more in (([0, 1, 3, 2], []), ([0, 1, 2, 3], ["--resume"])):
        np.savez(colours / "a.npz", images=pixels, labels=labels)
        found.append(json.loads(stochx(*words, *more, cwd=colours).stdout)["results"][0]["clean"])
    assert found == [0.5, 1.0]


def test_every_command_takes_the_same_images_for_every_network(colours, monkeypatch):
    folders(colours / "data", COLOURS)
    backwards = ModuleType("backwards")
    backwards.net = lambda: nearest_colour(tuple(reversed(COLOURS))).eval()
    monkeypatch.setitem(sys.modules, "backwards", backwards)
    attack = ("-a", "fgsm", "--eps", "0.001", "--checks", "none")
    for number, words in enumerate(
        (
            ("attack", "colour:net", *attack),
            ("attack", "backwards:net", *attack),
            ("explain", "--model", "backwards:net", "-m", "gradient"),
        )
    ):
        more = ("--data", "data", "--limit", 3, "-o", f"run{number}", "--no-figure")
        assert stochx(*words, *more, cwd=colours).returncode == 0
        lines = (colours / f"run{number}" / "records.jsonl").read_text().splitlines()
        expected = load_data(f"folder:root={colours / 'data'}").limited(3)
        assert [json.loads(line)["image"] for line in lines] == list(expected.keys)


def test_the_checks_see_all_classes_of_a_sorted_folder(colours, monkeypatch):
    folders(colours / "data", COLOURS)
    monkeypatch.setattr("stochx.runs.attack.CHECKED", 4)
    seen = []
    monkeypatch.setattr(
        "stochx.runs.attack.check_evaluation", lambda model, methods, sources, *rest, **more: seen.extend(sources) or []
    )
    words = ("--data", "data", "-a", "fgsm", "--eps", "0.001", "--json")
    assert stochx("attack", "colour:net", *words, cwd=colours).returncode == 0
    assert {source.name.split("/")[0] for source in seen} == {*COLOURS}
