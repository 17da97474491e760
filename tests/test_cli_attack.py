"""`stochx attack` as its users meet it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SHAPES, SHARED
from PIL import Image
from support import stochx, stochx_in_ranks

from stochx.catalog import MODELS
from stochx.engine.network.weights import save
from stochx.loading import load_data, load_model
from stochx.network_files import install_noise
from stochx.tasks.train import build

THIRTY = ("--data", SHAPES, "--limit", 30)
FAST = (*THIRTY, "-a", "fgsm", "-a", "pgd:steps=5", "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory, net_of_shapes):
    """A folder with a small network that is often right, and a stochastic one."""
    folder = tmp_path_factory.mktemp("attack")
    shutil.copy(net_of_shapes, folder / "net.safetensors")
    (folder / "noisy.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from stochx import load_model\n"
        "class Noisy(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.net = load_model('net.safetensors').network\n"
        "    def forward(self, x): return self.net(x + 0.3 * torch.randn_like(x))\n"
        "def net():\n"
        "    model = load_model('net.safetensors'); model.network = Noisy(); return model.eval()\n"
        "def probabilities():\n"
        "    model = load_model('net.safetensors'); model.network.append(nn.Softmax(1)); return model.eval()\n"
    )
    return folder


@pytest.fixture(scope="module")
def run(place):
    done = stochx("attack", "net.safetensors", *FAST, "--eps", "4/255", "-o", "run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_folder_holds_the_card_of_the_run(run, place):
    card = json.loads((place / "run" / "card.json").read_text())
    assert card["claims"][-1]["robust"] == run["results"][-1]["robust"] and card["checks"] == run["checks"]
    assert f"sha256:** `{run['models'][0]['sha256']}`" in (place / "run" / "card.md").read_text()


def test_json_has_a_row_for_each_attack_and_the_worst(run):
    assert run["schema"] == 2 and run["command"] == "attack"
    threat = {"norm": "linf", "space": "pixels in [0, 1]", "eps": [4 / 255], "degree": [None], "typed": ["4/255"]}
    assert run["threat"] == threat
    (network,) = run["models"]
    assert network["arch"] == "convnet:width=8" and network["noise"] == "none" and network["draws"] == 1
    assert len(network["sha256"]) == 64 and run["dataset"]["n"] == 30 and len(run["dataset"]["sha256"]) == 64
    assert [row["newly"] for row in run["results"]][-1] is None
    assert run["results"][0]["parameters"] == {"eot": 1, "estimand": "mean", "loss": "ce"}
    assert run["results"][1]["parameters"]["steps"] == 5 and run["results"][2]["parameters"] is None
    assert all(row["correct"] == pytest.approx(row["robust"] * row["n"]) for row in run["results"])
    assert [row["attack"] for row in run["results"]] == ["fgsm", "pgd:steps=5", "worst"]
    for row in run["results"]:
        assert row["n"] == 30 and 0 <= row["low"] <= row["robust"] <= row["high"] <= 1 and row["vote"] is None
        assert row["robust"] <= row["clean"] and row["clean"] > 0.4
    fgsm, pgd, worst = (row["robust"] for row in run["results"])
    assert worst <= min(fgsm, pgd)
    assert {check["name"] for check in run["checks"]} >= {"mode", "logits", "gradients", "ascent", "unbounded"}
    assert all(check["verdict"] == "ok" for check in run["checks"]) and run["gate"] is None


def test_the_files_of_a_run(run, place):
    names = {path.name for path in (place / "run").iterdir()}
    run_itself, card = {"config.toml", "records.jsonl", "result.json"}, {"card.json", "card.md"}
    assert names == run_itself | card | {"examples", "examples.png"}
    records = [json.loads(line) for line in (place / "run" / "records.jsonl").read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(30))
    for said in (outcome for record in records for outcome in record["attacks"].values()):
        assert (said["margin"] > 0) == (said["correct"] == 1)
    fooled = [record for record in records if record["worst"] < record["clean"]]
    assert fooled, "a plain network falls"
    one = fooled[0]["attacks"][fooled[0]["worst_attack"]]
    assert one["correct"] == 0 and one["prediction"] != fooled[0]["label"] and one["linf"] <= 4 / 255 + 1e-6


def test_resume_keeps_what_is_there(run, place):
    before = (place / "run" / "records.jsonl").read_text()
    assert stochx("attack", "net.safetensors", *FAST, "--eps", "4/255", "-o", "run", cwd=place).returncode == 2
    done = stochx("attack", "net.safetensors", *FAST, "--eps", "4/255", "-o", "run", "--resume", "--json", cwd=place)
    assert json.loads(done.stdout)["results"] == run["results"]
    assert (place / "run" / "records.jsonl").read_text() == before


def test_a_pipe_gets_tab_separated_lines(place):
    done = stochx("attack", "net.safetensors", *FAST, "--limit", 8, "-o", "tsv", "--no-figure", "-q", cwd=place)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["attack", "clean", "robust"] and len(lines) == 4


def test_a_missed_gate_is_code_3(place):
    common = ("attack", "net.safetensors", *FAST, "--eps", "16/255", "--no-figure", "--checks", "none")
    missed = stochx(*common, "--fail-under", 0.9, "-o", "missed", "--json", cwd=place)
    assert missed.returncode == 3 and "gate missed: robust accuracy" in missed.stderr
    assert "at eps 16/255 is below 0.9" in missed.stderr, "the radius stands as it was typed"
    assert json.loads(missed.stdout)["gate"]["missed"] is True
    assert stochx(*common, "--fail-under", 0.0, "--fail-on", "lower", "-o", "kept", cwd=place).returncode == 0


def test_a_sweep_gives_a_curve_that_falls(place):
    options = ("--sweep", "eps=0,2/255,16/255", "--checks", "none", "--json", "-o", "sweep")
    done = stochx("attack", "net.safetensors", *THIRTY, "-a", "pgd:steps=20", *options, cwd=place)
    rows = json.loads(done.stdout)["results"]
    assert [row["eps"] for row in rows] == [0, 2 / 255, 16 / 255]
    assert rows[0]["robust"] == rows[0]["clean"] >= rows[1]["robust"] >= rows[2]["robust"] == 0
    assert (place / "sweep" / "result.json").exists()
    picture = np.asarray(Image.open(place / "sweep" / "sweep.png").convert("RGB")).astype(int)
    blue = (np.abs(picture - [68, 119, 170]).sum(2) < 30)[: len(picture) * 3 // 4]
    shares = blue.reshape(len(blue), 2, -1).mean((0, 2))
    assert (shares > 0.001).all(), "the line runs through both panels"


def test_a_sweep_over_noise_attacks_each_degree_and_knows_the_network_without(place):
    student = install_noise(load_model(str(place / "net.safetensors")), "adaptive:beta=0.5")
    save(place / "student.safetensors", student)
    options = ("--sweep", "noise=0:1:0.5", "--draws", 8, "--checks", "none", "--json", "-o", "degrees")
    done = stochx("attack", "student.safetensors", *THIRTY, "-a", "pgd:steps=3,eot=2", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [row["degree"] for row in rows] == [0, 0.5, 1]
    assert rows[0]["vote"] is None and rows[0]["robust_off"] is None, "without noise the network is judged once"
    assert rows[1]["clean_off"] == rows[2]["clean_off"] == rows[0]["clean"]
    assert rows[2]["clean"] < rows[0]["clean"] and 0 <= rows[2]["robust_off"] <= 1
    assert (place / "degrees" / "sweep.png").exists()
    plain = stochx("attack", "net.safetensors", *THIRTY, "--sweep", "noise=0,1", "-o", "never", cwd=place)
    assert plain.returncode == 2 and "has no noise layers" in plain.stderr


@pytest.mark.parametrize("sweep", ["noise=0:2", "noise=2:0:1", "noise=0:1:0", "noise=-1,0", "noise=a", "noise=1,1"])
def test_a_sweep_over_no_degrees_is_refused(sweep, place):
    done = stochx("attack", "net.safetensors", *THIRTY, "--sweep", sweep, "-o", "never", cwd=place)
    assert done.returncode == 2 and "--sweep" in done.stderr


def test_versus_compares_on_the_same_images(place):
    options = ("--versus", "noisy:net", "--draws", 4, "--checks", "none", "--json", "-o", "versus", "--no-figure")
    done = stochx("attack", "net.safetensors", *THIRTY, "-a", "pgd:steps=3", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["versus"]["n"] == 30 and 0 <= document["versus"]["p"] <= 1
    assert document["versus"]["low"] <= document["versus"]["difference"] <= document["versus"]["high"]


def test_a_stochastic_network_is_judged_by_fresh_draws_that_repeat(place):
    common = ("attack", "noisy:net", *THIRTY, "-a", "pgd:steps=3,eot=2", "--draws", 8, "--checks", "none")
    one, other = (
        json.loads(stochx(*common, "--no-figure", "--json", "-o", name, cwd=place).stdout) for name in ("n1", "n2")
    )
    row = one["results"][0]
    assert one["noise"] == "sample" and row["vote"] is not None
    shares = [json.loads(line)["clean"] for line in (place / "n1" / "records.jsonl").read_text().splitlines()]
    assert any(0 < share < 1 for share in shares), "accuracies are shares of draws"
    assert [r["robust"] for r in one["results"]] == [r["robust"] for r in other["results"]]


def test_stochastic_networks_are_attacked_over_many_draws_and_one_draw_is_marked(place):
    words = (
        "attack",
        "noisy:net",
        *THIRTY,
        "-a",
        "pgd:steps=3",
        "-a",
        "pgd:steps=3,eot=1",
        "--draws",
        4,
        "--no-figure",
    )
    done = stochx(*words, "--checks", "none", "--json", "-o", "eot", cwd=place)
    document = json.loads(done.stdout)
    many, one, worst = document["results"]
    (needed,) = document["expectation"]
    assert many["eot"] == many["parameters"]["eot"] == needed["draws"] >= 2 and many["label"] is None
    assert (one["eot"], one["steps"], one["restarts"], one["label"]) == (1, 3, 1, "one draw")
    assert many["backwards"] == 3 * many["eot"] and {row["estimand"] for row in (many, one, worst)} == {"a random draw"}
    shown = stochx(*words, "--checks", "none", "-o", "shown", cwd=place)
    assert "pgd:steps=3,eot=1 (one draw)" in shown.stdout and "an attack on one draw follows its noise" in shown.stderr
    budget = ("--budget", 20, *words[-3:], "--checks", "none")
    spent = stochx("attack", "noisy:net", *THIRTY, *budget, "-o", "spent", cwd=place)
    assert "pgd:steps=20,eot=1 (one draw)" in spent.stdout and "leave out `eot=1`" not in spent.stderr


def test_known_noise_is_weaker_than_secret_noise_and_noise_off_is_a_plain_network(place):
    student = install_noise(load_model(str(place / "net.safetensors")), "adaptive:beta=0.5")
    student.noise = "sample"
    save(place / "known.safetensors", student)
    words = (
        "attack",
        "known.safetensors",
        *("--data", SHAPES, "--limit", 12),
        "-a",
        "pgd:steps=5",
        "--eps",
        "2/255",
        "--no-figure",
    )
    runs = {
        kind: json.loads(stochx(*words, "--randomness", kind, "--json", "-o", kind, cwd=place).stdout)
        for kind in ("secret", "known", "off")
    }
    rows = {kind: run["results"][0] for kind, run in runs.items()}
    averaged = {kind for kind, run in runs.items() if any(check["name"] == "expectation" for check in run["checks"])}
    assert averaged == {"secret"}, "where the noise is known or off, one draw is the whole gradient"
    assert rows["known"]["robust"] <= rows["secret"]["robust"] + 0.05
    assert rows["known"]["eot"] == 1 and rows["known"]["label"] is None
    assert rows["off"]["estimand"] == "noise off" and rows["off"]["vote"] is None
    for kind in ("known", "off"):
        done = stochx("attack", "net.safetensors", *THIRTY, "--randomness", kind, "-o", "never", cwd=place)
        assert done.returncode == 2 and f"leave out `--randomness {kind}`" in done.stderr
    done = stochx("attack", "net.safetensors", *THIRTY, "--budget", 20, "-o", "never", cwd=place)
    assert done.returncode == 2 and "is deterministic" in done.stderr


def test_a_failed_check_is_exit_code_4_before_a_missed_gate_and_after_a_failed_image(place, tmp_path):
    classes = ("disc", "square")
    model = build(MODELS.make("convnet:width=4"), classes, seed=0).eval()
    save(tmp_path / "guess.safetensors", model)
    predicted = int(model(torch.full((1, 3, 32, 32), 0.5)).argmax())
    for n in range(20):
        file = tmp_path / "data" / classes[predicted if n < 2 else 1 - predicted] / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (128, 128, 120 + n)).save(file)
    words = ("attack", "guess.safetensors", "--data", "data", "-a", "fgsm", "--no-figure", "--fail-under", 0.9)
    done = stochx(*words, "-o", "run", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert {check["name"]: check["verdict"] for check in document["checks"]}["accuracy"] == "fail"
    assert document["gate"]["missed"] and done.returncode == 4
    assert stochx(*words, "-o", "unchecked", "--checks", "none", cwd=tmp_path).returncode == 3
    file.write_text("broken")
    assert stochx(*words, "-o", "broken", cwd=tmp_path).returncode == 1


def test_probabilities_are_turned_back_into_logits_and_that_is_said(place):
    done = stochx("attack", "noisy:probabilities", *FAST, "-o", "softmax", "--no-figure", "--json", cwd=place)
    verdicts = {check["name"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0 and verdicts["logits"] == "ok"
    assert "ends with a softmax, which is undone" in done.stderr


def test_images_that_rounding_takes_out_of_the_ball_are_counted(place):
    options = ("--save-adversarial", "--checks", "none", "--no-figure", "-o", "l2", "--norm", "l2", "--eps", 0.3)
    attack = ("attack", "net.safetensors", "--data", SHAPES, "-a", "pgd:steps=3", "--limit", 8)
    saved = json.loads(stochx(*attack, *options, "--json", cwd=place).stdout)["saved"]
    assert saved["images"] == 8 and 0 < saved["outside"] <= 8 and 0 <= saved["healed"] <= 8
    assert "took" in stochx(*attack, *options, "--overwrite", cwd=place).stderr


def test_saved_images_stay_in_the_ball_after_rounding(place):
    options = ("--save-adversarial", "--checks", "none", "--no-figure", "-o", "saved", "--eps", "5/255")
    stochx("attack", "net.safetensors", "--data", SHAPES, "-a", "pgd:steps=3", "--limit", 4, *options, cwd=place)
    data = load_data(SHAPES, "test")
    files = sorted((place / "saved" / "adversarial").iterdir())
    assert len(files) == 4
    largest = []
    for n, file in enumerate(files):
        with Image.open(file) as image:
            change = np.asarray(image).astype(int) - np.asarray(data.read(n)).astype(int)
        largest.append(int(np.abs(change).max()))
    assert max(largest) == 5 and min(largest) >= 0


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("--eps", "8"), "`--eps 8` is above 1", "did you mean `--eps 8/255`?"),
        (("--eps", "-1"), "is not a radius", "negative"),
        (("--eps", "x"), "is not a number", "8/255"),
        (("--eps", "8/255", "--norm", "l2"), "a radius for linf, not for l2", "--eps 0.5"),
        (("--norm", "l3"), "`--norm l3` is unknown", ""),
        (("-a", "pdg"), "unknown attack `pdg`", "did you mean `pgd`?"),
        (("-a", "pgd:steps=0"), "at least 1", ""),
        (("-a", "transfer"), "source", "--source"),
        (("--fail-under", "2"), "fail-under", ""),
        (("--sweep", "steps=1,2"), "names no points", "eps="),
        (("--data", "shapes:size=32,classes=6,count=60"), "does not know 3 of 6 classes", "`disc`"),
    ],
)
def test_what_a_user_can_cause_is_one_error_and_one_hint(args, message, hint, place):
    data = () if "--data" in args else THIRTY
    attacks = () if "-a" in args else ("-a", "fgsm")
    done = stochx("attack", "net.safetensors", *data, *attacks, *args, "-o", "never", cwd=place)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and message in done.stderr and hint in done.stderr
    assert not (place / "never").exists()


def test_images_without_labels_cannot_be_attacked(place):
    (place / "loose").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(place / "loose" / "a.png")
    done = stochx("attack", "net.safetensors", "--data", "loose", "-o", "never", cwd=place)
    assert done.returncode == 2 and "has no labels" in done.stderr


def test_nothing_right_is_a_failure_and_no_robust_accuracy(place):
    (place / "wrong.py").write_text(
        "import torch\nfrom stochx import load_model\n"
        "class Always(torch.nn.Module):\n"
        "    def forward(self, x): return torch.tensor([0.0, 0.0, 9.0]) + 0 * x.mean((2, 3))\n"
        "def net():\n    model = load_model('net.safetensors'); model.network = Always(); return model.eval()\n"
    )
    data = "shapes:size=32,classes=2,count=40"
    done = stochx("attack", "wrong:net", "--data", data, "-a", "fgsm", "-o", "never2", cwd=place)
    assert done.returncode == 1 and "classifies no image correctly" in done.stderr and done.stdout == ""


@pytest.mark.slow
def test_two_ranks_give_the_table_of_one(run, place):
    words = ("net.safetensors", *FAST, "--eps", "4/255", "-o", "ranks", "--json", "--no-figure")
    done = stochx_in_ranks("attack", *words, cwd=place)
    assert done.returncode == 0, done.stderr
    keep = ("attack", "clean", "robust", "low", "high", "success", "n")
    assert [[row[k] for k in keep] for row in json.loads(done.stdout)["results"]] == [
        [row[k] for k in keep] for row in run["results"]
    ]


def test_the_same_command_gives_the_same_records(run, place):
    done = stochx("attack", "net.safetensors", *FAST, "--eps", "4/255", "-o", "again", "--no-figure", cwd=place)
    assert done.returncode == 0, done.stderr
    one, two = (
        [{**json.loads(line), "seconds": 0} for line in (place / name / "records.jsonl").read_text().splitlines()]
        for name in ("run", "again")
    )
    assert len(one) == 30 and one == two


@pytest.mark.slow
def test_one_process_goes_on_where_two_ranks_ended(run, place):
    words = ("net.safetensors", *FAST, "--eps", "4/255", "-o", "fewer", "--json", "--no-figure")
    first = stochx_in_ranks("attack", *words, "--limit", 16, cwd=place)
    assert first.returncode == 0, first.stderr
    done = stochx("attack", *words, "--resume", cwd=place)
    rows = json.loads(done.stdout)["results"]
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in run["results"]]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data; set STOCHX_SHARED to its folder")
def test_a_real_teacher_falls_and_a_robust_network_stands(tmp_path):
    data = ("--data", f"cifar10:root={SHARED / 'cifar10'}", "--limit", 100)
    options = (*data, "-a", "pgd:steps=20", "--no-figure", "--json")
    robust = {}
    for name in ("resnet20", "robust_resnet2b"):
        weights = SHARED / "weights_cifar10" / f"{name}.safetensors"
        done = stochx("attack", weights, *options, "-o", name, "-q", cwd=tmp_path)
        robust[name] = json.loads(done.stdout)["results"][0]["robust"]
    assert robust["resnet20"] <= 0.02 and 0.1 < robust["robust_resnet2b"] < 0.35


def test_examples_of_small_batches_fill_the_figure(place):
    """Large images come one a batch, and the first may be broken."""
    sizes = []
    for batch in ("4", "auto"):
        out = place / f"examples-{batch}"
        more = ("--data", SHAPES, "--limit", 12, "-a", "fgsm", "--checks", "none", "--batch-size", batch)
        assert stochx("attack", "net.safetensors", *more, "-o", out, "-q", cwd=place).returncode == 0
        with Image.open(out / "examples.png") as figure:
            sizes.append(figure.width)
    assert sizes[0] == sizes[1] > 800
