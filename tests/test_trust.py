"""How far a metric can be trusted: each number by hand, Wilcoxon's test against SciPy, and the trials themselves."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from conftest import random_images
from scipy import stats
from support import stochx

from stochx.catalog import ATTRIBUTIONS, METRICS
from stochx.errors import UsageError
from stochx.metrics import Evidence
from stochx.settings import Score
from stochx.tables.score import VIEW
from stochx.tasks.trials import _disturbances, _permutation, try_metrics
from stochx.tasks.trust import TrustRow, chance, consistency, degradation, reliability, swaps, trust, wilcoxon


def trials(halves=(0.0, 0.0), halved=False, degraded=(), minor=(), strong=()):
    return {
        "halves": list(halves), "halved": halved, "degraded": list(degraded),
        "minor": list(minor), "strong": list(strong), "seconds": 0.5,
    }  # fmt: skip


def test_wilcoxons_p_is_that_of_scipy():
    source = torch.Generator().manual_seed(0)
    for _ in range(5):
        d = torch.randn(9, generator=source, dtype=torch.float64).tolist()
        assert wilcoxon(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    assert wilcoxon([0.0, 1.0, 0.0, 2.0, 3.0]) == pytest.approx(stats.wilcoxon([1.0, 2.0, 3.0], method="exact").pvalue)
    assert wilcoxon([0.0, 0.0]) == 1.0
    assert wilcoxon([1.0, 1.0, -1.0]) == 1.0  # equal ranks: no sum of signs is smaller than one


def test_noise_has_the_score_that_was_measured_for_it():
    assert (chance(3), chance(6)) == (pytest.approx(0.4583, abs=1e-4), pytest.approx(0.4167, abs=1e-4))


def test_the_score_of_noise_is_near_chance():
    source = torch.Generator().manual_seed(0)
    tried, before = {}, {}
    for index in range(60):
        for method in "abc":
            values = torch.randn(7, generator=source, dtype=torch.float64).tolist()
            before[index, method] = values[0]
            tried[index, method] = trials(minor=values[1:4], strong=values[4:])
    assert consistency(tried, before, [*"abc"], 1) == pytest.approx(chance(3), abs=0.07)


def test_a_metric_that_stays_under_small_and_falls_under_large_changes_is_consistent():
    before = {(n, m): 1.0 + n + k for n in range(10) for k, m in enumerate("ab")}
    tried = {key: trials(minor=[value] * 3, strong=[value - 5] * 3) for key, value in before.items()}
    expected = (1 + 1 + (1 - 2 / 2**10) + 1) / 4  # of ten differences of one sign, 2 in 2^10 patterns are as extreme
    assert consistency(tried, before, [*"ab"], 1) == pytest.approx(expected)
    turned = {key: trials(minor=[value] * 3, strong=[value + 5] * 3) for key, value in before.items()}
    assert consistency(turned, before, [*"ab"], -1) == pytest.approx(expected)  # where lower is better
    missing = {key: trials(minor=[value] * 3, strong=[None] * 3) for key, value in before.items()}
    assert consistency(missing, before, [*"ab"], 1) is None


def test_reliability_is_the_correlation_of_differences_of_methods():
    # Differences a - b: 2, -1 under the first draws, 1, -2 under the second: r = 4 / 5. What both methods share
    # (the image) counts for nothing.
    values = {0: [(12, 21), (10, 20)], 1: [(5, 1), (6, 3)]}
    tried = {(n, m): trials(halves=pair) for n, pairs in values.items() for m, pair in zip("ab", pairs, strict=True)}
    assert reliability(tried, [*"ab"]) == pytest.approx(0.8)
    halved = {key: row | {"halved": True} for key, row in tried.items()}
    assert reliability(halved, [*"ab"]) == pytest.approx(2 * 0.8 / 1.8)
    assert reliability(tried, ["a"]) is None and reliability({}, [*"ab"]) is None
    assert reliability({(0, "a"): trials(), (0, "b"): trials()}, [*"ab"]) is None


def test_halves_of_draws_foretell_the_reliability_of_all_of_them():
    source, signal = torch.Generator().manual_seed(1), 1.0
    tried = {}
    for index in range(4000):
        for method in "ab":
            own = signal * torch.randn(1, generator=source).item()
            noise = torch.randn(2, generator=source) * 2**0.5  # half the draws, twice the variance
            tried[index, method] = trials(halves=(own + noise).tolist(), halved=True)
    assert reliability(tried, [*"ab"]) == pytest.approx(0.5, abs=0.04)  # signal 1 of a variance of 2


def test_bootstraps_swap_what_differs_by_chance():
    assert swaps({"a": [1.0, 2.0], "b": [0.0, 1.0], "c": [-9.0, -9.0]}, 1) == 0
    near = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = (near - near.mean()) / near.std(correction=0) + 0.1
    # n differences with mean m and standard deviation s: P(bootstrap mean < 0) = Phi(-m sqrt(n) / s)
    expected = stats.norm.cdf(-0.1 * 40**0.5)
    assert swaps({"a": near.tolist(), "b": [0.0] * 40}, 1) == pytest.approx(expected, abs=0.05)
    assert swaps({"a": [1.0, 2.0], "b": [0.0, 1.0]}, -1) == 0  # where lower is better, b leads always


def test_a_score_that_falls_as_the_map_is_spoilt_has_degradation_1():
    falling = {(n, "a"): trials(degraded=[0.8, 0.6, 0.4, 0.2, 0.0]) for n in range(3)}
    before = dict.fromkeys(falling, 1.0)
    assert degradation(falling, before, ["a"], 1) == pytest.approx(1)
    assert degradation(falling, before, ["a"], -1) == pytest.approx(-1)
    assert degradation(falling, dict.fromkeys(falling), ["a"], 1) is None
    swapped = {(0, "a"): trials(degraded=[0.8, 0.6, 0.4, 0.0, 0.2])}
    assert degradation(swapped, {(0, "a"): 1.0}, ["a"], 1) == pytest.approx(1 - 6 * 2 / (6 * 35))


def test_a_permutation_moves_a_share_of_the_pixels_and_keeps_the_rest():
    place = _permutation("key", 1000, 200)
    assert place.sort().values.tolist() == list(range(1000))
    assert 190 < (place != torch.arange(1000)).sum() <= 200
    assert torch.equal(_permutation("key", 50, 0), torch.arange(50))


@pytest.fixture
def evidence(tiny):
    x = random_images(3, 3, 16, 16)
    return Evidence(x, ["a", "b", "c"], x, tiny(x).argmax(1), tiny)


def test_trials_hold_what_they_say(evidence):
    methods = {text: ATTRIBUTIONS.make(text) for text in ("gradient", "centre")}
    maps = {
        name: method(evidence.model, evidence.x, evidence.target, evidence.keys).map for name, method in methods.items()
    }
    metrics = {text: METRICS.make(text) for text in ("infidelity:draws=8", "randomisation:stages=1", "sparseness")}
    weights = {name: value.clone() for name, value in evidence.model.state_dict().items()}
    found = try_metrics(methods, metrics, evidence, maps, evidence.target)
    row = found["gradient"][1]
    assert row["infidelity:draws=8"].halved and not row["sparseness"].halved
    assert len(set(row["infidelity:draws=8"].halves)) == 2 and len(set(row["sparseness"].halves)) == 1
    assert len(set(row["randomisation:stages=1"].halves)) == 2  # another seed
    assert (row["randomisation:stages=1"].degraded, row["randomisation:stages=1"].minor) == ([], ())
    assert len(row["infidelity:draws=8"].degraded) == 5 and len(set(row["infidelity:draws=8"].degraded)) == 5
    shuffled = row["sparseness"].degraded
    assert shuffled == pytest.approx([shuffled[0]] * 5)  # blind to where the pixels are
    assert len(row["sparseness"].minor) == len(row["sparseness"].strong) == 3
    assert found["centre"][1]["sparseness"].minor == pytest.approx([found["centre"][1]["sparseness"].halves[0]] * 3)
    assert all(torch.equal(value, weights[name]) for name, value in evidence.model.state_dict().items())


def test_disturbances_are_small_or_large_and_fit_where_predictions_stay_or_change(evidence):
    found = [(d.strong, d.fits, d.model) for d in _disturbances(evidence, evidence.target)]
    assert [strong for strong, _, _ in found] == [False] * 3 + [True] * 3
    old = dict(evidence.model.named_parameters())
    for strong, fits, model in found:
        changed = model(evidence.x).argmax(1) != evidence.target
        assert fits == (changed == strong).tolist()
        ratios = torch.cat([(p / old[name]).flatten() for name, p in model.named_parameters()])
        ratios = ratios[ratios.isfinite()]  # biases of 0 stay so
        assert ratios.std().item() == pytest.approx(2.0 if strong else 0.001, rel=0.2)


def test_no_star_where_a_metric_does_not_see_that_maps_are_spoilt():
    row = TrustRow("aupc", 32, 3, 0.95, 0.36, -0.47, 1, None, chance(3), 68.84)
    (line,) = VIEW.remarks({"results": [], "removals": [], "trust": [dataclasses.asdict(row)]})
    assert line.style == "warn" and line.text == (
        "`aupc`: reliability 0.95, the first two swap in 36% of bootstraps, degradation -0.47, so no method is marked "
        "best, best control at place 1 of 3 (32 images, 68.8 s)"
    )


def test_a_directionless_metric_has_a_reliability_alone():
    records = [
        {
            "index": n,
            "method": m,
            "scores": {"randomisation": {"value": 0.1 * n}},
            "trust": {"randomisation": trials((n, n))},
        }
        for n in range(3)
        for m in "ab"
    ]
    (row,) = trust(records, [*"ab"], {"randomisation": METRICS.make("randomisation")}, {"b"})
    assert (row.swaps, row.degradation, row.control_rank, row.consistency) == (None,) * 4
    assert (row.images, row.methods, row.seconds) == (3, 2, 3.0)


def test_trust_needs_methods():
    with pytest.raises(UsageError, match="`--trust` makes maps"):
        Score(maps="maps", trust=True)


def test_a_run_that_was_begun_before_trust_goes_on_without_it():
    assert (
        "trust" not in Score(images=("a.png",)).recorded() and Score(images=("a.png",), trust=True).recorded()["trust"]
    )


def test_the_command_says_how_far_metrics_can_be_trusted_and_resumes(place):
    typed = ("-m", "gradient", "-m", "centre", "-s", "sparseness", "-s", "emprt", "--trust", "--no-figure", "--json")
    command = ("score", "a.png", "b.jpg", *typed, "--model", "net.safetensors", "-o", "trust")
    done = stochx(*command, cwd=place)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    sparse, emprt = document["trust"]
    assert (sparse["metric"], sparse["images"], sparse["methods"]) == ("sparseness", 2, 2)
    assert (
        sparse["reliability"] == pytest.approx(1) and sparse["degradation"] < 0.9 and sparse["control_rank"] in (1, 2)
    )
    assert emprt["degradation"] is None and not any(row["best"] for row in document["results"])
    again = stochx(*command, "--resume", cwd=place)
    assert again.returncode == 0 and json.loads(again.stdout)["trust"] == document["trust"]
