"""Warnings of results that are mostly noise, with the setting that would mend them."""

from __future__ import annotations

import pytest
import torch
from support import stochx

from stochx.attributions import LRP, Gradient, IntegratedGradients, SmoothGrad, SmoothTaylor
from stochx.engine.montecarlo import monte_carlo
from stochx.engine.statistics import all_pairs
from stochx.tasks.doubts import GOAL, NOISY, Accuracy, doubt, doubts, fewest_images


def of(method="m", error=None, gap=None, logit=9.8):
    return Accuracy(method, error, gap, logit)


def test_a_map_is_doubtful_above_its_thresholds():
    assert doubt(of(error=0.83)) == "noisy" and doubt(of(error=0.49)) is None
    assert doubt(of(gap=-9.8)) == "incomplete" and doubt(of(gap=2.0)) is None and doubt(of(gap=-2.6)) == "incomplete"
    assert doubt(of()) is None


def test_a_noisy_map_names_the_setting_that_mends_it():
    (text,) = doubts([of(error=0.83)], {"m": SmoothTaylor(roots=150)})
    assert text == "`m`: the map is mostly noise, with a Monte-Carlo error of 0.83: `roots=1200` would bring it to 0.3"
    assert "`samples=" in doubts([of(error=0.6)], {"m": SmoothGrad()})[0]
    assert "`draws=40`" in doubts([of(error=0.6)], {"m": IntegratedGradients(baseline="noise", draws=10)})[0]
    assert "`--draws 64`" in doubts([of(error=0.6)], {"m": Gradient()}, draws=16)[0]
    assert "with `roots`" in doubts([of(error=100.0)], {"m": SmoothTaylor()})[0], "no number is made up"


def test_the_named_setting_brings_the_error_to_its_goal():
    def draw(active, indices):
        noise = torch.stack([torch.randn(4, 1, 40, 40, generator=torch.Generator().manual_seed(i)) for i in indices])
        halves = [noise[[n for n, i in enumerate(indices) if i % 2 == side]].sum(0) for side in (0, 1)]
        return torch.stack(halves)[:, None] + 0.15 * (len(indices) / 2)

    error = monte_carlo(draw, 4, 60).error
    assert (error > NOISY).all()
    (text,) = doubts([of(error=float(error[0]))], {"m": SmoothTaylor(roots=60)})
    count = int(text.split("roots=")[1].split("`")[0])
    assert monte_carlo(draw, 4, count).error.tolist() == pytest.approx([GOAL] * 4, rel=0.15)


def test_an_incomplete_map_names_what_makes_it_more_complete():
    (lrp,) = doubts([of(gap=-9.8)], {"m": LRP()})
    assert "incomplete, with a gap of -9.80 at a logit of 9.80" in lrp and "`composite`" in lrp
    assert "biases and other constants absorb" in lrp and "softmax" not in lrp
    assert "softmax, biases and other constants absorb" in doubts([of(gap=-9.8)], {"m": LRP("attn-lrp")})[0]
    assert "`steps`" in doubts([of(gap=5.0)], {"m": IntegratedGradients()})[0]


def test_a_method_is_warned_about_once():
    rows = [of("a", error=0.6), of("a", error=0.9), of("a", error=0.1), of("b", error=0.1)]
    (text,) = doubts(rows, {"a": SmoothTaylor(), "b": SmoothTaylor()})
    assert text.startswith("`a`: 2 of 3 maps are mostly noise, with a Monte-Carlo error of up to 0.90")


@pytest.mark.parametrize("methods", [2, 3, 5])
def test_a_best_method_is_possible_with_the_fewest_images_and_not_with_one_less(methods):
    n = fewest_images(methods)
    least, less = (max(all_pairs({str(m): [1.0 * m] * k for m in range(methods)}).values()) for k in (n, n - 1))
    assert least < 0.05 <= less


def test_explain_and_score_warn(place):
    few = ("a.png", "b.jpg", "-m", "smoothtaylor:roots=4", "--model", "net.safetensors", "--no-figure")
    done = stochx("explain", *few, "-o", "doubtful", cwd=place)
    assert "warning: `smoothtaylor:roots=4`: " in done.stderr and "mostly noise" in done.stderr
    done = stochx("score", *few, "-m", "gradient", "-s", "sparseness", "-o", "doubtful-scores", cwd=place)
    assert "mostly noise" in done.stderr
    assert "warning: n = 2 is too few for a significant best of 2 methods: use at least 6 images" in done.stderr
    assert stochx("explain", "a.png", *few[2:], "-o", "quiet", "-q", cwd=place).stderr == ""
