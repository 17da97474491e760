"""`stochx certify` as its users meet it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import SHAPES, SHARED
from PIL import Image
from support import stochx, stochx_in_ranks

import stochx as library
from stochx.engine.network.weights import save
from stochx.loading import load_model
from stochx.network_files import install_noise

FAST = ("--data", SHAPES, "--limit", 12, "--selection", 20, "--draws", 200, "--device", "cpu")
NOISY = (*FAST, "--sigma", 0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory, net_of_shapes):
    """A folder with a small network that is often right, and students of it with noise at several places."""
    folder = tmp_path_factory.mktemp("certify")
    shutil.copy(net_of_shapes, folder / "net.safetensors")
    noises = {
        "input": "gaussian:site=input,first=0.3",
        "shared": "gaussian:site=input,share=batch",
        "inside": "adaptive",
        "mixing": "adaptive:source=batch",
    }
    for name, noise in noises.items():
        student = install_noise(load_model(str(folder / "net.safetensors")), noise)
        student.noise = "forward" if name == "shared" else "sample"
        save(folder / f"{name}.safetensors", student.eval())
    return folder


@pytest.fixture(scope="module")
def run(place):
    done = stochx("certify", "net.safetensors", *NOISY, "-o", "run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_the_folder_holds_the_card_of_the_run(run, place):
    card = json.loads((place / "run" / "card.json").read_text())
    assert card["overview"] == run["overview"] and (place / "run" / "card.md").exists()


def test_json_has_a_row_for_each_radius_and_what_all_images_have_in_common(run, place):
    assert run["command"] == "certify" and run["noise"] == "none" and run["network"]["arch"] == "convnet:width=8"
    largest = run["smoothing"]["largest"]
    assert largest == pytest.approx(0.1 * 1.82568, abs=1e-4), "Phi^-1(0.001^(1/200)) = 1.82568"
    told = {key: value for key, value in run["smoothing"].items() if key != "largest"}
    assert told == {"sigma": 0.1, "own": False, "selection": 20, "draws": 200, "alpha": 0.001, "norm": "l2"}
    assert [row["radius"] for row in run["results"]] == [0, 0.05, 0.1, 0.15]
    shares = [row["certified"] for row in run["results"]]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.3
    assert all(row["n"] == 12 and row["low"] <= row["certified"] <= row["high"] for row in run["results"])
    said, lines = run["overview"], records(place / "run")
    right = [line for line in lines if line["prediction"] == line["label"] and not line["abstained"]]
    assert said["acr"] == pytest.approx(sum(line["radius"] for line in right) / 12)
    assert said["abstained"] == sum(line["abstained"] for line in lines) / 12
    assert said["clean"] == sum(line["clean"] for line in lines) / 12
    assert run["gate"] is None and run["sample"]["count"] == 12


def test_a_record_of_each_image_lies_in_the_folder_beside_the_figure(run, place):
    assert {path.name for path in (place / "run").iterdir()} == {
        "config.toml",
        "records.jsonl",
        "result.json",
        "certified.png",
        "card.md",
        "card.json",
    }
    lines = records(place / "run")
    assert [line["index"] for line in lines] == list(range(12))
    for line in lines:
        assert line["draws"] == 200 and 0 <= line["p"] <= line["count"] / 200
        assert line["abstained"] == (line["p"] <= 0.5) == (line["radius"] == 0)
    picture = np.asarray(Image.open(place / "run" / "certified.png").convert("RGB")).astype(int)
    assert (np.abs(picture - [68, 119, 170]).sum(2) < 30).mean() > 0.001, "there is a line"


def test_the_table_says_of_which_classifier_it_speaks(place):
    done = stochx("certify", "net.safetensors", *NOISY, "--radii", "0,0.1", "-o", "table", "--no-figure", cwd=place)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["radius", "certified", "n"] and [line[0] for line in lines[1:]] == ["0", "0.1"]
    assert "average certified radius:" in done.stderr and "this is another classifier" in done.stderr
    assert "abstained:" in done.stderr and not (place / "table" / "certified.png").exists()


def test_resume_finishes_what_is_there_and_may_ask_for_other_radii(run, place):
    again = ("certify", "net.safetensors", *NOISY, "-o", "part", "--no-figure", "--json")
    stochx(*again, "--limit", 5, cwd=place)
    kept = (place / "part" / "records.jsonl").read_text()
    done = json.loads(stochx(*again, "--resume", "--radii", "0.05", cwd=place).stdout)
    assert (place / "part" / "records.jsonl").read_text().startswith(kept)
    assert done["results"] == [row for row in run["results"] if row["radius"] == 0.05]
    assert done["overview"] == run["overview"]
    fewer = json.loads(stochx(*again, "--resume", "--limit", 4, cwd=place).stdout)
    assert fewer["overview"] != run["overview"] and "limit = 4" in (place / "part" / "config.toml").read_text()
    other = stochx(*again, "--resume", "--alpha", "0.01", cwd=place)
    assert other.returncode == 2 and "was run with `alpha` `0.001`" in other.stderr


def test_certificates_do_not_depend_on_the_batch_size(run, place):
    done = stochx("certify", "net.safetensors", *NOISY, "--batch-size", 7, "-o", "seven", "--json", cwd=place)
    assert json.loads(done.stdout)["results"] == run["results"]


def test_images_that_all_fail_are_errors_without_a_table_or_a_card(place):
    for name in ("disc", "square", "triangle"):
        (place / "torn" / name).mkdir(parents=True)
        (place / "torn" / name / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("net.safetensors", *NOISY, "--data", "folder:root=torn", "-o", "failed", "--json")
    done = stochx("certify", *words, cwd=place)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("torn.png`") == 3
    assert not (place / "failed" / "card.json").exists()


def test_a_missed_gate_is_code_3(place):
    common = ("certify", "net.safetensors", *NOISY, "--no-figure", "--json", "-o", "gate")
    missed = stochx(*common, "--fail-under", "1@0.18", cwd=place)
    assert missed.returncode == 3 and "certified accuracy at radius 0.18 is" in missed.stderr
    gate = json.loads(missed.stdout)["gate"]
    assert gate["value"] < 1 and gate == gate | {"on": "point", "radius": 0.18, "bound": 1.0, "missed": True}
    kept = stochx(*common, "--resume", "--fail-under", "0.01@0", "--fail-on", "lower", cwd=place)
    assert kept.returncode == 0 and json.loads(kept.stdout)["gate"]["missed"] is False


def test_a_student_is_certified_under_the_noise_of_its_own_input(place):
    done = stochx("certify", "input.safetensors", *FAST, "-o", "own", "--json", cwd=place)
    document = json.loads(done.stdout)
    std = load_model(str(place / "net.safetensors")).std.flatten()
    assert document["smoothing"]["own"] and document["smoothing"]["sigma"] == pytest.approx((0.3 * std).tolist())
    assert document["smoothing"]["largest"] == pytest.approx(0.3 * float(std.min()) * 1.82568, rel=1e-4)
    assert document["overview"]["clean"] is not None
    table = stochx("certify", "input.safetensors", *FAST, "-o", "own", "--resume", cwd=place)
    assert "own noise of sigma" in table.stderr
    more = stochx("certify", "input.safetensors", *NOISY, "-o", "more", "--json", cwd=place)
    assert json.loads(more.stdout)["smoothing"]["sigma"] == 0.1 and not json.loads(more.stdout)["smoothing"]["own"]
    inside = stochx("certify", "inside.safetensors", *NOISY, "-o", "inside", "--json", cwd=place)
    assert inside.returncode == 0, "noise of each image may stay"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("net.safetensors", *FAST), "adds no Gaussian noise to its input", "--sigma 0.25"),
        (("inside.safetensors", *FAST), "adds no Gaussian noise to its input", "--sigma 0.25"),
        (("shared.safetensors", *FAST), "adds no Gaussian noise to its input", "--sigma 0.25"),
        (("shared.safetensors", *NOISY), "once for a whole batch", "--batch-size 1"),
        (("mixing.safetensors", *NOISY), "others of its batch", "--batch-size 1"),
        (("net.safetensors", "--sigma", "0"), "`--sigma 0` is not above 0", "--sigma 0.25"),
        (("net.safetensors", "--sigma", "25"), "`--sigma 25` is not at most 5", "--sigma 25/255"),
        (("net.safetensors", "--sigma", "-1"), "`-1` in `--sigma`", "--sigma 0.25"),
        (("net.safetensors", "--sigma", "nan"), "`nan` in `--sigma`", "--sigma 0.25"),
        (("net.safetensors", "--sigma", "x"), "`x` in `--sigma`", "--sigma 0.25"),
        (("net.safetensors", "--alpha", "1"), "`--alpha 1` is no probability", "--alpha 0.001"),
        (("net.safetensors", "--alpha", "0"), "`--alpha 0` is no probability", "--alpha 0.001"),
        (("net.safetensors", "--alpha", "2"), "2.0 is not in the range", ""),
        (("net.safetensors", "--draws", "50"), "`--draws 50` is below `--selection 100`", "more draws"),
        (
            ("net.safetensors", "--draws", "9", "--selection", "5"),
            "`--draws 9` certify nothing at `--alpha 0.001`",
            "use 10",
        ),
        (("net.safetensors", "--draws", "0"), "0 is not in the range", ""),
        (("net.safetensors", "--radii", "0,,1"), "in `--radii` is not a number", "--radii 0,0.25,0.5"),
        (("net.safetensors", "--radii", "0,inf"), "`inf` in `--radii`", "--radii 0,0.25,0.5"),
        (("net.safetensors", "--fail-under", "0.4"), "names no radius", "0.4@0.25"),
        (
            ("net.safetensors", "--fail-under", "40@0.25"),
            "`40` in `--fail-under` is not a number from 0 to 1",
            "0.4@0.25",
        ),
        (("net.safetensors", "--fail-under", "0.4@"), "names no radius", "0.4@0.25"),
        (("net.safetensors", "--fail-under", "@0.25"), "in `--fail-under` is not a number", "0.4@0.25"),
        (
            ("net.safetensors", *NOISY, "--fail-under", "0.4@0.19"),
            "200 draws certify a radius of 0.1826 at most",
            "draws",
        ),
    ],
)
def test_what_cannot_be_certified_is_one_error_with_one_hint(place, words, message, hint):
    done = stochx("certify", *words, "-o", "bad", cwd=place)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert done.returncode == 2 and done.stdout == "" and len(lines) == 2, done.stderr
    assert message in lines[0] and hint in lines[1]
    assert not (place / "bad").exists()


def test_networks_whose_draws_depend_on_each_other_are_certified_one_copy_at_a_time(place):
    for name in ("shared", "mixing"):
        done = stochx("certify", f"{name}.safetensors", *NOISY, "--limit", 2, "--batch-size", 1, "-o", name, cwd=place)
        assert done.returncode == 0, done.stderr


def test_it_warns_where_more_draws_or_another_training_would_help(place):
    few = stochx("certify", "net.safetensors", *FAST, "--sigma", "0.002", "-o", "few", "--no-figure", cwd=place)
    assert "all draws agree: `--draws 2000` would certify larger radii" in few.stderr
    wide = stochx("certify", "net.safetensors", *FAST, "--sigma", "5", "--alpha", "1e-9", "-o", "wide", cwd=place)
    assert "warning" not in few.stdout and wide.returncode == 0


def test_it_runs_from_python(place, tmp_path):
    settings = library.settings.Certify(
        model=str(place / "net.safetensors"),
        data=SHAPES,
        limit=3,
        sigma=0.1,
        selection=20,
        draws=100,
        output=tmp_path / "python",
    )
    document = library.run(settings)
    assert document["results"][0]["n"] == 3 and (tmp_path / "python" / "certified.png").exists()


@pytest.mark.slow
def test_two_ranks_give_the_certificates_of_one(run, place):
    words = ("certify", "net.safetensors", *NOISY, "-o", "ranks", "--json", "--no-figure")
    done = stochx_in_ranks(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] == run["results"]
    assert json.loads(done.stdout)["overview"] == run["overview"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data; set STOCHX_SHARED to its folder")
def test_a_robust_network_is_certified_further_than_a_plain_one(tmp_path):
    data = ("--data", f"cifar10:root={SHARED / 'cifar10'}", "--limit", 20, "--sigma", "0.25", "--draws", 200)
    acr = {}
    for name in ("resnet20", "robust_resnet2b"):
        weights = SHARED / "weights_cifar10" / f"{name}.safetensors"
        done = stochx("certify", weights, *data, "--no-figure", "--json", "-o", name, "-q", cwd=tmp_path)
        acr[name] = json.loads(done.stdout)["overview"]["acr"]
    assert acr["resnet20"] < 0.1 < acr["robust_resnet2b"]
