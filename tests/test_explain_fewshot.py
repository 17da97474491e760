"""Heatmaps of few-shot predictions: what they add up to, and the command that draws them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import random_images
from PIL import Image
from support import stochx

from stochx.attributions.lrp import LRP
from stochx.catalog import HEADS, MODELS
from stochx.engine.fewshot.head import contrast
from stochx.engine.lrp.tape import RelevanceTape
from stochx.engine.network.backbone import Backbone, maps_graph
from stochx.errors import RunError
from stochx.fewshot_networks import make_fewshot, save_fewshot
from stochx.reports.matches import draw_matches
from stochx.tasks.explain_fewshot import contrasts, explain_match

RULES = LRP("epsilon").rules()


def matcher(head="cosine"):
    return make_fewshot("convnet:width=4", head, 3, 16, 0, {}).double()


SUPPORT, QUERY = random_images(3, 2, 3, 16, 16), random_images(3, 16, 16, seed=2)


@pytest.mark.parametrize(
    "text", ["conv4:width=8,size=32", "resnet12:size=32", "resnet20", "convnet:width=4", "robust-resnet2b"]
)
def test_the_graph_of_a_backbone_gives_its_maps(text):
    base = Backbone(MODELS.make(text)(5).eval().double())
    x = random_images(2, 3, 32, 32)
    found = RelevanceTape(maps_graph(base), base.model.normalise(x), LRP().rules()).output
    assert torch.allclose(found, base(x), atol=1e-9)


def test_a_contrast_is_a_number_minus_the_mean_of_the_others():
    z = torch.tensor([3.0, -1.0, 2.0])
    assert contrasts(z).tolist() == pytest.approx([2.5, -3.5, 1.0])
    assert contrast(z, 2).tolist() == pytest.approx([-1.5, 0.5, 2.0])
    assert [float(contrast(z, k).sum()) for k in range(3)] == pytest.approx(contrasts(z).tolist())


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("relation", "gnn")])
def test_relevance_of_the_querys_maps_adds_up_to_the_contrast(head):
    model = matcher(head)
    maps = model.requires_grad_(False)(torch.cat([SUPPORT.flatten(0, 1), QUERY[None]]))
    _, cache = model.head(maps[:-1].unflatten(0, (3, 2))[None], maps[-1:][None])
    z = model.head.evidence(cache)
    for k in range(3):
        found = model.head.map_relevance(cache, contrast(z, k))[1]
        assert float(found.sum()) == pytest.approx(float(contrasts(z[0, 0])[k]), abs=0.05 * float(z.abs().sum()))


@pytest.mark.parametrize("head", list(HEADS))
def test_what_speaks_for_one_class_speaks_against_the_others(head):
    found = explain_match(matcher(head), SUPPORT, QUERY, RULES)
    assert found.query.shape == (3, 3, 16, 16) and found.support.shape == SUPPORT.shape
    assert float(found.probabilities.sum()) == pytest.approx(1)
    assert found.query.sum(0).abs().max() < 1e-9 + 1e-6 * found.query.abs().max()
    assert found.query.abs().max() > 0


def test_an_image_that_is_a_classs_own_is_explained_by_where_it_differs():
    model = make_fewshot("convnet:width=16", "cosine", 2, 16, 0, {}).double()
    support = torch.full((2, 1, 3, 16, 16), 0.5, dtype=torch.float64)
    support[0, 0, 0, 4:8, 4:8], support[1, 0, 2, 10:14, 10:14] = 1.0, 1.0
    found = explain_match(model, support, support[0, 0], RULES)
    assert found.probabilities[0] > found.probabilities[1]
    weight = found.query[0].sum(0).abs()
    assert weight[2:10, 2:10].mean() > 2 * weight.mean()


def test_scores_that_are_not_finite_are_an_error():
    model = matcher("cosine")
    torch.nn.init.constant_(model.head.scale, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        explain_match(model, SUPPORT, QUERY, RULES)


def test_black_images_are_explained_too():
    black = torch.zeros_like(SUPPORT), torch.zeros_like(QUERY)
    for head in HEADS:
        assert explain_match(matcher(head), *black, RULES).query.isfinite().all()


def test_the_figure_has_a_column_a_class_and_three_support_images_at_most(tmp_path):
    support = random_images(3, 5, 3, 16, 16)
    found = explain_match(matcher(), support, QUERY, RULES)
    draw_matches(tmp_path / "a.png", found, QUERY, support, ["one", "two", "a long name of a class indeed"])
    draw_matches(tmp_path / "b.png", found, QUERY, support[:, :1], ["one", "two", "three"])
    with Image.open(tmp_path / "a.png") as tall, Image.open(tmp_path / "b.png") as flat:
        assert tall.size[0] == flat.size[0] and tall.size[1] > 1.5 * flat.size[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A few-shot network, a support folder of 3 classes with 2, 3 and 2 images, and a query."""
    root = tmp_path_factory.mktemp("explain")
    save_fewshot(root / "few.safetensors", matcher("relation").float())
    draw = np.random.default_rng(0)
    for name, count in (("cat", 2), ("cow", 3), ("dog", 2)):
        (root / "support" / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(draw.integers(0, 255, (20, 20, 3), np.uint8)).save(root / "support" / name / f"{k}.png")
    (root / "alone" / "cat").mkdir(parents=True)
    Image.open(root / "support" / "cat" / "0.png").save(root / "alone" / "cat" / "0.png")
    Image.open(root / "support" / "dog" / "1.png").save(root / "query.png")
    return root


def explain(place, *more):
    return stochx("fsc-explain", "--model", "few.safetensors", "--device", "cpu", *more, cwd=place)


def test_explain_tells_every_class_of_the_support(place):
    done = explain(place, "query.png", "--support", "support", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    assert "only the first 2 images of each class are used" in done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [row["class_name"] for row in rows] == ["cat", "cow", "dog"]
    assert sum(row["probability"] for row in rows) == pytest.approx(1)
    assert sum(row["evidence"] for row in rows) == pytest.approx(0, abs=1e-5)
    with np.load(place / "out" / "query.matched.npz") as maps:
        assert maps["query"].shape == (3, 3, 16, 16) and maps["support"].shape == (3, 2, 3, 16, 16)
        assert maps["query"].sum((1, 2, 3)) == pytest.approx([row["relevance"] for row in rows], abs=1e-4)
    again = explain(place, "query.png", "--support", "support", "-o", "out", "--json", "--resume")
    assert json.loads(again.stdout)["results"] == rows
    records = place / "out" / "records.jsonl"
    records.write_bytes(records.read_bytes()[:-20])  # a crash within the last class
    again = explain(place, "query.png", "--support", "support", "-o", "out", "--json", "--resume")
    assert json.loads(again.stdout)["results"] == rows


def test_a_network_of_one_channel_explains_gray_images(place):
    code = "nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))"
    (place / "gray.py").write_text(f"from torch import nn\ndef net():\n    return {code}\n")
    arch = str(place / "gray.py:net")
    save_fewshot(place / "gray.safetensors", make_fewshot(arch, "prototypical", 3, 16, 0, {}))
    words = ("query.png", "--support", "support", "--arch", arch, "-o", "gray", "--json")
    done = explain(place, *words, "--model", "gray.safetensors")
    assert done.returncode == 0, done.stderr
    with np.load(place / "gray" / "query.matched.npz") as maps, Image.open(place / "gray" / "query.query.png") as drawn:
        assert maps["query"].shape == (3, 1, 16, 16) and maps["support"].shape == (3, 2, 1, 16, 16)
        assert drawn.mode == "L" and drawn.size == (16, 16)


@pytest.mark.parametrize("order", [("query.png", "broken.png"), ("broken.png", "query.png")])
def test_a_query_that_cannot_be_read_does_not_stop_the_others(order, place, tmp_path):
    (place / "broken.png").write_bytes(b"no image")
    done = explain(place, *order, "--support", "support", "-o", tmp_path, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1 and len(document["results"]) == 3 and "`broken.png`" in done.stderr
    assert [failure["image"] for failure in document["failed"]] == ["broken.png"]
    assert json.loads((tmp_path / "result.json").read_text())["results"] == document["results"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("query.png", "--support", "alone"), "`alone` has one class, `cat`"),
        (("query.png", "--support", "nothing"), "nothing"),
        (("query.png", "--support", "support", "-m", "ig"), "cannot explain a few-shot network"),
        (("nothing.png", "--support", "support"), "nothing.png"),
        (("--support", "support"), "no image is given"),
        (("net.safetensors", "--support", "support"), "`net.safetensors` is no image"),
    ],
)
def test_what_cannot_be_explained_is_refused(place, more, said):
    done = explain(place, *more, "-o", "bad")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
