"""Attacks in L1: sparse steps, and balls that the box cuts off (Croce & Hein, 2021)."""

from __future__ import annotations

import pytest
import torch
from attacking import UNJUDGED, Binary, fooled, run
from conftest import random_images, shared
from support import cifar_test_images

from stochx.attacks import APGD, PGD, Rand
from stochx.attacks._search import Search, SparseSteps, stages
from stochx.engine.ascent import Evaluation
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import Ball
from stochx.loading import load_model


def greedy(x, y, w, eps):
    """The worst point for a linear network: the strongest weights in turn, each as far as the box lets it go."""
    best = x.clone().flatten(1)
    for row, way in zip(best, w * (1 - 2 * y)[:, None], strict=True):
        left = eps
        for place in way.abs().argsort(descending=True).tolist():
            step = min(left, float(1 - row[place] if way[place] > 0 else row[place]))
            row[place] += step * way[place].sign()
            left -= step
    return best.view_as(x)


@pytest.mark.parametrize("eps", [0.2, 1.0])
def test_a_linear_network_is_attacked_at_the_strongest_weights_that_have_room(eps):
    model, x = Binary().eval(), random_images(6, 1, 4, 4)
    y = model(x).argmax(1)
    best = margin(model(greedy(x, y, model.w.detach(), eps)), Goal(y))
    found = margin(model(run(APGD(steps=100), model, x, y, "l1", eps, **UNJUDGED).x), Goal(y))
    torch.testing.assert_close(found, best, rtol=0, atol=1e-6)


def test_wider_balls_come_first_and_only_the_last_is_judged(trained, waves):
    x, y = waves
    assert stages(Ball(1, "l1"), 10) == [(Ball(3, "l1"), 3), (Ball(2, "l1"), 3), (Ball(1, "l1"), 4)]
    assert stages(Ball(1, "l1"), 1) == [(Ball(1, "l1"), 1)] and stages(Ball(1, "l2"), 9) == [(Ball(1, "l2"), 9)]
    found = run(APGD(steps=10), trained, x, y, "l1", 5.0)
    wrong = fooled(APGD(steps=10), trained, x, y, "l1", 5.0)
    assert wrong.any() and not wrong.all() and found.step[wrong].min() >= 6  # the steps of the wider balls
    assert set(found.forwards[~wrong].tolist()) == {10 + 3} and found.forwards[wrong].min() == 3 + 1 + 3 + 1 + 1


def test_steps_become_as_sparse_as_what_paid_and_whole_again_when_that_is_sparser():
    center = torch.zeros(2, 3, 4, 4)
    search = Search.begin(center, center + 1, Evaluation(torch.zeros(2), center + 1, torch.zeros(2, 5), 1, 1))
    pace = SparseSteps.begin(search, Ball(2.0, "l1"), 100, 0.75, 0.2)
    assert pace.every == 4 and pace.length.tolist() == [2, 2] and pace.moved.tolist() == pytest.approx([9.6, 9.6])
    search.best[0].flatten()[:18] = 0  # thirty of 48 values stay changed in one image, all in the other
    pace.check(search, 4)
    assert pace.moved.tolist() == pytest.approx([20, 32]) and pace.length.tolist() == pytest.approx([2, 2 / 1.5])
    assert torch.equal(search.points[0], search.best[0])
    assert SparseSteps.begin(search, Ball(2.0, "l1"), 100, 0.75, 0).moved.tolist() == pytest.approx([20, 32])
    for step in range(8, 80, 4):
        pace.check(search, step)
    assert pace.length.tolist() == pytest.approx([0.2, 0.2])


def test_averaged_losses_go_along_too(trained, waves):
    x, y = waves
    both = fooled(Rand(steps=20, eot=1), trained, x, y, "l1", 5.0)
    assert both.sum() >= fooled(APGD(steps=20), trained, x, y, "l1", 5.0).sum() > 0


def test_on_a_robust_network_apgd_is_far_stronger_than_pgd():
    model = load_model(str(shared("weights_cifar10/robust_resnet2b.safetensors"))).eval().requires_grad_(False)
    x, y = cifar_test_images(64)
    left = [int((~fooled(attack, model, x, y, "l1", 4.0)).sum()) for attack in (APGD(steps=40), PGD(steps=40))]
    assert left[0] <= 0.75 * left[1]
