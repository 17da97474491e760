"""`stochx boundary` as its users meet it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import shared
from PIL import Image
from support import stochx, stochx_in_ranks

NETS = '''
import torch
from torch import nn
from stochx.engine.network.classifier import Classifier
from stochx.engine.io.images import Preparation

class Brightest(nn.Module):
    """The class is the channel that is brightest on average, in the order of `turn`."""
    def __init__(self, turn=0, noise=0.0, extra=0):
        super().__init__()
        self.turn, self.noise, self.extra = turn, noise, extra
    def forward(self, x):
        out = 20 * x.mean((2, 3)).roll(self.turn, 1)
        out = out + self.noise * torch.randn_like(out)
        return torch.cat([out, out.new_zeros(len(out), self.extra) - 9], 1)

def made(size=32, arch="brightest", **settings):
    classes = [str(i) for i in range(3 + settings.get("extra", 0))]
    return Classifier(Brightest(**settings), classes, Preparation(size, size), arch=arch)

def rgb(): return made()
def brg(): return made(turn=1)
def gbr(): return made(turn=2)
def noisy(): return made(noise=1.0)
def large(): return made(size=64)
def four(): return made(extra=1)
'''
DATA = ("--data", "shapes:size=32,classes=3,count=60", "--resolution", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boundary")
    (folder / "nets.py").write_text(NETS)
    return folder


@pytest.fixture(scope="module")
def run(place):
    nets = ("nets:rgb", "nets:noisy", "nets:brg")
    done = stochx("boundary", *nets, *DATA, "--images", "0,3,7", "--draws", 8, "-o", "run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_has_a_row_for_each_network(run):
    assert run["schema"] == 2 and run["command"] == "boundary" and run["noise"] == "none"
    first, noisy, turned = run["results"]
    assert (first["model"], first["agreement"], first["iou"], first["disagreement"]) == ("nets:rgb", 1, 1, None)
    assert 0.5 < noisy["agreement"] < 1 and 0 < noisy["disagreement"] < 0.7
    assert turned["agreement"] == 0 and turned["regions"] == first["regions"]
    assert turned["distance"] == pytest.approx(first["distance"], rel=1e-5) and first["changed"] == first["n"] == 3
    assert sum(first["shares"].values()) == pytest.approx(1) and len(first["shares"]) == 3
    assert [len(plane["images"]) for plane in run["planes"]] == [3]


def test_the_files_of_a_run(run, place):
    name = run["planes"][0]["name"]
    names = {str(path.relative_to(place / "run")) for path in (place / "run").rglob("*") if path.is_file()}
    maps = {f"planes/{name}{net}.npz" for net in ("", ".nets_rgb", ".nets_noisy", ".nets_brg")}
    drawn = {f"plane-{name}.png", f"plane-{name}.gif", "evolution.png"}
    assert names == maps | drawn | {"config.toml", "records.jsonl", "result.json"}
    with Image.open(place / f"run/plane-{name}.gif") as film, Image.open(place / f"run/plane-{name}.png") as figure:
        assert film.n_frames == 3 and film.info["duration"] == 700 and figure.size[1] > 2.5 * film.size[1] > 750


def test_the_maps_are_what_the_network_says_of_the_points_in_the_planes_file(run, place):
    planes, name = place / "run/planes", run["planes"][0]["name"]
    with np.load(planes / f"{name}.npz") as plane, np.load(planes / f"{name}.nets_rgb.npz") as said:
        assert plane["axes"].shape == (2, 3, 32, 32) and plane["marks"].shape == (3, 2)
        places = np.stack(np.meshgrid(plane["a"], plane["b"]), -1)
        points = plane["origin"] + np.einsum("hwp,pcij->hwcij", places, plane["axes"])
        assert (points.mean((3, 4)).argmax(2) == said["labels"]).all() and not said["disagreement"].any()


def test_the_same_command_gives_the_same_bytes(run, place):
    nets = ("nets:rgb", "nets:noisy", "nets:brg")
    done = stochx("boundary", *nets, *DATA, "--images", "0,3,7", "--draws", 8, "-o", "again", "--json", cwd=place)
    strip = [
        {key: value for key, value in row.items() if key != "seconds"} for row in json.loads(done.stdout)["results"]
    ]
    assert strip == [{key: value for key, value in row.items() if key != "seconds"} for row in run["results"]]
    files = [path for path in (place / "run").rglob("*") if path.suffix in (".npz", ".png", ".gif")]
    assert len(files) == 7
    for path in files:
        assert path.read_bytes() == (place / "again" / path.relative_to(place / "run")).read_bytes(), path.name


def test_resume_asks_only_the_networks_whose_maps_are_gone(run, place):
    again = ("boundary", "--config", "run/config.toml", "nets:rgb", "nets:noisy", "nets:brg", "-o", "run", "--json")
    lost = next((place / "run/planes").glob("*.nets_brg.npz"))
    before = [json.loads(line) for line in (place / "run/records.jsonl").read_text().splitlines()]
    lost.unlink()
    assert stochx(*again, cwd=place).returncode == 2
    done = stochx(*again, "--resume", "--no-animate", cwd=place)
    assert done.returncode == 0, done.stderr
    after = [json.loads(line) for line in (place / "run/records.jsonl").read_text().splitlines()]
    assert lost.exists() and after[:2] == before[:2] and after[2]["distances"] == before[2]["distances"]
    whole = lost.read_bytes()
    lost.write_bytes(whole[:-99])
    damaged = stochx(*again, "--resume", cwd=place)
    assert damaged.returncode == 2 and f"`run/planes/{lost.name}` is damaged: " in damaged.stderr
    lost.write_bytes(whole)
    refused = stochx(*again, "--resume", "--resolution", 9, cwd=place)
    assert refused.returncode == 2 and "`resolution` `16`, not `9`" in refused.stderr


def test_gradient_planes_have_a_row_each_and_one_for_all(place):
    nets = ("nets:rgb", "nets:gbr")
    done = stochx(
        "boundary", *nets, *DATA, "--plane", "gradient", "--images", "4,5,9", "--span", 40, "-o", "steps", cwd=place
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [row["plane"] for row in rows] == ["00004"] * 2 + ["00005"] * 2 + ["00009"] * 2 + ["all"] * 2
    found = sorted(float(row["distance_eps"]) for row in rows[:6:2])
    assert float(rows[6]["distance_eps"]) == found[1] and rows[6]["changed"] == "3/3"
    assert len([*(place / "steps").glob("plane-*.png")]) == 3 and not [*(place / "steps").glob("*.gif")]


def test_without_images_three_classes_are_taken(place):
    done = stochx("boundary", "nets:rgb", *DATA, "-o", "three", "--no-figure", "--json", cwd=place)
    (plane,) = json.loads(done.stdout)["planes"]
    assert len({*plane["classes"]}) == 3 and not [*(place / "three").glob("*.png")]


def test_an_attack_plane_reaches_where_pgd_does(place):
    options = ("--plane", "attack", "--images", "4", "--eps", "0.25", "-o", "attack", "--json")
    done = stochx("boundary", "nets:rgb", *DATA, *options, cwd=place)
    (row,) = json.loads(done.stdout)["results"]
    assert row["distance_eps"] < 1 and row["changed"] == 1


BAD = {
    "two images": (("--images", "0,3"), "goes through three", "--plane gradient"),
    "the same image": (("--images", "0,3,0"), "names an image twice", ""),
    "no such image": (("--images", "0,3,60"), "there is no image 60", "use 0 to 11"),
    "no such key": (("--images", "0,3,x"), "has no image `x`", ""),
    "one network twice": (("nets:rgb",), "`nets:rgb` is given twice", "once"),
    "another input size": (("nets:large",), "takes images of 64 x 64", "one input size"),
    "other classes": (("nets:four",), "has other classes", "same data"),
    "data with other classes": (
        ("--plane", "gradient", "--data", "shapes:size=32,classes=5,count=60"),
        "has 5 classes, the network has 3",
        "--plane images",
    ),
    "a point": (("--plane", "gradient", "--span", 0), "is a point", "above 0"),
    "no radius": (("--eps", "8"), "above 1", "--eps 8/255"),
    "one cell": (("--resolution", 1), "--resolution", ""),
    "an unknown plane": (("--plane", "gradeint"), "`--plane gradeint` is unknown", "gradient"),
}


def test_two_classes_give_three_images_by_default_and_one_that_is_torn_is_passed_over(place):
    for number, name in enumerate(("0/a", "0/b", "1/a", "1/b")):
        file = place / "two" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    for left, failed in ((["0/a", "1/a", "0/b"], 0), (["0/b", "1/a", "1/b"], 1)):
        words = ("boundary", "nets:rgb", "--data", "folder:root=two", *DATA[2:], "-o", f"two-{failed}", "--json")
        done = stochx(*words, cwd=place)
        assert done.returncode == min(failed, 1), done.stderr
        document = json.loads(done.stdout)
        assert document["planes"][0]["images"] == [f"{name}.png" for name in left] and len(document["failed"]) == failed
        (place / "two" / "0" / "a.png").write_bytes(b"torn")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_a_remedy(case, place):
    options, message, hint = BAD[case]
    done = stochx("boundary", "nets:rgb", *DATA, *options, "-o", "bad", cwd=place)
    assert done.returncode == 2 and message in done.stderr and hint in done.stderr and "Traceback" not in done.stderr
    assert not (place / "bad").exists()


@pytest.mark.slow
def test_a_teachers_boundary_is_nearer_than_a_robust_networks(tmp_path):
    nets = [shared(f"weights_cifar10/{name}.safetensors") for name in ("resnet20", "robust_resnet2b")]
    data = ("--data", f"cifar10:root={shared('cifar10')}", "--images", "3,17,42", "--resolution", 20, "--device", "cpu")
    done = stochx("boundary", *nets, *data, "--plane", "gradient", "-o", tmp_path / "real", "--json")
    teacher, robust = json.loads(done.stdout)["results"][-2:]
    assert teacher["distance_eps"] < 0.3 and (robust["distance_eps"] or 9) > 1


@pytest.mark.slow
def test_two_ranks_give_the_rows_of_one(run, place):
    words = ("nets:rgb", "nets:noisy", "nets:brg", *DATA, "--images", "0,3,7", "--draws", 8)
    done = stochx_in_ranks("boundary", *words, "-o", "ranks", "--json", "--no-figure", cwd=place)
    assert done.returncode == 0, done.stderr
    rows, alone = json.loads(done.stdout)["results"], run["results"]
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in alone]
