"""`stochx compare`: two runs, paired by image; differences with intervals and p, settings that changed, a gate."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from recorded.cases import RUNS
from support import recorded_document, stochx, write_run

from stochx import settings
from stochx.engine.statistics import mean_difference, paired_p
from stochx.runs import run
from stochx.tasks.compare import Measured, compare_runs, judged

RIGHT = [1.0] * 30 + [0.0] * 10  # under attack, of 40 images


def attack_run(folder, robust=RIGHT, names=None, document="attack", **args):
    """Write a run of `attack` in which these images stay correct; under `fgsm` all do."""
    document = recorded_document(document)
    document["args"] |= args
    names = names or [f"{k}.png" for k in range(len(robust))]
    for row in document["results"]:
        mean = sum(robust) / len(robust)
        row |= {"n": len(robust), "robust": 1.0 if row["attack"] == "fgsm" else mean, "low": mean, "high": mean}
    records = [
        {"index": k, "image": name, "clean": True, "worst": value, "label": 0}
        | {"attacks": {"fgsm": {"correct": 1.0}, "pgd:steps=2": {"correct": value}}}
        for k, (name, value) in enumerate(zip(names, robust, strict=True))
    ]
    return write_run(folder, document, records)


def compared(old, new, **more):
    return run(settings.Compare(old=old, new=new, **more))


def row_of(document, label, measure="robust"):
    (row,) = [row for row in document["results"] if (row["label"], row["measure"]) == (label, measure)]
    return row


# Statistics -----------------------------------------------------------------------------------------------------------


def test_a_difference_is_paired_by_image(tmp_path):
    worse = [0.0] * 9 + RIGHT[9:]
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new", worse)
    row = row_of(compared(old, new), "worst")
    gap = mean_difference([b - a for a, b in zip(RIGHT, worse, strict=True)])
    assert (row["old"], row["new"], row["paired"], row["better"]) == (0.75, 21 / 40, 40, "higher")
    assert [row[key] for key in ("difference", "low", "high")] == pytest.approx([gap.mean, gap.low, gap.high])
    p = paired_p([b - a for a, b in zip(RIGHT, worse, strict=True)])
    assert row["p"] == pytest.approx(4 * p), "adjusted for four rows"


def test_order_and_other_images_change_no_pair(tmp_path):
    names = [f"{k}.png" for k in range(40)]
    old = attack_run(tmp_path / "old")
    new = attack_run(tmp_path / "new", [*reversed(RIGHT[:35]), 0.0, 0.0], [*reversed(names[:35]), "x.png", "y.png"])
    row = row_of(compared(old, new), "worst")
    assert (row["paired"], row["n_old"], row["n_new"]) == (35, 40, 37)
    assert row["difference"] == 0 and row["old"] == row["new"] == 30 / 35


def test_an_image_that_was_given_twice_is_paired_twice(tmp_path):
    names = ["a.png"] * 20 + ["b.png"] * 20
    folders = [attack_run(tmp_path / name, names=names) for name in ("old", "new")]
    assert row_of(compared(*folders), "worst")["paired"] == 40


def test_other_data_are_not_paired(tmp_path):
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new", data="cifar100")
    for folder in (old, new):
        document = json.loads((folder / "result.json").read_text())
        document["sample"]["hash"] = folder.name
        (folder / "result.json").write_text(json.dumps(document))
    document = compared(old, new)
    assert not document["same_images"] and {row["paired"] for row in document["results"]} == {0}
    assert {"name": "data", "old": recorded_document("attack")["args"]["data"], "new": "cifar100"} in document[
        "changes"
    ]


def test_where_a_run_lies_and_how_its_figures_look_are_no_changes(tmp_path):
    look = {"figure": True, "figure_format": "pdf", "figure_title": "mine"}
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new", output="there", **look)
    assert not compared(old, new)["changes"]


def test_a_document_that_lies_alone_is_compared_without_pairs(tmp_path):
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new", [0.0] * 40)
    (tmp_path / "alone.json").write_text((old / "result.json").read_text())
    row = row_of(compared(tmp_path / "alone.json", new), "worst")
    assert (row["difference"], row["paired"], row["p"]) == (-0.75, 0, None)


def test_the_interval_of_independent_means_is_newcombes():
    old = Measured("k", "", "m", "higher", 0.5, 0.4, 0.6, 100)
    new = Measured("k", "", "m", "higher", 0.7, 0.55, 0.8, 50)
    (row,) = compare_runs([old], [new])
    assert row.low == pytest.approx(0.2 - math.sqrt(0.15**2 + 0.1**2))
    assert row.high == pytest.approx(0.2 + math.sqrt(0.1**2 + 0.1**2))


@pytest.mark.parametrize(
    ("better", "change", "delta", "regressed"),
    [
        ("higher", -0.5, 0.4, True),
        ("higher", -0.5, 0.5, False),
        ("higher", 0.5, 0.0, False),
        ("lower", 0.5, 0.4, True),
        ("lower", -0.5, 0.0, False),
        ("none", -0.5, 0.0, False),
    ],
)
def test_a_regression_is_worse_by_more_than_delta(better, change, delta, regressed):
    values = {str(k): k / 20 for k in range(20)}
    old = Measured("k", "", "m", better, 0.5, values=values)
    new = Measured("k", "", "m", better, 0.5 + change, values={k: v + change for k, v in values.items()})
    assert judged(compare_runs([old], [new]), delta)[0].regression is regressed


def test_what_may_be_chance_is_no_regression():
    old = Measured("k", "", "m", "higher", 0.5, values={str(k): float(k % 2) for k in range(20)})
    new = Measured("k", "", "m", "higher", 0.4, values=old.values | {"1": 0.0, "3": 0.0})
    (row,) = judged(compare_runs([old], [new]), 0.0)
    assert row.difference == pytest.approx(-0.1) and row.p > 0.4 and not row.regression
    wide = Measured("k", "", "m", "higher", 0.5, 0.3, 0.7, 20), Measured("k", "", "m", "higher", 0.4, 0.2, 0.6, 20)
    assert not judged(compare_runs(wide[:1], wide[1:]), 0.0)[0].regression
    loss = Measured("k", "", "m", "lower", 0.5), Measured("k", "", "m", "lower", 0.6)
    assert judged(compare_runs(loss[:1], loss[1:]), 0.0)[0].regression, "nothing says that this is chance"


@pytest.mark.parametrize(("ends", "significant"), [((0.4, 0.6), True), ((0.05, 0.95), False), ((None, None), None)])
def test_without_p_the_interval_says_what_is_significant(ends, significant):
    (row,) = compare_runs(
        [Measured("k", "", "m", "higher", 0.9, *ends)], [Measured("k", "", "m", "higher", 0.1, *ends)]
    )
    assert row.significant is significant


# The command ----------------------------------------------------------------------------------------------------------


def test_a_regression_is_code_3(tmp_path):
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new", [0.0] * 12 + RIGHT[12:], eps="2/255")
    done = stochx("compare", old, new, "--fail-on-regression", 0.1, "--format", "markdown")
    assert done.returncode == 3 and "gate missed: robust of worst changed by -0.3000" in done.stderr
    assert done.stdout.count("**gate missed:**") == 2 and "**changed:** eps: `1/255` → `2/255`" in done.stdout
    kept = stochx("compare", old, new, "--fail-on-regression", 0.3)
    assert kept.returncode == 0 and "gate missed" not in kept.stderr
    assert kept.stdout.splitlines()[4].startswith("worst\trobust ↑\t0.75\t0.45\t-0.3000 [")


def test_a_row_that_the_new_run_lacks_misses_the_gate(tmp_path):
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new", document="attack-eps")
    done = stochx("compare", old, new, "--json")
    assert done.returncode == 0 and "robust of worst" in json.loads(done.stdout)["only_old"]
    gated = stochx("compare", old, new, "--fail-on-regression", 1)
    assert gated.returncode == 3 and "gate missed: the new run has no robust of pgd:steps=2" in gated.stderr


def test_what_only_one_run_has_is_told_apart_by_its_point(tmp_path):
    old, new = attack_run(tmp_path / "old"), attack_run(tmp_path / "new")
    document = json.loads((new / "result.json").read_text())
    for row in document["results"]:
        row["eps"] = 0.5
    (new / "result.json").write_text(json.dumps(document))
    document = compared(old, new)
    eps = recorded_document("attack")["results"][0]["eps"]
    assert f"robust of fgsm at linf eps {eps:.4g}" in document["only_old"]
    assert "robust of fgsm at linf eps 0.5" in document["only_new"]


def test_runs_over_several_points_are_paired_within_each(tmp_path):
    def sweep(name, lost):
        document = recorded_document("attack-eps")
        write_run(tmp_path / name, document)
        (tmp_path / name / "records.jsonl").unlink()
        for row in document["results"]:
            correct = 0.0 if row["typed"] == lost else 1.0
            record = {"image": "", "clean": True, "attacks": {"fgsm": {"correct": correct}}}
            records = [record | {"image": f"{k}.png"} for k in range(10)]
            part = tmp_path / name / row["typed"].replace("/", "-")
            write_run(part, document, records, {"model": row["model"], "eps": row["typed"]})
        return tmp_path / name

    document = compared(sweep("old", "8/255"), sweep("new", "2/255"))
    gaps = {row["label"]: row["difference"] for row in document["results"] if row["measure"] == "robust"}
    assert gaps == {"0": 0.0, "2/255": -1.0, "8/255": 1.0}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "fsc-explain"])
def test_every_run_equals_itself(name, tmp_path):
    document = recorded_document(name)
    (tmp_path / "a.json").write_text(json.dumps(document))
    same = compared(tmp_path / "a.json", tmp_path / "a.json", fail_on_regression=0.0)
    assert {row["difference"] for row in same["results"]} == {0.0} and not same["changes"]
    assert not any(row["regression"] for row in same["results"])
    assert not same["only_old"] and not same["only_new"]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("certify", {"prediction": 0, "label": 0, "abstained": False, "radius": 0.07}),
        ("score", {"scores": {m: {"value": 0.5} for m in ("aupc:draws=2", "autvc", "pointing-game")}}),
        ("fsc-test", {"episodes": [{"1": [0.5, 0.25], "2": [1.0, 0.5]}]}),
    ],
)
def test_runs_of_other_commands_are_paired_too(name, record, tmp_path):
    document = recorded_document(name)
    if name == "fsc-test":
        heads = [{"domain": row["domain"]} for row in document["results"]]
    else:
        methods = list(dict.fromkeys(row.get("method") for row in document["results"]))
        heads = [{"image": f"{k}.png", "method": method} for k in range(3) for method in methods]
    folders = [write_run(tmp_path / side, document, [head | record for head in heads]) for side in ("old", "new")]
    document = compared(*folders)
    assert {row["paired"] for row in document["results"]} == ({2} if name == "fsc-test" else {3})
    if name == "certify":
        means = {row["label"]: row["old"] for row in document["results"]}
        assert means == {"radius 0.0": 1, "radius 0.05": 1, "radius 1.0": 0, "": pytest.approx(0.07)}


def test_maps_are_compared_by_their_distance(tmp_path):
    for name, factor in (("old", 1.0), ("new", 3.0)):
        folder = write_run(tmp_path / name, recorded_document("explain"))
        for row in recorded_document("explain")["results"]:
            np.savez(folder / row["map"], map=np.full((3, 4, 4), factor, np.float32))
    rows = [r for r in compared(tmp_path / "old", tmp_path / "new")["results"] if r["measure"] == "distance of maps"]
    assert len(rows) == 3 and {row["difference"] for row in rows} == {2.0}
    (tmp_path / "new" / recorded_document("explain")["results"][0]["map"]).unlink()
    done = stochx("compare", tmp_path / "old", tmp_path / "new")
    assert done.returncode == 2 and done.stderr.startswith("error:")


@pytest.mark.parametrize("record", [{"image": "a.png"}, {"image": "a.png", "clean": True, "attacks": {"fgsm": 3}}])
def test_records_of_another_run_are_one_error(record, tmp_path):
    folder = write_run(tmp_path / "run", recorded_document("attack"), [record])
    done = stochx("compare", folder, folder)
    assert done.returncode == 2 and "do not fit its document" in done.stderr


@pytest.mark.parametrize(
    ("name", "place", "field", "value"),
    [("explain", 0, "map", 3), ("score", -1, "better", 3), ("fsc-test", 0, "way", [{}])],
)
def test_a_row_that_was_edited_is_one_error(name, place, field, value, tmp_path):
    document = recorded_document(name)
    whole = write_run(tmp_path / "whole", document)
    document["results"][place][field] = value
    edited = write_run(tmp_path / "edited", document)
    for pair in ((whole, edited), (edited, whole)):
        done = stochx("compare", *pair)
        assert done.returncode == (0 if name == "score" and pair[0] == edited else 2)
        assert not done.returncode or (done.stderr.startswith("error:") and "hint:" in done.stderr)


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    attack = attack_run(tmp_path / "attack")
    score = write_run(tmp_path / "score", recorded_document("score"))
    few = write_run(tmp_path / "few", recorded_document("fsc-explain"))
    other = write_run(tmp_path / "other", recorded_document("attack-l2"), config={})
    for pair, message in (
        ((attack, score), "is a run of attack"),
        ((few, few), "runs of fsc-explain cannot be compared"),
        ((attack, tmp_path / "no"), "does not exist"),
    ):
        done = stochx("compare", *pair)
        assert done.returncode == 2 and message in done.stderr and "hint:" in done.stderr
    assert compared(attack, other)["only_old"]
