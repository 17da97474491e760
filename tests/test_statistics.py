"""Intervals cover what they should, tests reject what they should, and scipy agrees."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stochx.catalog import METRICS
from stochx.engine import statistics
from stochx.engine.statistics import (
    Estimate,
    all_pairs,
    estimate,
    holm,
    interval,
    mean_difference,
    mean_share,
    paired_p,
    paired_ps,
    student,
    wilson,
)
from stochx.tasks import comparison, robustness


def draws(*shape: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, size=shape)


def test_an_estimate_carries_students_interval():
    values = draws(7).tolist()
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = estimate(values)
    assert found.n == 7 and found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_few_values_have_no_interval():
    assert math.isnan(estimate([0.3]).low) and estimate([0.3]).mean == 0.3
    assert math.isnan(estimate([]).mean) and math.isnan(estimate([]).low) and math.isnan(mean_share([]).high)
    assert estimate([0.5, 0.5, 0.5]) == Estimate(0.5, 0.5, 0.5, 3)
    assert estimate([0.3], (-1.0, 1.0)) == Estimate(0.3, -1.0, 1.0, 1)


@pytest.mark.parametrize("freedom", [*range(1, 31), 100, 10_000])
def test_students_quantile_agrees_with_scipy(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_intervals_of_three_values_cover_the_mean():
    found = [estimate(row) for row in draws(4000, 3).tolist()]
    assert np.mean([e.low <= 0 <= e.high for e in found]) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("n", [2, 3, 6, 9])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_all_sign_flips_agree_with_scipy(n, shift):
    d = draws(n, seed=n, shift=shift)
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert paired_p(d.tolist()) == expected.pvalue


def test_all_sign_flips_by_hand():
    assert paired_p([1.0, 2.0, 3.0]) == 2 / 8
    assert paired_p([-1.0, 2.0, 3.0]) == 4 / 8  # |4| is reached by +-(1, 2, 3) and +-(-1, 2, 3)
    assert paired_p([0.1] * 6) == 2 / 64
    assert paired_p([0.0] * 5) == 1


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_drawn_sign_flips_tend_to_the_t_test(shift):
    d = draws(200, seed=2, shift=shift)
    assert paired_p(d.tolist()) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)


def test_drawn_and_all_sign_flips_agree(monkeypatch):
    d = draws(12, seed=3, shift=0.4).tolist()
    exact = paired_p(d)
    monkeypatch.setattr(statistics, "EXACT", 0)
    assert paired_p(d) == pytest.approx(exact, abs=0.01)


def test_drawn_sign_flips_repeat_and_are_never_zero():
    d = draws(300, seed=4, shift=0.1).tolist()
    assert paired_p(d) == paired_p(d) != paired_p(d, seed=1)
    assert paired_p([1.0] * 300) == 1 / 20_001


def test_a_p_value_knows_neither_unit_nor_sign_nor_order():
    d = draws(9, seed=5, shift=0.7)
    for same in (-d, 1e-9 * d, d[::-1]):
        assert paired_p(same.tolist()) == paired_p(d.tolist())


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_what_cannot_be_tested_has_no_p_value(bad):
    assert math.isnan(paired_p(bad))


@pytest.mark.parametrize("law", ["normal", "laplace", "standard_cauchy"])
def test_six_alike_are_rejected_in_a_twentieth_of_cases_at_most(law):
    sets = getattr(np.random.default_rng(6), law)(size=(2000, 6))
    assert np.mean([paired_p(d) <= 0.05 for d in sets.tolist()]) < 0.06


def test_a_bootstrap_would_reject_six_alike_too_often():
    """Why there is none: its percentile interval is too short for few differences."""
    chance, sets = np.random.default_rng(7), draws(1000, 6, seed=8)
    means = np.take_along_axis(sets[:, None], chance.integers(0, 6, (1000, 500, 6)), 2).mean(2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert np.mean((low > 0) | (high < 0)) > 0.1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.02]) == [0.02]


def test_holm_leaves_out_what_was_not_tested():
    first, second, third = holm([0.02, math.nan, 0.03])
    assert (first, third) == (0.04, 0.04) and math.isnan(second)


def test_holm_keeps_the_order_and_never_lowers():
    p = np.random.default_rng(9).uniform(0, 0.2, 30)
    adjusted = np.array(holm(p.tolist()))
    assert (adjusted >= p).all() and (np.diff(adjusted[p.argsort()]) >= 0).all() and adjusted.max() <= 1


COVERAGE = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "coverage.py"))
SHAPES, DIFFERENCES = COVERAGE["SHAPES"], COVERAGE["DIFFERENCES"]


def samples(law, n, count=2000):
    return law(np.random.default_rng(0), (count, n)).tolist()


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("law", SHAPES)
def test_the_interval_of_a_mean_share_covers_it(law, n):
    draw, mean = SHAPES[law]
    intervals = [mean_share(shares) for shares in samples(draw, n)]
    assert all(0 <= each.low <= each.mean <= each.high <= 1 for each in intervals)
    assert np.mean([each.low <= mean <= each.high for each in intervals]) >= 0.93


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("law", DIFFERENCES)
def test_the_interval_of_a_difference_of_shares_covers_it(law, n):
    draw, mean = DIFFERENCES[law]
    intervals = [mean_difference(gaps) for gaps in samples(draw, n)]
    assert all(-1 <= each.low < each.high <= 1 for each in intervals)
    assert np.mean([each.low <= mean <= each.high for each in intervals]) >= 0.93


@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_wilson_covers_a_share_in_95_percent_on_average_over_shares(n):
    k, shares = np.arange(n + 1), np.linspace(0.01, 0.99, 99)
    ends = np.array([(found.low, found.high) for found in (wilson(int(each), n) for each in k)])
    covered = [stats.binom.pmf(k, n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() for p in shares]
    assert 0.945 < np.mean(covered) < 0.965
    assert np.mean(np.array(covered) < 0.91) < 0.05


@pytest.mark.parametrize("successes", [0, 1, 7, 10])
def test_wilson_agrees_with_scipy(successes):
    theirs = stats.binomtest(successes, 10).proportion_ci(0.95, "wilson")
    found = wilson(successes, 10)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("law", ["right or wrong in all draws, 0.1", "beta(0.05, 0.95): long tail"])
def test_students_interval_would_miss_a_skewed_mean_share(law):
    draw, mean = SHAPES[law]
    students = [estimate(shares) for shares in samples(draw, 10)]
    assert np.mean([each.low <= mean <= each.high for each in students]) < 0.8


def test_ten_right_of_ten_are_not_certainly_all():
    for found in (wilson(10, 10), mean_share([1.0] * 10), interval([1.0] * 10, (0.0, 1.0))):
        assert (found.mean, found.high) == (1, 1) and found.low == pytest.approx(0.7225, abs=1e-4)
    assert mean_share([0.0] * 10).high == pytest.approx(0.2775, abs=1e-4)


def test_the_interval_of_a_mean_share_by_hand():
    found, half = mean_share([0.5] * 10), 2.262157 * (1.25 * 0.5) ** 0.5 / 12.5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)
    one = mean_share([0.5])
    assert (one.low, one.high) == (0, 1)


def test_an_interval_stays_within_the_bounds():
    wide = estimate([0.0, 0.0, 3.0], (0.0, math.inf))
    assert wide.low == 0 and wide.high > 4
    assert interval([0.9, 1.0, 1.0], (-1.0, 1.0)).high == 1
    above = interval([1 + 1e-7, 1.0], (0.0, 1.0))
    assert above.low <= above.mean <= above.high


def test_the_score_of_one_image_has_no_interval():
    assert math.isnan(interval([0.3], (0.0, 1.0)).low) and math.isnan(interval([1.0], (-1.0, 1.0)).high)


def test_values_of_0_and_1_alone_are_counts():
    hits = [1.0, 0.0, 1.0, 1.0]
    assert interval(hits, (0.0, 1.0)) == wilson(3, 4) != mean_share(hits)
    assert interval([1.0, 0.0, 0.5], (0.0, 1.0)) == mean_share([1.0, 0.0, 0.5])


def test_equal_methods_seldom_have_a_small_p_with_whichever_is_best():
    alone, pairs, star = COVERAGE["false_alarms"](8, 12, 400)
    assert pairs <= 0.05 < alone and star <= 0.05


def test_two_best_methods_of_eight_seldom_get_a_star():
    rng, stars = np.random.default_rng(0), 0
    for _ in range(400):
        values = {str(m): (rng.normal(size=12) + 3 * (m > 1)).tolist() for m in range(8)}
        first = min(("0", "1"), key=lambda m: sum(values[m]))
        stars += max(p for pair, p in all_pairs(values).items() if first in pair) < 0.05
    assert stars / 400 <= 0.053


def test_all_pairs_are_holms_over_all_paired_tests():
    values = {name: draws(9, seed=k, shift=k / 2).tolist() for k, name in enumerate("abc")}
    raw = [paired_p(np.subtract(values[a], values[b]).tolist()) for a, b in ("ab", "ac", "bc")]
    adjusted = all_pairs(values)
    assert [adjusted[frozenset(pair)] for pair in ("ab", "ac", "bc")] == holm(raw)


def test_tests_made_together_are_those_made_alone():
    sets = [*draws(3, 40, seed=1, shift=0.2).tolist(), [math.nan] * 40]
    together = paired_ps(sets)
    assert together[:3] == [paired_p(d) for d in sets[:3]] and math.isnan(together[3])


def test_the_row_of_a_pointing_game_of_ten_hits_is_wilsons():
    value = {"value": 1.0, "setting": "", "why": ""}
    records = [{"index": n, "method": "ig", "scores": {"pointing-game": value}} for n in range(10)]
    (row,) = comparison.summarise(records, ["ig"], {"pointing-game": METRICS.make("pointing-game")})
    assert (row.mean, row.high) == (1, 1) and row.low == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_row_of_an_attack_that_leaves_none_of_ten_right_is_wilsons(noisy):
    outcome = {"correct": 0.0, "hit": 0.0, "vote": False, "off": None, "forwards": 3, "backwards": 3}
    record = {"clean": 1.0, "off": None, "attacks": {"pgd": outcome}, "worst_attack": "pgd", "seconds": {"pgd": 0.1}}
    (row,) = robustness.summarise([record] * 10, ["pgd"], noisy, targeted=False)
    assert (row.robust, row.low) == (0, 0) and row.high == pytest.approx(0.2775, abs=1e-4)
    assert row.clean_low == pytest.approx(0.7225, abs=1e-4)
