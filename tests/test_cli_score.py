"""`stochx score` as its users meet it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from support import stochx, stochx_in_ranks

MODEL = ("--model", "net.safetensors")
FAST = ("-m", "gradxinput", "-m", "smoothtaylor:roots=6", "-s", "autvc", "-s", "deletion:steps=4", *MODEL)


@pytest.fixture(scope="module")
def run(place):
    done = stochx("score", "a.png", "b.jpg", *FAST, "-o", "scores", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_has_a_row_for_each_method_and_metric(run):
    assert run["schema"] == 2 and run["command"] == "score" and run["images"] == 2 and run["gates"] == []
    assert [(r["metric"], r["method"]) for r in run["results"]] == [
        ("autvc", "gradxinput"),
        ("autvc", "smoothtaylor:roots=6"),
        ("deletion:steps=4", "gradxinput"),
        ("deletion:steps=4", "smoothtaylor:roots=6"),
    ]
    for row in run["results"]:
        assert (
            row["n"] == 2
            and row["excluded"] == 0
            and row["mean"] > 0
            and row["low"] < row["mean"] < row["high"]
            and row["better"] == "lower"
        )
        assert row["best"] is False, "two images can never show a difference"
    assert run["results"][0]["setting"] == "6 levels, 32 to 5 px"


def test_the_files_of_a_run(run, place):
    names = {path.name for path in (place / "scores").iterdir()}
    assert names == {"config.toml", "records.jsonl", "result.json", "curves.png", "gallery.png", "strips"}
    records = [json.loads(line) for line in (place / "scores" / "records.jsonl").read_text().splitlines()]
    assert [(r["index"], r["method"]) for r in records[:2]] == [(0, "gradxinput"), (0, "smoothtaylor:roots=6")]
    one = records[0]["scores"]["deletion:steps=4"]
    assert len(one["curve"]) == len(one["places"]) == 5 and one["why"] == ""
    mean = np.mean([r["scores"]["autvc"]["value"] for r in records if r["method"] == "gradxinput"])
    assert run["results"][0]["mean"] == pytest.approx(mean)
    with Image.open(place / "scores" / "curves.png") as figure:
        assert figure.size[0] > 800


def test_resume_adds_images_and_keeps_what_is_there(run, place):
    assert stochx("score", "a.png", "b.jpg", *FAST, "-o", "scores", cwd=place).returncode == 2
    before = (place / "scores" / "records.jsonl").read_text().splitlines()
    done = stochx("score", "a.png", "b.jpg", *FAST, "-o", "scores", "--resume", "--json", cwd=place)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == run["results"]
    assert (place / "scores" / "records.jsonl").read_text().splitlines() == before


def test_a_strip_that_is_damaged_is_left_out_of_the_gallery(run, place):
    for strip in (place / "scores" / "strips").iterdir():
        strip.write_bytes(strip.read_bytes()[:99])
    done = stochx("score", "a.png", "b.jpg", *FAST, "-o", "scores", "--resume", "--json", cwd=place)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == run["results"], done.stderr


def test_an_image_that_lacks_a_method_after_a_crash_is_scored_again(run, place):
    records = place / "scores" / "records.jsonl"
    whole = records.read_text().splitlines()
    damaged = json.loads(whole[0])
    damaged["scores"]["deletion:steps=4"]["places"].append(99.0)
    for left in (whole[:-1], [json.dumps(damaged), *whole[1:]]):
        records.write_text("".join(f"{line}\n" for line in left))
        done = stochx("score", "a.png", "b.jpg", *FAST, "-o", "scores", "--resume", "--json", cwd=place)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["results"] == run["results"]
    del damaged["scores"]["autvc"]["places"]
    records.write_text("".join(f"{line}\n" for line in [json.dumps(damaged), *whole[1:]]))
    refused = stochx("score", "a.png", "b.jpg", *FAST, "-o", "scores", "--resume", cwd=place)
    assert refused.returncode == 2 and "missing required field `places`, at `scores.autvc`" in refused.stderr
    records.write_text("".join(f"{line}\n" for line in whole))


def test_a_pipe_gets_a_line_for_each_method_and_metric(place):
    lines = stochx("score", "a.png", *FAST, "-o", "tsv", "--no-figure", cwd=place).stdout.splitlines()
    assert lines[0].split("\t")[:4] == ["method", "metric", "mean", "low"] and len(lines) == 5


def test_a_missed_gate_is_code_3_and_a_kept_one_0(place):
    common = ("score", "a.png", "-m", "gradient", "-s", "autvc", *MODEL, "--no-figure", "-o")
    missed = stochx(*common, "missed", "--fail-over", "autvc=0.01", "--json", cwd=place)
    assert missed.returncode == 3 and "gate missed: `gradient` has a mean of" in missed.stderr
    assert json.loads(missed.stdout)["gates"][0]["missed"] is True
    assert stochx(*common, "kept", "--fail-over", "autvc=100", "--fail-under", "autvc=0", cwd=place).returncode == 0


def test_controls_join_the_methods(place):
    done = stochx("score", "a.png", "--controls", *FAST[2:], "-o", "controls", "--no-figure", "--json", cwd=place)
    methods = {row["method"] for row in json.loads(done.stdout)["results"]}
    assert methods == {"smoothtaylor:roots=6", "random", "centre", "sobel", "blurred-ig"}


def test_masks_of_shapes_are_pointed_at(place):
    data = ("--data", "shapes:size=32,classes=3,count=20")
    done = stochx(
        "score",
        *data,
        "-m",
        "ig:steps=4",
        "-s",
        "pointing-game",
        "-s",
        "relevance-mass",
        *MODEL,
        "--json",
        "--no-figure",
        "-o",
        "masks",
        cwd=place,
    )
    rows = json.loads(done.stdout)["results"]
    assert [row["n"] for row in rows] == [4, 4] and all(0 <= row["mean"] <= 1 for row in rows)


def test_parts_of_objects_are_scored_and_tried(place):
    metrics = "single-deletion", "deletion-check", "distractibility", "target-sensitivity", "background-independence"
    words = ["--data", "shapes:size=32,classes=3,count=20,parts=3", "-m", "gradient", "-m", "random", "--trust"]
    words += [word for metric in metrics for word in ("-s", metric)]
    done = stochx("score", *words, *MODEL, "--json", "-o", "parts", cwd=place)
    document = json.loads(done.stdout)
    rows = {(row["method"], row["metric"]): row for row in document["results"]}
    assert {metric for _, metric in rows} == set(metrics) and len(rows) == 10
    assert all(row["n"] + row["excluded"] == 4 for row in rows.values())
    alike = {rows[method, "background-independence"]["mean"] for method in ("gradient", "random")}
    assert len(alike) == 1, "it speaks of the network alone"
    assert {row["metric"] for row in document["trust"]} == set(metrics)
    assert (place / "parts" / "curves.png").exists()


def test_adaptive_noising_is_explained_and_scored(place):
    method = "smoothtaylor:noise=adaptive,objective=autvc,roots=4"
    done = stochx("explain", "a.png", "-m", method, *MODEL, "--no-figure", "-o", "adaptive", "--json", cwd=place)
    row = json.loads(done.stdout)["results"][0]
    assert row["sigma"] > 0 and row["objective"] > 0
    assert row["evaluations"] >= 6 and row["used"] == 4 * (row["evaluations"] + 1)
    done = stochx(
        "score", "a.png", "-m", method, "-s", "autvc", *MODEL, "--no-figure", "-o", "scored", "--json", cwd=place
    )
    value = json.loads(done.stdout)["results"][0]["mean"]
    assert value == pytest.approx(row["objective"], rel=1e-3), "explain reports the objective on fresh roots too"


def test_maps_of_explain_are_scored_without_a_network(place):
    stochx(
        "explain",
        "a.png",
        "b.jpg",
        "-m",
        "ig:steps=4",
        "-m",
        "gradient",
        *MODEL,
        "--no-figure",
        "-o",
        "made",
        cwd=place,
    )
    done = stochx("score", "--maps", "made", "-s", "autvc", "-s", "sparseness", "-o", "from", "--json", cwd=place)
    document = json.loads(done.stdout)
    assert done.returncode == 0 and {r["method"] for r in document["results"]} == {"ig:steps=4", "gradient"}
    assert all(row["n"] == 2 for row in document["results"]) and "noise" not in document


def test_stored_maps_beside_their_images_score_as_the_method_does(place):
    stochx("explain", "a.png", "-m", "gradient", *MODEL, "--no-figure", "-o", "stored", cwd=place)
    options = ("-s", "deletion:steps=4", *MODEL, "--no-figure", "--json", "-o")
    stored = stochx("score", "a.png", "--maps", "stored", *options, "stored-score", cwd=place)
    made = stochx("score", "a.png", "-m", "gradient", *options, "made-score", cwd=place)
    one, other = (json.loads(done.stdout)["results"][0]["mean"] for done in (stored, made))
    assert one == pytest.approx(other, rel=1e-4)


def npy(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def test_a_map_that_says_nothing_is_counted_and_left_out_for_all(place):
    rng = np.random.default_rng(0)
    for method in ("one", "two"):
        for name in ("a", "b", "c"):
            npy(place / "foreign" / method / f"{name}.npy", rng.normal(size=(64, 64)).astype(np.float32))
    npy(place / "foreign" / "one" / "b.npy", np.zeros((64, 64), np.float32))
    npy(place / "foreign" / "two" / "c.npy", np.full((64, 64), np.nan, np.float32))
    done = stochx("score", "--maps", "foreign", "-s", "autvc", "-o", "counted", "--json", cwd=place)
    rows = json.loads(done.stdout)["results"]
    assert [(row["method"], row["n"], row["excluded"]) for row in rows] == [("one", 1, 2), ("two", 1, 2)]
    assert rows[0]["why"] == {"one: the map is constant": 1, "two: the map is not finite": 1}
    assert "2 images are left out for all methods" in done.stderr


def test_a_constant_image_is_left_out(place):
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(place / "flat.png")
    done = stochx("score", "a.png", "flat.png", *FAST, "-o", "flat", "--no-figure", "--json", cwd=place)
    row = json.loads(done.stdout)["results"][0]
    assert done.returncode == 0 and (row["n"], row["excluded"]) == (1, 1) and row["why"] == {"the image is constant": 1}


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("a.png", "-s", "aupk"), "unknown metric `aupk`", "did you mean `aupc`?"),
        (("a.png", "-s", "aupc:draw=3"), "has no key `draw`", "did you mean `draws`?"),
        (("a.png", "-s", "aupc:regions=5000"), "regions of 2 pixels are certain to fit", "regions="),
        (("a.png", "--fail-over", "autvc"), "has no value", "=1.5"),
        (("a.png", "-s", "autvc", "--fail-over", "aupc=3"), "names no metric that is scored", ""),
        (("a.png", "-s", "autvc", "--fail-over", "autvc=x"), "expects a number", ""),
        (("a.png", "-s", "pointing-game"), "needs masks of the object", "--data shapes"),
        (("a.png", "-s", "csdc"), "needs the parts of the object", "--data shapes:parts=4"),
        (("--data", "shapes:count=20", "-s", "deletion-check"), "needs the parts of the object", "shapes:parts=4"),
        (("--maps", "nowhere", "-s", "autvc"), "no such folder", "--maps"),
        (("--maps", ".", "-m", "ig"), "`--maps` takes existing ones", ""),
        ((), "there is nothing to score", "`--maps`"),
    ],
)
def test_what_a_user_can_cause_is_one_error_and_one_hint(args, message, hint, place):
    done = stochx("score", *args, *MODEL, "-o", "never", cwd=place)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr and not (place / "never").exists()
    assert message in done.stderr.splitlines()[0] and hint in done.stderr


@pytest.mark.parametrize(
    ("name", "values", "more", "message"),
    [
        ("other", np.ones((32, 32)), (), "none of the images has a map"),
        ("a", np.eye(40), (), "is 40 x 40, but the network sees `a.png` as 32 x 32"),
        ("a", np.eye(32), ("-s", "max-sensitivity"), "needs to recompute maps"),
        ("a", np.array(["x"]), (), "not a map"),
    ],
)
def test_maps_that_do_not_fit_are_refused(name, values, more, message, place, request):
    folder = place / f"misfit-{request.node.callspec.indices['name']}"
    npy(folder / f"{name}.npy", values)
    done = stochx("score", "a.png", "--maps", folder, "-s", "autvc", *more, *MODEL, "-o", "never", cwd=place)
    assert done.returncode == 2 and message in done.stderr and not (place / "never").exists()


def test_a_metric_that_needs_images_says_so_for_maps_alone(place):
    npy(place / "alone" / "a.npy", np.eye(32))
    done = stochx("score", "--maps", "alone", "-s", "aupc", "-o", "never", cwd=place)
    assert done.returncode == 2 and "`aupc` needs images and a network" in done.stderr and "--model" in done.stderr


@pytest.mark.slow
def test_two_ranks_give_the_rows_of_one(run, place):
    words = ("score", "a.png", "b.jpg", *FAST, "-o", "ranks", "--json", "--no-figure")
    done = stochx_in_ranks(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    for one, other in zip(json.loads(done.stdout)["results"], run["results"], strict=True):
        assert {k: v for k, v in one.items() if k not in ("mean", "low", "high", "p")} == {
            k: v for k, v in other.items() if k not in ("mean", "low", "high", "p")
        }
        assert one["mean"] == pytest.approx(other["mean"], rel=2e-2)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data; set STOCHX_SHARED to its folder")
def test_the_papers_measures_of_a_real_photo_are_of_the_published_size(tmp_path):
    photo = SHARED / "imagenet_samples" / "0025_n01629819.jpg"
    weights = SHARED / "weights_imagenet" / "squeezenet1_1.safetensors"
    methods = ("-m", "ig", "-m", "random")
    done = stochx(
        "score", photo, *methods, "-s", "aupc:draws=5", "-s", "autvc", "--model", weights, "--json", cwd=tmp_path
    )
    mean = {(row["method"], row["metric"]): row["mean"] for row in json.loads(done.stdout)["results"]}
    assert all(15 < mean[method, "aupc:draws=5"] < 31 for method in ("ig", "random"))
    assert 0.7 < mean["ig", "autvc"] < 1.7 < mean["random", "autvc"] < 2.6
