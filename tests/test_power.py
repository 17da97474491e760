"""The smallest difference that a run finds: the closed form against its table, and against simulations of its tests."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from support import stochx

from stochx.catalog import METRICS
from stochx.engine.power import power, power_of, power_of_two
from stochx.engine.statistics import paired_ps
from stochx.errors import UsageError
from stochx.settings import Score
from stochx.tables.power import power_remark
from stochx.tasks import comparison, robustness
from stochx.tasks.doubts import fewest_images


@pytest.mark.parametrize(
    ("tests", "sizes"), [(1, [198, 89, 33, 14, 10]), (10, [337, 152, 57, 25, 17])], ids=["one", "Holm, 10"]
)
def test_images_for_a_difference_in_standard_deviations(tests, sizes):
    needed = [power(1.0, 20, tests, d).needed for d in (0.2, 0.3, 0.5, 0.8, 1.0)]
    assert all(size <= n <= size + 1 for n, size in zip(needed, sizes, strict=True)), (
        "the table rounds, a run rounds up"
    )


@pytest.mark.parametrize(("n", "tests", "sd"), [(14, 1, 3.0), (40, 1, 0.2), (500, 10, 1.0)])
def test_what_is_found_takes_as_many_images_as_there_are(n, tests, sd):
    found = power(sd, n, tests).detectable
    assert power(sd, n, tests, found * (1 + 1e-9)).needed == n


@pytest.mark.parametrize("n", [10, 14, 40, 200])
def test_in_four_of_five_simulated_runs_the_difference_is_found(n):
    found = power(1.0, n).detectable
    runs = np.random.default_rng(n).normal(found, 1.0, (20000, n))
    assert (stats.ttest_1samp(runs, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_sign_flips_find_it_as_often():
    found = power(1.0, 14).detectable
    runs = np.random.default_rng(0).normal(found, 1.0, (400, 14))
    assert np.mean([p < 0.05 for p in paired_ps(runs.tolist())]) == pytest.approx(0.8, abs=0.06)


def test_half_as_large_a_difference_takes_four_times_as_many():
    assert power(1.0, 9, 1, 0.01).needed == pytest.approx(4 * power(1.0, 9, 1, 0.02).needed, rel=1e-3)


@pytest.mark.parametrize("methods", [2, 4, 7])
def test_no_difference_is_found_where_none_can_be_significant(methods):
    pairs = math.comb(methods, 2)
    least = fewest_images(methods)
    assert power(1.0, least - 1, pairs).detectable is None and power(1.0, least, pairs).detectable > 0
    assert power(1.0, 30, pairs, 100.0).needed == least


def test_without_variance_nothing_is_known():
    assert power_of([0.5] * 20).detectable is None
    assert power_of([0.5]) is None and power_of_two([1.0]) is None


def test_another_network_on_other_images_doubles_the_variance():
    values = [1.0] * 60 + [0.0] * 40
    found = power_of_two(values, 0.02)
    assert found.sd == pytest.approx((2 * 0.6 * 0.4 * 100 / 99) ** 0.5)
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert found.detectable == pytest.approx(z * found.sd / (100 - stats.norm.ppf(0.975) ** 2 / 2) ** 0.5)
    assert found.needed == pytest.approx((z * found.sd / 0.02) ** 2, rel=1e-3)


def records(table):
    return [
        {"index": n, "method": m, "scores": {"srg": {"value": v[n], "why": "", "setting": ""}}}
        for n in range(12)
        for m, v in table.items()
    ]


def test_methods_are_compared_with_the_best_mean_where_differences_vary_most():
    rng = np.random.default_rng(0)
    base = rng.normal(size=12)
    table = {"a": base + 5, "b": base + rng.normal(0, 0.1, 12), "c": base + rng.normal(0, 0.5, 12)}
    (row,) = comparison.powers(records(table), [*"abc"], {"srg": METRICS.make("srg")}, 0.3)
    assert (row.first, row.second, row.power.tests, row.power.n) == ("a", "c", 3, 12)
    assert row.power.sd == pytest.approx(np.std(table["a"] - table["c"], ddof=1))
    (lower,) = comparison.powers(records(table), [*"ab"], {"srg": METRICS.make("deletion")}, None)
    assert lower.first == "b"
    assert not comparison.powers(records(table), [*"abc"], {"srg": METRICS.make("randomisation")}, 0.3)
    assert not comparison.powers(records(table), ["a"], {"srg": METRICS.make("srg")}, 0.3)


def test_two_networks_are_compared_on_their_common_images():
    first = [{"index": n, "worst": float(n % 2)} for n in range(20)]
    second = [{"index": n, "worst": float(n % 3 == 0)} for n in range(10)]
    gaps = [n % 2 - (n % 3 == 0) for n in range(10)]
    found = robustness.power(first, second, None)
    assert (found.n, found.sd) == (10, pytest.approx(np.std(gaps, ddof=1)))
    alone = robustness.power(first, None, None)
    assert (alone.n, alone.sd) == (20, pytest.approx(2**0.5 * np.std([0.0, 1.0] * 10, ddof=1)))


def test_draws_take_the_noise_of_verdicts_off():
    """Simulated: a verdict is a mean of draws, and as many images find the difference with the draws that are named."""
    source, n, delta = np.random.default_rng(0), 4000, 0.015

    def run(draws, gap=0.0):
        rights = np.clip(0.5 + gap / 2 * np.array([[1], [-1]]) + source.normal(0, 0.1, (2, n)), 0, 1)
        worst = source.binomial(draws, rights) / draws
        return [[{"index": k, "worst": float(w)} for k, w in enumerate(row)] for row in worst]

    def finds(first, second):
        gaps = np.array([a["worst"] - b["worst"] for a, b in zip(first, second, strict=True)])
        return gaps.mean() / gaps.std(ddof=1) * n**0.5 > 1.96

    first, second = run(2)
    found = robustness.power(first, second, delta)
    needed = robustness.draws_needed(found, first, second, 2)
    assert found.detectable > 1.2 * delta and needed > 2
    assert 0.9 * delta < robustness.power(*run(needed), delta).detectable <= 1.02 * delta
    assert 0.75 <= np.mean([finds(*run(needed, delta)) for _ in range(200)]) <= 0.92
    assert np.mean([finds(*run(2, delta)) for _ in range(200)]) < 0.7


def test_no_number_of_draws_replaces_images_that_differ():
    certain = [{"index": k, "worst": float(k % 2)} for k in range(30)]
    turned = [{"index": k, "worst": float(k % 3 == 0)} for k in range(30)]
    assert robustness.draws_needed(robustness.power(certain, turned, 0.01), certain, turned, 20) is None
    assert robustness.draws_needed(robustness.power(certain, turned, 0.9), certain, turned, 20) is None, "it is found"
    assert robustness.draws_needed(robustness.power(certain, None, None), certain, None, 20) is None


def text(found):
    return power_remark(vars(found), "`srg`", "images", "{:.2f}".format).text


def test_the_line_says_what_is_found_and_what_it_takes():
    assert text(power(1.0, 33, 1, 0.2)) == (
        "`srg`: a difference of 0.50 is found in 4 of 5 cases (n = 33 images); 0.20 takes 199 images"
    )
    row = vars(power(1.0, 33, 1, 0.2)) | {"draws": 64}
    assert power_remark(row, "`srg`", "images", "{:.2f}".format).text.endswith("images, or 64 draws on these")
    assert text(power(1.0, 3, 3)) == "`srg`: n = 3 images finds no difference of any size, Holm over 3 pairs"
    assert "nothing varies" in text(power(0.0, 30))


def test_a_difference_must_be_positive():
    with pytest.raises(UsageError, match="--power"):
        Score(images=("a.png",), power=0.0)


def test_the_command_says_what_it_could_have_found(place):
    names = [f"p{n}.png" for n in range(6)]
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(place / name)
    typed = ("-m", "gradient", "-m", "random", "-s", "sparseness", "--power", "0.01", "--no-figure", "--json")
    done = stochx("score", *names, *typed, "--model", "net.safetensors", "-o", "power", cwd=place)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["power"]
    assert (row["metric"], row["n"], row["tests"], row["delta"]) == ("sparseness", 6, 1, 0.01)
    assert {row["first"], row["second"]} == {"gradient", "random"} and row["detectable"] > 0 and row["needed"] >= 6
