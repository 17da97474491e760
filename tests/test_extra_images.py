"""Extra images in a share of each batch: which are taken, by whom, and what is said of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support import stochx

from stochx import load_model
from stochx.engine.io.images import Preparation
from stochx.engine.seeds import generator
from stochx.engine.training.items import Images, Mixed
from stochx.loading import load_data
from stochx.tasks.reading import stack

LIKE = torch.zeros((), dtype=torch.float64)
EXTRA = 100  # pixels from here on are extra ones


def plain(values, labels):
    pixels = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return Images(pixels.contiguous(), torch.tensor(labels))


@pytest.fixture
def mixed():
    """40 real images, of the values and labels 0 to 39, and 100 extra ones, from 100 on."""
    real, extra = [*range(40)], [*range(EXTRA, 200)]
    return Mixed(plain(real, real), plain(extra, extra), 0.7, seed=3)


def values(x):
    return (x[:, 0, 0, 0] * 255).round().int().tolist()


def test_each_batch_has_its_share_and_the_others_stay_in_their_places(mixed):
    taken = []
    for whole in torch.split(torch.randperm(40, generator=generator("order")), 10):
        x, y = mixed.batch(whole, slice(None), 0, LIKE, None)
        assert values(x) == y.tolist()
        assert sum(value >= EXTRA for value in y.tolist()) == 7
        assert all(value >= EXTRA or value == place for value, place in zip(y.tolist(), whole.tolist(), strict=True))
        taken += [value for value in y.tolist() if value >= EXTRA]
    assert len(mixed) == 40 and len({*taken}) > 20
    assert len(mixed.batch(torch.arange(3), slice(None), 0, LIKE, None)[1]) == 3


def test_ranks_share_what_one_process_takes_and_the_next_epoch_takes_others(mixed):
    whole = torch.arange(20)
    together = mixed.batch(whole, slice(None), 4, LIKE, generator("augment"))
    for rank in range(2):
        part = mixed.batch(whole, slice(rank, None, 2), 4, LIKE, generator("augment"))
        assert torch.equal(part[0], together[0][rank::2]) and torch.equal(part[1], together[1][rank::2])
    assert not torch.equal(mixed.batch(whole, slice(None), 5, LIKE, None)[1], together[1])
    assert mixed.extra.labels.tolist() == [*range(EXTRA, 200)] and mixed.real.labels.tolist() == [*range(40)]


def test_images_in_a_file_of_the_network_s_size_are_in_memory_once(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((50, 8, 8, 3), np.uint8), label=np.arange(50) % 2)
    data = load_data(f"npz:path={tmp_path / 'a.npz'}", "train")
    assert stack(data, Preparation(8, 8)).pixels.data_ptr() == data.pixels.data_ptr()
    assert data.pixels.stride() == (192, 1, 24, 3)  # still as in the file: height, width, channel


SMALL = ("--data", "shapes:size=32,classes=3,count=30", "--arch", "convnet:width=4", "--batch-size", 10)


def save(path, split="train", count=30, **more):
    data = load_data("shapes:size=32,classes=3,count=30", split)
    arrays = {"image": data.pixels.permute(0, 2, 3, 1).numpy()[:count], "label": np.array(data.labels)[:count]}
    np.savez(path, **{**arrays, **more})
    return f"npz:path={path}"


def train(place, name, *more):
    return stochx("train", *SMALL, "--device", "cpu", "-o", name, "--json", *more, cwd=place)


def test_a_training_with_extra_images_is_the_same_again_and_goes_on_as_it_was(tmp_path):
    data = load_data("shapes:size=32,classes=3,count=90", "train")
    np.savez(tmp_path / "more.npz", image=data.pixels.permute(0, 2, 3, 1).numpy(), label=np.array(data.labels))
    words = ("--extra", "npz:path=more.npz", "--extra-share", "0.5", "--smoothing", "0.1")
    whole = train(tmp_path, "whole", *words, "--epochs", 2)
    assert whole.returncode == 0, whole.stderr
    document = json.loads(whole.stdout)
    assert document["args"]["extra_share"] == 0.5
    assert (document["extra_sample"]["count"], document["sample"]["count"]) == (90, 30)
    first = train(tmp_path, "parts", *words, "--epochs", 1, "--schedule", "constant")
    second = train(tmp_path, "parts", *words, "--epochs", 2, "--schedule", "constant", "--resume")
    again = train(tmp_path, "again", *words, "--epochs", 2, "--schedule", "constant")
    assert first.returncode == second.returncode == again.returncode == 0
    parts, once = (load_model(str(tmp_path / name / "model.safetensors")) for name in ("parts", "again"))
    assert all(torch.equal(value, once.state_dict()[name]) for name, value in parts.state_dict().items())
    assert once.origin["training"] == "2 epochs, label smoothing 0.1, 50% extra images"
    assert len(once.trained) > 60  # the extra images too


def test_extra_images_that_test_or_validate_are_told(tmp_path):
    tests = train(tmp_path, "t", "--extra", save(tmp_path / "test.npz", "test"), "--epochs", 1)
    assert tests.returncode == 0, tests.stderr
    assert "of the 6 test images are training images too" in tests.stderr
    held = train(tmp_path, "v", "--extra", save(tmp_path / "train.npz"), "--epochs", 1, "--validation", 6)
    assert "6 of the 6 validation images are extra images too" in held.stderr


SMALLER, LATER = np.zeros((30, 16, 16, 3), np.uint8), np.full(30, 7)


@pytest.mark.parametrize(
    ("arrays", "more", "message", "hint"),
    [
        ({}, ("--extra-share", "1"), "`--extra-share 1` is not a share", "less than 1"),
        ({}, ("--extra-share", "0"), "`--extra-share 0` is not a share", "more than 0"),
        ({}, ("--extra-share", "0.01"), "leaves one kind of image out of batches of 10", "a larger `--batch-size`"),
        ({"label": LATER}, (), "has 8 classes, the network has 3", "the classes of `--data`"),
        ({"classes": np.array(["cat", "dog", "eel"])}, (), "does not know 3 of 3 classes", "the classes of `--data`"),
        ({"image": SMALLER}, (), "are 16 x 16, those of `shapes:size=32,classes=3,count=30` 32 x 32", "resize"),
        ({"image": SMALLER.astype(np.int64)}, (), "images must be uint8 or floats", ""),
        ({"label": np.zeros(29, np.int64)}, (), "30 images need labels (30,)", ""),
        ({"label": np.full(30, 0.5)}, (), "labels must be integers", ""),
    ],
)
def test_extra_images_that_do_not_fit_are_refused(arrays, more, message, hint, tmp_path):
    done = train(tmp_path, "bad", "--extra", save(tmp_path / "more.npz", **arrays), *more)
    assert done.returncode == 2 and message in done.stderr and hint in done.stderr, done.stderr
    assert done.stderr.count("error:") == 1 and not (tmp_path / "bad").exists()
