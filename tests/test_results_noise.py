"""The pages about stochastic networks: units that are kept and continued, and verdicts that are computed."""

from __future__ import annotations

import json
import math
import random
import re
import time
from types import ModuleType

import pytest
from conftest import SHAPES
from results_pages import paper
from support import ROOT

from stochx.engine.io.store import locked

PAPERS = ("units", "claims", "noise_arms", "adaptive_noise", "randomised_defences")


@pytest.fixture
def papers(monkeypatch) -> dict[str, ModuleType]:
    return {name: paper(monkeypatch, name) for name in PAPERS}


def planted(papers, arm, seed, share, n=300, settings=None):
    """A result whose shares of right draws are `share` on average, under every way to attack."""
    ways, source = papers["randomised_defences"].WAYS, random.Random(f"{arm} {seed}")
    shares = share if isinstance(share, dict) else dict.fromkeys(ways, share)
    right = {way: [round(source.random() < shares[way]) for _ in range(n)] for way in ways}
    return papers["units"].Result(arm, seed, settings or {}, {}, {"training": 60.0}, 20, [], right)


def verdict_of(papers, first, second, seeds=3):
    adaptive = papers["adaptive_noise"]
    results = []
    for seed in range(seeds):
        a, b = (share[seed] if isinstance(share, list) else share for share in (first, second))
        results += [planted(papers, adaptive.CLAIM, seed, a), planted(papers, adaptive.EQUAL_TIME, seed, b)]
    (verdict,) = papers["claims"].judge(adaptive.CLAIMS, results)
    return verdict


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [(0.6, 0.3, "supported"), (0.3, 0.6, "refuted"), (0.4, 0.4, "undecided"), ([0.9, 0.9, 0.2], 0.4, "undecided")],
)
def test_a_verdict_is_computed_from_all_seeds(papers, first, second, word):
    """The last case is significant over images, but one seed has the other sign."""
    verdict = verdict_of(papers, first, second)
    assert verdict.word == word
    sentence = papers["adaptive_noise"].answer(verdict)
    assert f"is {word}: " in sentence and "300 images with 3 training seeds" in sentence
    assert ("would have been found" in sentence) == (word == "undecided")


def test_a_claim_must_hold_under_both_attacks(papers):
    arms = papers["noise_arms"]
    one_way = dict.fromkeys(papers["randomised_defences"].WAYS, 0.4) | {arms.EOT: 0.8}
    assert verdict_of(papers, one_way, 0.4).word == "undecided"


def test_the_detectable_difference_falls_with_the_number_of_images(papers):
    adaptive, detectable = papers["adaptive_noise"], []
    for n in (200, 3200):
        pair = [planted(papers, arm, 0, 0.4, n) for arm in (adaptive.CLAIM, adaptive.EQUAL_TIME)]
        detectable.append(papers["claims"].judge(adaptive.CLAIMS, pair)[0].detectable)
    assert detectable[0] / detectable[1] == pytest.approx(4, rel=0.15)


def test_the_gap_of_a_defence_is_measured(papers):
    arms, page = papers["noise_arms"], papers["randomised_defences"]
    masked = dict.fromkeys(page.WAYS, 0.3) | {arms.ONE_DRAW: 0.7}
    results = [
        planted(papers, "RPF", 0, masked),
        planted(papers, "RSE", 0, 0.4),
        planted(papers, "control: AT", 0, 0.4),
    ]
    found = page.measured_gaps(results)
    assert [(gap.arm, gap.word) for gap in found] == [("RPF", "overstates"), ("RSE", "undecided")]
    assert "1 of 2 randomised defences" in page.answer(found) and "`RPF`" in page.answer(found)


def test_a_unit_is_read_as_it_was_written(papers, tmp_path):
    units = papers["units"]
    shares = {"clean": [0.0, 1.0, 1.0], "attack": [k / 32 for k in (0, 17, 32)], "known": [0.2, 0.4, 1.0]}
    result = units.Result("a + b", 1, {"n": 3}, {}, {}, 5, [], shares)
    path = tmp_path / f"{units.Unit('a + b', 1).name}.json"
    result.write(path)
    assert path.name == "a_b-1.json" and units.Result.read(path) == result
    with pytest.raises(ValueError, match="not shares"):
        units.Result("a", 1, {}, {}, {}, 5, [], {"clean": [1 / 37, 0.5]}).write(path)


def test_a_unit_of_other_settings_is_refused(papers, tmp_path):
    units = papers["units"]
    unit = units.Unit("RPF", 0)

    def bench(images):
        return units.Bench(units.Result, tmp_path, lambda _: {"images": images}, None, None, None)

    planted(papers, "RPF", 0, 0.5, settings={"images": 300}).write(tmp_path / f"{unit.name}.json")
    assert len(units.kept(bench(300), [unit])) == 1
    with pytest.raises(ValueError, match="other settings"):
        units.kept(bench(400), [unit])


def test_names_of_units_differ(papers):
    for page, seeds in (("adaptive_noise", 3), ("randomised_defences", 2)):
        units = papers["noise_arms"].balanced(papers[page].ARMS, seeds)
        assert len({unit.name for unit in units}) == len(units)
        assert [unit.seed for unit in units] == sorted(unit.seed for unit in units)


def test_a_budget_ends_between_units_and_within_one(papers, tmp_path):
    units, made, pages = papers["units"], [], []

    def make(unit):
        made.append(unit)
        if unit.seed:
            time.sleep(60)
        return planted(papers, unit.arm, unit.seed, 0.5)

    work = [units.Unit("RPF", 0), units.Unit("RPF", 1)]
    bench = units.Bench(
        units.Result, tmp_path, lambda _: {}, make, lambda _: 30.0, lambda results: pages.append(len(results))
    )
    units.work_through(bench, work, 0.4, partial=False)  # 24 seconds, of which a unit takes 30
    assert made == [] and pages == [0]
    begun = time.time()
    units.work_through(bench, work, 0.03, partial=True)
    assert made == work and pages == [0, 0, 1] and time.time() - begun < 30
    units.work_through(bench, work, 0.0, partial=True)
    assert made == work and pages[-1] == 1


def test_a_unit_of_another_process_is_passed_over(papers, tmp_path):
    units, made = papers["units"], []

    def make(unit):
        made.append(unit.seed)
        return planted(papers, unit.arm, unit.seed, 0.5)

    work = [units.Unit("RPF", seed) for seed in range(3)]
    bench = units.Bench(units.Result, tmp_path, lambda _: {}, make, lambda _: 1.0, lambda results: None)
    with locked(tmp_path / work[1].name):
        units.work_through(bench, work, 1.0, partial=False)
    assert made == [0, 2]
    units.work_through(bench, work, 1.0, partial=False)
    assert made == [0, 2, 1] and all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_two_units_are_trained_interrupted_and_resumed(papers, tmp_path, net_of_shapes, monkeypatch):
    page, arms, units = papers["randomised_defences"], papers["noise_arms"], papers["units"]
    chosen = {"control: AT": arms.Arm(adversarial="pgd:steps=1"), "RSE": arms.Arm("gaussian", "pgd:steps=1")}
    monkeypatch.setattr(page, "ARMS", chosen)
    for size, few in {"CHECKED": 8, "PLANTED": 2, "MOST": 4}.items():
        monkeypatch.setattr(arms, size, few)
    options = f"--teacher {net_of_shapes} --data {SHAPES} --epochs 1 --limit 64 --images 12 --steps 2 --draws 4"
    folders = f"--output {tmp_path / 'work'} --results {tmp_path / 'kept'} --page {tmp_path / 'page.md'} --device cpu"
    given = f"{options} {folders}".split()
    run = arms.run

    def interrupted(settings):
        document = run(settings)
        if settings.command == "attack" and "rse" in str(settings.folder):
            raise units.OutOfTimeError
        return document

    monkeypatch.setattr(arms, "run", interrupted)
    page.main(given)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["control_at-0.json"]
    assert not (tmp_path / "page.md").exists()
    student = tmp_path / "work" / "rse-0" / "student" / "student.safetensors"
    trained = student.stat().st_mtime_ns
    monkeypatch.setattr(arms, "run", run)
    page.main(given)
    assert student.stat().st_mtime_ns == trained
    kept = json.loads((tmp_path / "kept" / "rse-0.json").read_text())
    assert {*kept["right"]} == {*page.WAYS} and all(len(way["right"]) == 12 for way in kept["right"].values())
    assert kept["draws"] >= 2 and {"expectation", "planted"} <= {check["name"] for check in kept["checks"]}
    text = (tmp_path / "page.md").read_text()
    assert re.search(r"\*\*Attacked as published.* of 1 randomised defences", text) and "<details>" in text
    assert (tmp_path / "page.png").stat().st_size < 200_000
    control = units.Result.read(tmp_path / "kept" / "control_at-0.json")
    assert control.right[arms.ONE_DRAW] == control.right[arms.EOT] and control.draws == 1
    before = text
    page.main([*given, "--budget", "0"])
    assert (tmp_path / "page.md").read_text() == before


def test_the_page_of_adaptive_noise_waits_for_both_arms_of_the_claim(papers, tmp_path, monkeypatch):
    page, arms, units = papers["adaptive_noise"], papers["noise_arms"], papers["units"]
    given = ["--budget", "0", "--results", str(tmp_path / "kept"), "--page", str(tmp_path / "page.md")]
    (tmp_path / "kept").mkdir()
    for arm in (page.CLAIM, page.EQUAL_TIME):
        page.main(given)
        assert not (tmp_path / "page.md").exists()
        args = page_arguments(page, arms, given)
        settings = arms.settings_of(args, page.ARMS[arm])
        unit = units.Unit(arm, 0)
        planted(papers, arm, 0, 0.4, settings=settings).write(tmp_path / "kept" / f"{unit.name}.json")
    page.main(given)
    text = (tmp_path / "page.md").read_text()
    assert text.splitlines()[2].startswith("**That `adaptive + AT` withstands") and "is undecided" in text
    assert (tmp_path / "page-differences.png").exists()


def page_arguments(page, arms, given):
    parser = page.argparse.ArgumentParser()
    arms.add_options(parser, "adaptive_noise", epochs=3, limit=16_384, images=2000, seeds=3)
    return parser.parse_args(given)


def test_kept_units_of_the_pages_are_small_and_of_the_pages_arms(papers):
    for name in ("adaptive_noise", "randomised_defences"):
        names = {unit.name for unit in papers["noise_arms"].balanced(papers[name].ARMS, 20)}
        for path in (ROOT / "docs" / "results" / name).glob("*.json"):
            assert path.stem in names and path.stat().st_size < 20_000
            assert math.isfinite(sum(map(sum, papers["units"].Result.read(path).right.values())))
