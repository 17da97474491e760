"""`stochx fsc-train` and `fsc-test` as their users meet them: files, resuming, pipes, errors."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import stochx, stochx_in_ranks

from stochx.catalog import MODELS
from stochx.engine.fewshot.episodes import Task
from stochx.engine.network.backbone import Backbone
from stochx.engine.network.weights import save
from stochx.fewshot_networks import make_fewshot
from stochx.loading import load_data, load_model
from stochx.tasks.fewshot import domain_of
from stochx.tasks.fewshot import test_episodes as draw_test

DATA = ("--data", "shapes:classes=6,size=16,count=300")
SMALL = (*DATA, "--backbone", "convnet:width=4", "--size", 16, "--way", 3, "--queries", 4, "--device", "cpu")
SHORT = ("--episodes", 8, "--every", 4, "--head", "cosine", "--validation", 0)


def train(place, folder, *more):
    return stochx("fsc-train", *SMALL, "-o", folder, *more, cwd=place)


def test(place, model, *more):
    return stochx("fsc-test", model, "--episodes", 20, "--queries", 4, "--device", "cpu", *more, cwd=place)


test.__test__ = False


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def same(one, other):
    one, other = (load_file(str(path)) for path in (one, other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training and the folder that it lies in."""
    place = tmp_path_factory.mktemp("few")
    done = train(place, "run", *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    return place, json.loads(done.stdout)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Class folders: 6 classes to learn, 3 to choose by, 3 to test on; 9 images each, but for a class of 3."""
    root = tmp_path_factory.mktemp("tree")
    draw = np.random.default_rng(0)
    for split, names in (("train", "abcdef"), ("val", "uvw"), ("test", "xyz")):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for k in range(9 if name != "z" else 3):
                pixels = draw.integers(0, 255, (18, 18, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")
    return root


def test_training_writes_a_network_that_is_then_tested(run):
    place, document = run
    (row,) = document["results"]
    assert (
        document["command"] == "fsc-train" and row["episodes"] == 8 and row["kept"] == 8 and row["validation"] is None
    )
    assert [one["epoch"] for one in lines(place / "run")] == [1, 2]
    done = test(place, row["model"], *DATA, "--shot", 1, "--shot", 3, "-o", "t", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [(one["shot"], one["way"], one["n"]) for one in rows] == [(1, 3, 20), (3, 3, 20)]
    kept = lines(place / "t")[0]["episodes"][0]
    assert rows[0]["accuracy"] == pytest.approx(np.mean(kept["1"])) and len(kept["3"]) == 20
    assert 0 <= rows[0]["low"] < rows[0]["accuracy"] < rows[0]["high"] <= 1
    assert "6 of 6 classes have the name of a training class" in done.stderr


def test_a_network_is_no_better_than_itself(run):
    place, document = run
    model = document["results"][0]["model"]
    done = test(place, model, *DATA, "--versus", model, "--shot", 2, "-o", "v", "-q")
    assert done.returncode == 0, done.stderr
    head, values = (line.split("\t") for line in done.stdout.splitlines())
    assert head[-4:] == ["versus %", "difference", "open difference", "p"]
    assert values[-3:] == ["+0.00 [+0.00, +0.00]", "[+0.0, +0.0]", "1"]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A stored classifier, and class folders inside folders, zipped: 6 classes of 8 images."""
    place = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    save(place / "net.safetensors", MODELS.make("convnet:width=4")(4))
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(place / "letters.zip", "w") as archive:
        for k in range(6):
            for i in range(8):
                pixels = (255 * draw.random((18, 18)) * (k + 1) / 6).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                archive.writestr(f"letters/{'Greek' if k < 3 else 'Latin'}/character{k % 3}/{i}.png", file.getvalue())
    return place


def test_a_frozen_network_is_measured_without_training(frozen):
    words = ("--backbone", "net.safetensors", "--data", "letters.zip", "--way", 3, "--shot", 1, "--queries", 2)
    done = stochx("fsc-test", *words, "--episodes", 60, "--device", "cpu", "-o", "a", "--json", cwd=frozen)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert (row["network"], row["frozen"], row["head"], row["way"]) == ("net.safetensors", True, "prototypical", 3)
    assert row["classes"] == 6 and "versus" not in row  # Greek/character0 and Latin/character0 are two
    base = Backbone(load_model(str(frozen / "net.safetensors")), "either")
    data = load_data(str(frozen / "letters.zip"), innermost=True)
    source = domain_of("letters.zip", data, base.model.preparation)[0]
    episodes = draw_test(source, Task(3, 1, 2), 60, 0)
    z = base(source.pixels.float() / 255).mean((2, 3)).detach()
    nearest = torch.cdist(z[episodes.query], z[episodes.support[:, :, 0]]).argmin(2)
    expected = (nearest == torch.tensor([0, 0, 1, 1, 2, 2])).double().mean()
    assert row["accuracy"] == pytest.approx(float(expected)) and row["accuracy"] > 0.4


def test_the_frozen_network_stands_beside_the_trained_one_on_the_same_episodes(run, frozen):
    place, document = run
    net = frozen / "net.safetensors"
    words = (*DATA, "--backbone", net, "--head", "cosine", "--shot", 1)
    done = test(place, document["results"][0]["model"], *words, "-o", "beside", "--json")
    assert done.returncode == 0, done.stderr
    ours, baseline = json.loads(done.stdout)["results"]
    alone = stochx(
        "fsc-test", *words, "--episodes", 20, "--queries", 4, "--way", 3, "--device", "cpu", "--json", cwd=place
    )
    (same,) = json.loads(alone.stdout)["results"]
    assert (ours["frozen"], baseline["frozen"]) == (False, True)
    assert ours["versus"] == str(net) and baseline["difference"] is None
    assert ours["accuracy_versus"] == baseline["accuracy"] == same["accuracy"]
    assert ours["difference"] == pytest.approx(ours["accuracy"] - baseline["accuracy"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no network is given"),
        (("few.safetensors", "--head", "cosine"), "`--head` belongs to `--backbone`"),
        (("--backbone", "net.safetensors", "--head", "relation"), "`relation` has weights to train"),
        (("--backbone", "net.safetensors", "--way", 9), "has 6 classes, but an episode needs 9"),
        (("--backbone", "nothing.safetensors"), "nothing.safetensors"),
        (("--backbone", "net.safetensors", "--mean", "a"), "--mean a"),
    ],
)
def test_what_cannot_be_frozen_is_refused(frozen, words, said):
    done = stochx("fsc-test", *words, "--data", "letters.zip", "--queries", 2, "--shot", 1, "-o", "no", cwd=frozen)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_another_run_of_the_same_command_gives_the_same_bytes(run):
    place, _ = run
    assert train(place, "again", *SHORT, "-q").returncode == 0
    assert same(place / "run" / "model.safetensors", place / "again" / "model.safetensors")


def test_a_longer_run_goes_on_from_a_shorter_one_with_the_same_bytes(run):
    place, _ = run
    assert train(place, "half", *SHORT, "--episodes", 4, "-q").returncode == 0
    done = train(place, "half", *SHORT, "--resume")
    assert done.returncode == 0 and "epoch 2/2" in done.stderr and "epoch 1/2" not in done.stderr
    assert same(place / "run" / "model.safetensors", place / "half" / "model.safetensors")
    assert tomllib.loads((place / "half" / "config.toml").read_text())["episodes"] == 8


def test_training_goes_on_from_a_few_shot_network(run):
    place, document = run
    start, words = document["results"][0]["model"], ("--way", 4, "--queries", 3, "--device", "cpu", "--lr", 1e-6)
    new = ("--data", "shapes:classes=4,size=16,count=200", *words, "--episodes", 2, "--every", 1, "--validation", 0)
    done = stochx("fsc-train", *new, "--init", start, "-o", "tuned", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["results"][0]
    assert (row["head"], row["way"]) == ("cosine", 4)
    one, other = load_file(str(place / start)), load_file(str(place / row["model"]))
    learnt = [name for name in one if name.endswith(".weight")]
    moved = {name: float((one[name] - other[name]).abs().max()) for name in learnt}
    assert one.keys() == other.keys() and 0 < max(moved.values()) < 1e-5
    told = json.loads(stochx("info", row["model"], "--json", cwd=place).stdout)["results"]
    assert sum(fact["name"].startswith("classes of") for fact in told) == 2, "it knows all classes that it saw"
    done = stochx("fsc-train", *new, "--init", start, "--head", "gnn", "-o", "no", cwd=place)
    assert done.returncode == 2 and "`--init` has its own --head" in done.stderr
    done = stochx("fsc-train", *new, "--init", "nothing.safetensors", "-o", "no", cwd=place)
    assert done.returncode == 2 and "nothing.safetensors" in done.stderr and not (place / "no").exists()


def test_validation_classes_choose_the_episodes_that_are_kept(tree, tmp_path):
    words = ("--data", f"folder:root={tree}", "--backbone", "convnet:width=4", "--size", 16, "--head", "prototypical")
    more = ("--way", 3, "--shot", 2, "--queries", 3, "--episodes", 12, "--every", 4, "--validation", 5)
    done = stochx("fsc-train", *words, *more, "--fwt", "-o", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row, rows = json.loads(done.stdout)["results"][0], lines(tmp_path / "run")
    best = max(rows, key=lambda one: one["validation"])
    assert (row["validation"], row["kept"]) == (best["validation"], 4 * best["epoch"])
    assert not any(".noise." in name for name in load_file(str(tmp_path / "run" / "model.safetensors")))
    base = make_fewshot("convnet:width=4", "prototypical", 3, 16, 0, {}).backbone
    held = domain_of(
        f"folder:root={tree}", load_data(f"folder:root={tree}", "val", innermost=True), base.model.preparation
    )
    episodes = draw_test(held[0], Task(3, 2, 3), 5, 0)
    z = base(held[0].pixels.float() / 255).mean((2, 3)).detach()
    nearest = torch.cdist(z[episodes.query], z[episodes.support].mean(2)).argmin(2)
    right = nearest == torch.arange(3).repeat_interleave(3)
    assert row["frozen"] == pytest.approx(float(right.double().mean())), "the backbone before the training"


def test_classes_with_too_few_images_are_named(tree, run):
    place, document = run
    done = test(place, document["results"][0]["model"], "--data", f"folder:root={tree}", "--shot", 1, "-o", "few")
    assert done.returncode == 2 and "the class `z` has 3 images, but an episode needs 1 + 4" in done.stderr
    assert "Traceback" not in done.stderr and not (place / "few" / "result.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--way", 9), "has 6 classes, but an episode needs 9"),
        (("--way", 1), "`--way 1` is too few"),
        (("--shot", 0), "`--shot 0` is too few"),
        (("--episodes", 5), "`--episodes 5` is not a multiple of `--every 4`"),
        (("--head", "relations"), "did you mean `relation`?"),
        (("--guide", "lrp:lambda=0,xi=0"), "lambda and xi must be finite, and not both 0"),
        (("--backbone", "conv4:width=0"), "width must be at least 1"),
        (("--backbone", "nothing"), "nothing"),
        ((*DATA, *DATA), "is given twice"),
        (("--patience", 3), "`--patience` needs validation episodes"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, more, said):
    done = stochx("fsc-train", *SMALL, *SHORT, *more, "-o", "run", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_what_cannot_be_tested_is_refused(run):
    place, document = run
    model = document["results"][0]["model"]
    assert test(place, "nothing.safetensors", *DATA, "-o", "e").returncode == 2
    assert train(place, "graph", *SHORT, "--head", "gnn", "-q").returncode == 0
    done = test(place, "graph/model.safetensors", *DATA, "--way", 4, "-o", "e")
    assert done.returncode == 2 and "the head was trained for 3 ways, got 4" in done.stderr
    tuned = (*DATA, "--init", "graph/model.safetensors", "--way", 4, "--queries", 4, "--device", "cpu", "-o", "e")
    done = stochx("fsc-train", *tuned, cwd=place)
    assert done.returncode == 2 and "the head was trained for 3 ways, got 4" in done.stderr
    done = test(place, "graph/model.safetensors", *DATA, "--transductive", "-o", "e")
    assert done.returncode == 2 and "compares single images" in done.stderr
    done = stochx("explain", "--data", DATA[1], "--model", model, cwd=place)
    assert done.returncode == 2 and "is a few-shot network" in done.stderr


def test_info_tells_what_a_few_shot_network_is(run):
    place, document = run
    done = stochx("info", document["results"][0]["model"], "--json", cwd=place)
    told = {row["name"]: row["value"] for row in json.loads(done.stdout)["results"]}
    assert (told["kind"], told["head"], told["way"], told["guide"]) == ("few-shot", "cosine", "3", "lrp")
    assert told["classes of shapes:classes=6,size=16,count=300"].startswith("6: disc, square, triangle")


@pytest.mark.slow
def test_two_ranks_train_and_test_as_one_process_does(run):
    place, _ = run
    plain = ("--backbone", "robust-resnet2b", "--size", 32, "--optimizer", "sgd", "--lr", 0.1, "--batch-size", 2)
    words = [*DATA, "--way", 3, "--queries", 4, "--device", "cpu", *SHORT, *plain]
    assert stochx("fsc-train", *words, "-o", "one", "-q", cwd=place).returncode == 0
    assert stochx("fsc-train", *words, "--seed", 1, "-o", "other", "-q", cwd=place).returncode == 0
    assert stochx_in_ranks("fsc-train", *words, "-o", "two", "-q", cwd=place).returncode == 0
    one, two, other = (load_file(str(place / name / "model.safetensors")) for name in ("one", "two", "other"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-2
    words = [
        "fsc-test",
        "one/model.safetensors",
        *DATA,
        "--episodes",
        21,
        "--queries",
        4,
        "--device",
        "cpu",
        "-q",
        "--json",
    ]
    alone = json.loads(stochx(*words, "-o", "a", cwd=place).stdout)["results"]
    done = stochx_in_ranks(*words, "-o", "b", cwd=place)
    assert json.loads(done.stdout)["results"] == alone
