"""Controls are never best, and a metric says whether another replacement of removed pixels reorders the methods."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import random_images
from support import stochx

from stochx.catalog import METRICS
from stochx.errors import UsageError
from stochx.metrics import ROAD, Evidence
from stochx.settings import Score
from stochx.settings.score import other_removals, removal_groups, removal_of
from stochx.tables.score import VIEW
from stochx.tasks.comparison import summarise
from stochx.tasks.removals import Reordering, reorderings


def records(**values):
    """Records of metrics, whose values stand by method: one an image."""
    count = len(next(iter(next(iter(values.values())).values())))
    return [
        {
            "index": n,
            "method": method,
            "scores": {name: {"value": table[method][n], "why": "", "setting": ""} for name, table in values.items()},
        }
        for n in range(count)
        for method in next(iter(values.values()))
    ]


def steady(mean, count=12):
    """Values about a mean, whose differences to those about another one hardly vary."""
    return [mean + 0.01 * (n % 3) for n in range(count)]


def remarks(rows, removals=()):
    document = {"results": rows, "removals": [vars(row) for row in removals], "trust": []}
    return [remark.text for remark in VIEW.remarks(document)]


def test_a_control_that_leads_takes_the_star_from_all_and_the_table_says_so():
    table = {"ig": steady(0.2), "lrp": steady(0.3), "centre": steady(0.6)}
    metrics = {"srg": METRICS.make("srg")}
    rows = summarise(records(srg=table), list(table), metrics, {"centre"})
    assert [(row.best, row.control) for row in rows] == [(False, False), (False, False), (False, True)]
    (line,) = remarks([vars(row) for row in rows])
    assert line == (
        "the control `centre` leads in `srg`, and beats `ig`, `lrp` (p < 0.05): no method is marked best there"
    )
    known = summarise(records(srg=table), list(table), metrics)  # as any other method, it would be the best one
    assert [row.best for row in known] == [False, False, True]


def test_a_method_that_beats_the_controls_keeps_its_star():
    table = {"ig": steady(0.7), "centre": steady(0.6)}
    rows = summarise(records(srg=table), list(table), {"srg": METRICS.make("srg")}, {"centre"})
    assert rows[0].best and not remarks([vars(row) for row in rows])


def test_a_number_without_a_direction_has_no_leader():
    table = {"ig": steady(0.2), "centre": steady(0.6)}
    rows = summarise(
        records(randomisation=table), list(table), {"randomisation": METRICS.make("randomisation")}, {"centre"}
    )
    assert not any(row.best for row in rows) and not remarks([vars(row) for row in rows])


def test_a_replacement_that_turns_the_order_is_counted():
    same = {"a": steady(1.0), "b": steady(2.0), "c": steady(3.0)}
    turned = {"a": steady(3.0), "b": steady(2.0), "c": steady(2.5)}  # a behind b, a behind c; b and c as before
    given = records(own=same, same=same, turned=turned)
    (row,) = reorderings(given, [*"abc"], [["own", "same", "turned"]])
    assert row == Reordering("own", "turned", 2, pytest.approx(-0.5), 3, 2, 2)
    (line,) = remarks([], [row])
    pairs = "2 of 3 pairs of methods, 2 with p < 0.05 both times"
    assert line == f"`turned` turns the order of `own` for {pairs} (rank correlation -0.50)"


def test_an_order_that_turns_by_chance_is_not_significant():
    noisy = {"a": [0.0, 1.0, 0.0, 1.0], "b": [1.1, 0.0, 1.0, 0.0]}
    (row,) = reorderings(records(own=noisy, other={"a": noisy["b"], "b": noisy["a"]}), [*"ab"], [["own", "other"]])
    assert (row.turned, row.significant, row.correlation) == (1, 0, pytest.approx(-1))


def test_an_order_that_holds_is_said_to_hold():
    table = {"a": steady(1.0), "b": steady(2.0)}
    (row,) = reorderings(records(x=table, y=table, z=table), [*"ab"], [["x", "y", "z"]])
    assert row == Reordering("x", "y", 2, pytest.approx(1), 1, 0, 0)
    assert remarks([], [row]) == ["`x` keeps its order of methods under 2 other replacements"]
    assert not reorderings(records(x=table), [*"ab"], [["x"]]) and not reorderings(
        records(x=table), ["a"], [["x", "x"]]
    )


def test_the_replacement_of_a_metric_is_told_from_the_rest_of_its_text():
    assert removal_of("deletion:steps=9,removal=black") == ("deletion:steps=9", "black")
    assert removal_of("aupc") == ("aupc", "uniform") and removal_of("sparseness") is None
    assert other_removals("aupc:draws=3") == ["aupc:draws=3,patch=image"]
    assert other_removals("road") == [f"road:removal={name}" for name in ("mean", "black", "white", "blur", "uniform")]
    typed = ["deletion", "sparseness", "srg", "deletion:removal=blur"]
    assert removal_groups(typed) == [["deletion", "deletion:removal=blur"], ["srg"]]


def test_all_removals_are_scored_and_recorded_as_metrics():
    settings = Score(images=("a.png",), metric=("sensitivity-n", "autvc"), removals="all")
    expected = ["sensitivity-n", *(f"sensitivity-n:removal={name}" for name in ("mean", "white", "blur")), "autvc"]
    assert list(settings.metrics) == expected == settings.recorded()["metric"] and "removals" not in settings.recorded()
    with pytest.raises(UsageError, match="none of the metrics removes pixels"):
        Score(images=("a.png",), metric=("autvc",), removals="all")


@pytest.mark.parametrize("removal", ["mean", "black"])
def test_road_without_neighbours_fills_as_it_is_told(removal, tiny):
    x, seen = random_images(2, 3, 16, 16), []
    relevance = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    evidence = Evidence(relevance, ["a", "b"], x, torch.tensor([0, 1]), tiny)
    found = ROAD(shares=1, noise=0.0, removal=removal)(evidence).curve
    for n in range(2):
        strength = relevance[n].sum(0).abs().flatten()
        gone = (strength >= strength.sort(descending=True).values[127]).view(16, 16)
        fill = x[n].mean((1, 2), keepdim=True) if removal == "mean" else torch.zeros(3, 1, 1)
        with torch.no_grad():
            seen.append(tiny(torch.where(gone, fill.to(x), x[n])[None]).softmax(1)[0, n])
    torch.testing.assert_close(found[:, 0], torch.stack(seen), rtol=1e-10, atol=0)
    assert not torch.allclose(found, ROAD(shares=1, noise=0.0)(evidence).curve)


def test_the_command_scores_all_removals_and_says_what_they_do(place):
    typed = ("-m", "gradient", "-m", "centre", "-s", "aupc:draws=2,regions=3", "--removals", "all", "--no-figure")
    done = stochx(
        "score", "a.png", "b.jpg", *typed, "--model", "net.safetensors", "-o", "removals", "--json", cwd=place
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["removals"]
    assert (row["metric"], row["other"]) == ("aupc:draws=2,regions=3", "aupc:draws=2,regions=3,patch=image")
    assert (row["compared"], row["pairs"]) == (1, 1)
    assert (
        {row["metric"] for row in document["results"]} == {row["metric"], row["other"]} == {*document["args"]["metric"]}
    )
    assert [row["control"] for row in document["results"]] == [False, True] * 2
