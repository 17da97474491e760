"""The page about guided few-shot training: units that are kept and continued, and verdicts that follow from them."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from results_pages import paper, write_page

SETTINGS = {
    "head": "relation",
    "network": None,
    "size": None,
    "lr": 0.001,
    "start": None,
    "backbone": "conv4:size=64",
    "pretrain": 20,
    "episodes": 400,
    "train_shot": 5,
    "test_episodes": 600,
    "domains": ["source", "one", "two"],
}
CLASSES = {"one": 12, "two": 9}
DOMAINS = "--source", "source=a.zip", "--target", "one=b.zip", "--target", "two=c.zip"


@pytest.fixture
def guided(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return paper(monkeypatch, "explanation_guided")


def arms() -> ModuleType:
    """Return the module of a unit's work, beside that of the page."""
    return importlib.import_module("guided_arms")


def plant(folder: Path, seeds: int, stuck: int = 0, **gains: float) -> None:
    """Write the units of the relation head, and of seeds of the graph network that stayed at chance.

    The guides have these gains in right queries over no guidance, the same in all episodes but for noise.
    """
    draw = np.random.default_rng(0)
    (folder / "page").mkdir()
    drawn = {name: [draw.permutation(n)[:5].tolist() for _ in range(60)] for name, n in CLASSES.items()}
    (folder / "page" / "episodes.json").write_text(json.dumps(drawn))
    for seed in range(seeds):
        right = {
            guide: {
                name: {
                    shot: arms().letters(
                        40 + gains.get(guide, 0) + sum(classes) % 5 + draw.integers(3) for classes in episodes
                    )
                    for shot in ("1", "5")
                }
                for name, episodes in drawn.items()
            }
            for guide in ("none", "lrp", "random", "shuffled")
        }
        write(folder, "relation", seed, None, right)
    for seed in range(stuck):
        write(folder, "graph", seed, 0.21, {})


def write(folder: Path, arm: str, seed: int, started: float | None, right: dict) -> None:
    """Write a unit with the module of the page."""
    kind = arms().Guided
    graph = {"head": "gnn:transductive=true", "start": 4000} if arm == "graph" else {}
    kind(arm, seed, SETTINGS | graph, "0", 60.0, started, right).write(folder / "page" / f"{arm}-{seed}.json")


def first(text: str) -> str:
    return text.splitlines()[2]


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ({"lrp": 6}, "supported"),
        ({"lrp": -6}, "refuted"),
        ({"lrp": 6, "random": 6}, "undecided"),
        ({"lrp": 6, "shuffled": 8}, "undecided"),
        ({}, "undecided"),
    ],
)
def test_a_gain_that_controls_share_supports_nothing(tmp_path, guided, gains, word):
    plant(tmp_path, 8, **gains)
    text = write_page(guided, tmp_path, *DOMAINS, "--budget", "0")
    assert f"is {word} for 1 of 1 heads (relation)." in first(text) and f"- **relation**: {word}." in text
    assert ("would have been found" in text) == (word == "undecided")
    assert (tmp_path / "page.png").exists()


def test_a_network_at_chance_is_named_and_left_out(tmp_path, guided):
    plant(tmp_path, 6, stuck=1, lrp=6)
    text = write_page(guided, tmp_path, *DOMAINS, "--budget", "0")
    assert "supported for 1 of 1 heads (relation)" in first(text)
    assert "At chance without guidance, and left out: graph, seed 0 (21 %)." in text


def test_five_seeds_leave_the_page_alone_and_other_settings_are_not_mixed(tmp_path, guided):
    plant(tmp_path, 5)
    assert write_page(guided, tmp_path, *DOMAINS, "--budget", "0") == ""
    with pytest.raises(ValueError, match="other settings"):
        write_page(guided, tmp_path, *DOMAINS, "--budget", "0", "--episodes", "7")


def test_the_open_interval_holds_the_truth_where_seeds_and_classes_are_drawn_anew(guided):
    """Simulated: a gain that varies over seeds and classes is within the interval in 95 % of the trials."""
    draw, hits, trials, ways = np.random.default_rng(1), 0, 100, 5
    kind = arms().Guided
    for _ in range(trials):
        classes = {name: np.stack([draw.permutation(15)[:ways] for _ in range(200)]).tolist() for name in "ab"}
        effect = {name: draw.normal(0, 6, 15) for name in "ab"}
        units = []
        for seed in range(6):
            shift = draw.normal(0, 2)
            lrp = {
                name: {
                    shot: arms().letters(
                        round(37 + shift + effect[name][each].mean() + draw.normal(0, 3)) for each in classes[name]
                    )
                    for shot in ("1", "5")
                }
                for name in "ab"
            }
            none = {name: {shot: arms().letters([37] * 200) for shot in ("1", "5")} for name in "ab"}
            units.append(kind("relation", seed, {}, "0", 1.0, None, {"lrp": lrp, "none": none}))
        mean = guided.compare(units, "none", classes).mean
        hits += mean.low <= 0 <= mean.high
    assert 0.89 * trials <= hits <= 0.99 * trials


def test_variances_add_up_as_satterthwaite_says(guided):
    """Two equal parts with f degrees of freedom each make one of twice the variance, with 2 f."""
    found = guided.combined(1.0, [(2.0, 7), (2.0, 7)])
    quantile = 2.144787  # of Student's t with 14 degrees of freedom, from a table
    assert math.isclose(found.half, quantile * 2.0, rel_tol=1e-4) and found.mean == 1.0
    assert math.isclose(guided.combined(0.0, [(3.0, 4)]).half, 2.776445 * math.sqrt(3))


def test_letters_hold_every_number_of_right_queries(tmp_path, guided):
    counts = list(range(guided.WAY * guided.QUERIES + 1))
    unit = arms().Guided("relation", 0, {}, "0", 1.0, None, {"lrp": {"one": {"1": arms().letters(counts)}}})
    unit.write(tmp_path / "unit.json")
    assert arms().Guided.read(tmp_path / "unit.json") == unit and unit.counts("lrp", "one", 1) == counts


@pytest.mark.slow
def test_a_head_is_trained_tested_and_kept(tmp_path, guided, monkeypatch):
    """The graph network is the arm with most steps; it has one seed more than asked for."""
    monkeypatch.setattr(guided, "ARMS", {"graph": guided.ARMS["graph"]})
    monkeypatch.setattr(arms(), "LEARNT", 0.0)
    tiny = "--pretrain", "1", "--episodes", "2", "--start-episodes", "2", "--test-episodes", "20", "--seeds", "0"
    shapes = [f"{name}=shapes:size=32,classes=6,count=600,seed={seed}" for seed, name in enumerate(("source", "one"))]
    options = *tiny, "--backbone", "conv4:size=32", "--source", shapes[0], "--target", shapes[1]
    assert write_page(guided, tmp_path, *options) == ""
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "page").iterdir()}
    assert {path.name for path in kept} == {"episodes.json", "graph-0.json"}
    unit = arms().Guided.read(tmp_path / "page" / "graph-0.json")
    counts = [len(episodes) for by_domain in unit.right.values() for episodes in by_domain["one"].values()]
    assert {*unit.right} == {"none", "lrp", "random", "shuffled"} and counts == [20] * 8
    write_page(guided, tmp_path, *options)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "page").iterdir()}
