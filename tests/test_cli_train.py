"""`stochx train` as its users meet it: files, resuming, adversarial training, errors."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
import torch
from conftest import shared
from PIL import Image
from planted import plant
from support import stochx, stochx_in_ranks

from stochx import load_model
from stochx.cli.watch import epoch_line
from stochx.engine.io.images import Preparation
from stochx.loading import load_data
from stochx.tasks.train import split_for_training

DATA = ("--data", "shapes:size=32,classes=3,count=60")
SMALL = (*DATA, "--arch", "convnet:width=4", "--lr", "0.05", "--batch-size", 16, "--device", "cpu")
ATTACKED = ("--adversarial", "pgd:steps=2", "--validation", 9)


def train(place, folder, *more):
    return stochx("train", *SMALL, "-o", folder, *more, cwd=place)


def result(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"][0]


def same(one, other):
    """Whether two weights files hold the same bytes."""
    one, other = (load_model(str(path)).state_dict() for path in (one, other))
    return all(torch.equal(value, other[name]) for name, value in one.items())


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A finished adversarial training with all its files, and the folder that it lies in."""
    place = tmp_path_factory.mktemp("train")
    done = train(place, "at", *ATTACKED, "--epochs", 3, "--save-epochs", "--json")
    return place, done


def test_training_writes_a_model_and_minds_what_is_there(tmp_path):
    row = result(train(tmp_path, "whole", "--epochs", 3, "--json", "-q"))
    assert row["epochs"] == 3 and row["n"] > 0 and 0 <= row["accuracy"] <= 1
    assert row["best_epoch"] is None and row["robust"] is None and row["validation"] == 0
    assert train(tmp_path, "whole", "--epochs", 3).returncode == 2
    assert stochx("info", row["model"], cwd=tmp_path).returncode == 0


def test_adversarial_training_tells_each_epoch_and_keeps_the_best_one(attacked):
    place, done = attacked
    row, rows = result(done), lines(place / "at")
    said = [line for line in done.stderr.splitlines() if line.startswith("epoch")]
    assert said == [epoch_line(one, 3, "images") for one in rows]
    assert [set(one) for one in rows] == [{"epoch", "loss", "accuracy", "images_per_second", "clean", "robust"}] * 3
    best = max(rows, key=lambda one: one["robust"])
    assert (row["best_epoch"], row["clean"], row["robust"], row["validation"]) == (
        best["epoch"],
        best["clean"],
        best["robust"],
        9,
    )
    with Image.open(place / "at" / "curves.png") as drawn:
        assert drawn.size[0] > 600
    kept = load_model(str(place / "at" / "model.safetensors"))
    assert kept.origin["training"] == "3 epochs, madry pgd:steps=2, linf 8/255"
    files = sorted(file.name for file in (place / "at" / "checkpoints").iterdir())
    assert files == [f"epoch-{n:03d}.safetensors" for n in range(4)]
    assert same(place / "at" / "model.safetensors", place / "at" / "checkpoints" / files[best["epoch"]])


def test_a_training_that_grows_goes_on(attacked, tmp_path):
    train(tmp_path, "at", *ATTACKED, "--epochs", 2, "--schedule", "constant")
    whole = result(train(tmp_path, "whole", *ATTACKED, "--epochs", 3, "--schedule", "constant", "--json", "-q"))
    row = result(train(tmp_path, "at", *ATTACKED, "--epochs", 3, "--schedule", "constant", "--resume", "--json", "-q"))
    assert {**row, "model": ""} == {**whole, "model": ""}
    assert [one["epoch"] for one in lines(tmp_path / "at")] == [1, 2, 3]


def test_an_epoch_that_was_stored_and_not_told_of_is_not_lost(tmp_path):
    result(train(tmp_path, "at", *ATTACKED, "--epochs", 2, "--save-epochs", "--json"))
    folder = tmp_path / "at"
    before = lines(folder)
    (folder / "records.jsonl").write_text(json.dumps(before[0]) + "\n")
    (folder / "checkpoints" / "epoch-002.safetensors").unlink()
    result(train(tmp_path, "at", *ATTACKED, "--epochs", 2, "--save-epochs", "--resume", "--json"))
    assert lines(folder) == before and (folder / "checkpoints" / "epoch-002.safetensors").exists()


def test_an_older_runs_state_and_epochs_do_not_stay(tmp_path):
    train(tmp_path, "at", "--epochs", 3, "--save-epochs")
    result(train(tmp_path, "at", "--epochs", 1, "--overwrite", "--json"))
    assert not list((tmp_path / "at" / "checkpoints").iterdir())
    assert [one["epoch"] for one in lines(tmp_path / "at")] == [1]


def test_a_trained_network_is_tuned_with_a_tenth_of_the_rate(attacked):
    place, _ = attacked
    done = stochx("train", *DATA, "--init", "at/model.safetensors", "--epochs", 1, *ATTACKED, "-o", "on", cwd=place)
    assert done.returncode == 0, done.stderr
    config = tomllib.loads((place / "on" / "config.toml").read_text())
    assert config["lr"] == 0.01 and "arch" not in config
    tuned, before = (load_model(str(place / folder / "model.safetensors")) for folder in ("on", "at"))
    assert tuned.arch == before.arch == "convnet:width=4"
    a, b = (model.state_dict()["network.0.weight"] for model in (tuned, before))
    assert 0 < (a - b).norm() / b.norm() < 0.5


def test_images_kept_apart_by_default_choose_the_epoch_unless_the_weights_may_have_seen_them(attacked, tmp_path):
    attack = ("--adversarial", "fgsm", "--epochs", 1, "--json", "-q")
    assert result(train(tmp_path, "new", *attack))["validation"] == 6, "a tenth of 60"
    init = attacked[0] / "at" / "model.safetensors"
    tuned = result(stochx("train", *DATA, "--init", init, *attack, "-o", tmp_path / "tuned"))
    assert tuned["validation"] == 6 and tuned["best_epoch"] is None and 0 <= tuned["robust"] <= 1, "only watched"


def test_images_kept_apart_are_the_last_of_each_class_and_are_not_learnt():
    data = load_data("shapes:size=32,classes=3,count=60", "train")
    found = split_for_training(data.limited(30), Preparation(32, 32), validation_size=6)
    labels = [int(label) for label in data.labels[:30]]
    wanted = sorted(i for k in range(3) for i in [i for i, label in enumerate(labels) if label == k][-2:])
    assert torch.equal(found.held_pixels, data.pixels[wanted])
    assert torch.equal(found.pixels, data.pixels[[i for i in range(30) if i not in wanted]])
    assert found.held_labels.bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        (("--recipe", "trades"), "`--recipe` needs adversarial training", "--adversarial pgd:steps=7"),
        (("--eps", "4/255"), "`--eps` needs adversarial training", "--adversarial"),
        (("--adversarial", "pgd", "--recipe", "trade"), "`--recipe trade` is unknown", "did you mean `trades`?"),
        (("--adversarial", "pgdd"), "unknown attack `pgdd`", "did you mean `pgd`?"),
        (("--adversarial", "pgd:step=x"), "`pgd:step` expects a number", ""),
        (("--adversarial", "pgd", "--eps", "8"), "above 1", "did you mean `--eps 8/255`?"),
        (("--adversarial", "pgd", "--eps", "0"), "leaves the images as they are", "leave out"),
        (("--adversarial", "fgsm", "--recipe", "trades"), "`trades` maximises a divergence", "--adversarial pgd"),
        (("--adversarial", "transfer"), "`transfer` needs another network", "pgd:steps=7"),
        (("--awp", "0.01"), "`--awp` needs adversarial training", "--adversarial pgd:steps=7"),
        (("--awp-delay", "2"), "`--awp-delay` needs adversarial training", "--adversarial pgd:steps=7"),
        (("--adversarial", "pgd", "--awp-delay", "2"), "`--awp-delay 2` delays nothing", "--awp 0.005"),
        (
            ("--adversarial", "pgd", "--awp=-0.01"),
            "invalid value for `--awp`: -0.01 is not in the range",
            "stochx train --help",
        ),
        (("--smoothing", "1"), "invalid value for `--smoothing`: 1.0 is not in the range", "stochx train --help"),
        (("--extra-share", "0.5"), "`--extra-share` needs extra images", "--extra npz:path=FILE"),
        (("--extra", "npz:path=absent.npz"), "no such file: `absent.npz`", "check the path"),
        (("--optimizer", "adam"), "`--optimizer adam` is unknown", "did you mean `adamw`?"),
        (("--schedule", "cosin"), "`--schedule cosin` is unknown", "did you mean `cosine`?"),
        (("--patience", "3"), "`--patience` needs images to validate on", "--validation"),
        (("--validation", "60"), "60 images for validation leave none of 60 for training", "hold out fewer"),
        (("--accumulate", "16"), "16 images in 16 parts", "larger batch"),
        (("--limit", "1"), "all training images have the same class", "at least two"),
        (("--arch", "resnet21"), "unknown architecture `resnet21`", "did you mean"),
    ],
)
def test_what_cannot_be_trained_is_refused(more, message, hint, tmp_path):
    done = train(tmp_path, "bad", *more)
    assert done.returncode == 2 and message in done.stderr and hint in done.stderr, done.stderr
    assert not list(tmp_path.glob("bad/*"))


FREE = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


def test_own_code_of_free_size_is_trained_at_the_size_of_the_images(tmp_path):
    (tmp_path / "mine.py").write_text(FREE)
    train, words = ("train", *DATA, "--epochs", 1, "--device", "cpu", "-o", "out"), ("--arch", "./mine.py:make")
    assert stochx(*train, *words, cwd=tmp_path).returncode == 0
    model = load_model(tmp_path / "out/model.safetensors", arch=str(tmp_path / "mine.py:make"))
    assert model.input_shape == (3, 32, 32)


def test_a_folder_with_one_class_is_refused(tmp_path):
    plant(tmp_path, "photos/cat/a.png", "photos/cat/b.png")
    done = stochx("train", "--data", f"folder:root={tmp_path}/photos", "-o", tmp_path / "out")
    assert done.returncode == 2 and "the same class, `cat`" in done.stderr, done.stderr


def test_a_rate_that_is_too_large_is_told_with_its_step(tmp_path):
    done = train(tmp_path, "far", "--lr", "1e6", "--epochs", 2)
    assert done.returncode == 1 and "epoch 1, step" in done.stderr and "lower the learning rate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_training_that_is_killed_and_resumed_writes_the_same_weights(tmp_path):
    settings = (*SMALL, *ATTACKED, "--epochs", 4, "--average", 0.9, "--patience", 3)
    result(stochx("train", *settings, "-o", "whole", "--json", "-q", cwd=tmp_path))
    command = [sys.executable, "-m", "stochx", "train", *map(str, settings), "-o", "killed"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if line.startswith("epoch 2/4"):
                running.kill()
                break
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    result(stochx("train", *settings, "-o", "killed", "--json", "-q", "--resume", cwd=tmp_path))
    assert same(tmp_path / "whole" / "model.safetensors", tmp_path / "killed" / "model.safetensors")


@pytest.mark.slow
def test_two_ranks_train_and_one_of_them_writes(tmp_path):
    more = ("--awp", 0.01, "--extra", "shapes:size=32,classes=3,count=30,domain=sketch")
    settings = (*SMALL, *ATTACKED, *more, "--epochs", 2, "-o", "at", "--json", "-q")
    done = stochx_in_ranks("train", *settings, cwd=tmp_path)
    assert result(done)["epochs"] == 2
    assert [one["epoch"] for one in lines(tmp_path / "at")] == [1, 2]


@pytest.mark.slow
def test_a_real_teacher_is_tuned_adversarially(tmp_path):
    weights, root = shared("weights_cifar10/resnet20.safetensors"), shared("cifar10")
    args = ("--init", weights, "--data", f"cifar10:root={root}", "--limit", 256, "--epochs", 1, "--device", "cpu")
    row = result(stochx("train", *args, "--adversarial", "pgd:steps=2", "-o", tmp_path / "at", "--json"))
    assert row["accuracy"] > 0.5 and row["epochs"] == 1


@pytest.mark.slow
def test_two_ranks_distil_as_one_process_does(tmp_path):
    plain = ("--arch", "robust-resnet2b", "--lr", "0.01", "--no-augment", "--batch-size", "16", "--device", "cpu", "-q")
    assert stochx("train", *DATA, *plain, "--epochs", 1, "-o", "teacher", cwd=tmp_path).returncode == 0
    words = ("distill", "--teacher", "teacher/model.safetensors", *DATA, "--noise", "none", "--epochs", "2", *plain[2:])
    assert stochx(*words, "-o", "one", cwd=tmp_path).returncode == 0
    assert stochx(*words, "--seed", 1, "-o", "other", cwd=tmp_path).returncode == 0
    assert stochx_in_ranks(*words, "-o", "two", cwd=tmp_path).returncode == 0
    one, two, other = (
        load_model(str(tmp_path / name / "student.safetensors")).state_dict() for name in ("one", "two", "other")
    )
    assert max(float((value - two[name]).abs().max()) for name, value in one.items()) < 1e-5
    assert max(float((value - other[name]).abs().max()) for name, value in one.items()) > 1e-4
