"""Intervals cover what they should, tests reject what they should, and scipy agrees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stochx.engine import statistics
from stochx.engine.statistics import Estimate, estimate, holm, mean_share, paired_p, student


def draws(*shape: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, size=shape)


def test_an_estimate_carries_students_interval():
    values = draws(7).tolist()
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = estimate(values)
    assert found.n == 7 and found.mean == pytest.approx(np.mean(values))
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx((low, high), abs=1e-3)


def test_few_values_have_no_interval():
    assert math.isnan(estimate([0.3]).ci95) and estimate([0.3]).mean == 0.3
    assert math.isnan(estimate([]).mean) and math.isnan(estimate([]).ci95)
    assert estimate([0.5, 0.5, 0.5]) == Estimate(0.5, 0.0, 3)


@pytest.mark.parametrize("freedom", [*range(1, 31), 100, 10_000])
def test_students_quantile_agrees_with_scipy(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_intervals_of_three_values_cover_the_mean():
    found = [estimate(row) for row in draws(4000, 3).tolist()]
    assert np.mean([abs(e.mean) <= e.ci95 for e in found]) == pytest.approx(0.95, abs=0.012)


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


SHARES = {  # distributions of an image's share of right draws, and their means
    "few wrong": (lambda rng, size: (rng.random(size) < 0.98).astype(float), 0.98),
    "tenth right": (lambda rng, size: (rng.random(size) < 0.1).astype(float), 0.1),
    "half": (lambda rng, size: (rng.random(size) < 0.5).astype(float), 0.5),
    "skewed": (lambda rng, size: rng.beta(0.05, 0.95, size), 0.05),
    "long tail": (lambda rng, size: rng.beta(0.2, 3, size), 0.2 / 3.2),
    "flat": (lambda rng, size: rng.beta(5, 5, size), 0.5),
    "some images noisy": (
        lambda rng, size: rng.binomial(32, np.where(rng.random(size) < 0.1, rng.beta(1, 3, size), 1)) / 32,
        0.9 + 0.1 / 4,
    ),
}


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize("law", SHARES)
def test_the_interval_of_a_mean_share_covers_it(law, n):
    draw, mean = SHARES[law]
    intervals = [mean_share(shares) for shares in draw(np.random.default_rng(0), (2000, n)).tolist()]
    assert all(0 <= each.low <= each.mean <= each.high <= 1 for each in intervals)
    covered = np.mean([each.low <= mean <= each.high for each in intervals])
    assert covered >= 0.93


@pytest.mark.parametrize("law", ["few wrong", "tenth right", "skewed", "some images noisy"])
def test_students_interval_would_miss_a_skewed_mean_share(law):
    draw, mean = SHARES[law]
    students = [estimate(shares) for shares in draw(np.random.default_rng(0), (2000, 10)).tolist()]
    assert np.mean([abs(each.mean - mean) <= each.ci95 for each in students]) < 0.8


def test_the_interval_of_a_mean_share_by_hand():
    none, all_of_them = mean_share([0.0] * 10), mean_share([1.0] * 10)
    assert none.mean == none.low == 0 and none.high == pytest.approx(0.34897, abs=1e-5)
    assert all_of_them.high == 1 and all_of_them.low == pytest.approx(1 - none.high)
    one = mean_share([0.5])
    assert (one.low, one.high) == (0, 1)
