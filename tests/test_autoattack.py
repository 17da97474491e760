"""AutoAttack: against its authors' code, and what it costs."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from attacking import UNJUDGED, Binary, fooled, run
from conftest import random_images
from torch import Tensor, nn

from stochx.attacks import APGD, AutoAttack, AutoAttackRand, Context, Rand
from stochx.attacks._search import HalvingSteps, Search, stages, start
from stochx.engine.ascent import Evaluation
from stochx.engine.gradients import logits
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.threat import Ball, Norm

NAMES: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
QUIET = logging.getLogger("peer")  # otherwise a zero gradient is a warning, and so an error
QUIET.setLevel(logging.ERROR)
EPS: dict[Norm, float] = {"linf": 0.03, "l2": 0.6, "l1": 5.0}


def theirs(network: nn.Module, x: Tensor, y: Tensor, ball: Ball, loss: str, steps: int) -> Tensor:
    """The best points that the authors' APGD finds from our first point."""
    peer = pytest.importorskip("pyautoattack.autopgd_base")
    points = start(x, stages(ball, steps)[0][0], [f"key {n}" for n in range(len(x))], 0, 0)
    for region, count in stages(ball, steps):
        apgd = peer.APGDAttack(network, count, NAMES[ball.norm], eps=region.eps, loss=loss, device="cpu", logger=QUIET)
        apgd.init_hyperparam(x)
        points = apgd.attack_single_run(x, y, x_init=region.project(points, x))[0]
    return points


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_apgd_is_the_apgd_of_autoattack(norm, loss, trained, waves):
    network, x, y = copy.deepcopy(trained).float(), waves[0].float(), waves[1]  # the peer works in float32
    expected = theirs(network, x, y, Ball(EPS[norm], norm), loss, 100)
    found = run(APGD(100, loss, density=0), network, x, y, norm, EPS[norm], **UNJUDGED).x
    ours, other = (LOSSES[loss](logits(network, points), Goal(y)) for points in (found, expected))
    close = (ours - other).abs() <= 1e-3 * other.abs()
    assert close.double().mean() >= (0.75 if norm == "l1" else 0.9), (ours - other).abs().sort().values
    assert (ours - other).median().abs() <= 1e-4 * other.median().abs()  # single images part at a rounding


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_images_that_fall_are_those_of_the_authors_code(norm, trained, waves):
    peer = pytest.importorskip("pyautoattack")
    network, x = copy.deepcopy(trained).float(), waves[0].float()[:15]
    y = logits(network, x).argmax(1)
    theirs = peer.AutoAttack(network, norm=NAMES[norm], eps=EPS[norm], seed=0, version="custom", attacks=[])
    theirs.logger.setLevel(logging.ERROR)
    theirs.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 4  # of five classes
    theirs.square.n_queries = 300
    theirs.apgd.n_restarts, theirs.apgd.use_largereps = (5, True) if norm == "l1" else (1, False)
    theirs.apgd_targeted.use_largereps = norm == "l1"
    expected = logits(network, theirs.run_standard_evaluation(x, y)[0]).argmax(1) != y
    found = fooled(AutoAttack(queries=300), network, x, y, norm, EPS[norm])
    by_luck = 1 if norm == "l1" else 0  # over three seeds each, both leave one image more or less in L1, none elsewhere
    assert (found != expected).sum() <= by_luck and found.any() and not found.all()


def test_every_attack_costs_what_it_should(trained, waves):
    x, y = waves[0], logits(trained, waves[0]).argmax(1)
    found = run(AutoAttack(steps=4, queries=20), trained, x, y, eps=1e-4)
    survivors = logits(trained, found.x).argmax(1) == y
    apgd, apgd_t, fab_t, square = 4 + 1, 4 * (4 + 1), 4 * 4 * 2, 20 + 1
    assert set(found.forwards[survivors].tolist()) == {apgd + apgd_t + fab_t + square}
    found = run(AutoAttack(steps=10, queries=20), trained, x, y, "l1", 1e-4)
    survivors = logits(trained, found.x).argmax(1) == y
    apgd, apgd_t, fab_t = 5 * (10 + 3), 4 * (10 + 3), 4 * 10 * 2
    assert set(found.forwards[survivors].tolist()) == {apgd + apgd_t + fab_t + square}


def test_no_image_is_left_that_a_part_breaks(trained, waves):
    x, y = waves
    whole = fooled(AutoAttack(steps=10, queries=20), trained, x, y)
    for part in "apgd:steps=10", "apgd:steps=10,loss=targeted-dlr", "fab:steps=10":
        assert (whole | ~fooled(part, trained, x, y)).double().mean() > 0.96, part


def test_with_too_few_classes_for_dlr_the_margin_stands_in(linear):
    x, binary = random_images(6, 1, 4, 4), Binary().eval()
    for model, y in (linear, linear(x).argmax(1)), (binary, binary(x).argmax(1)):
        assert fooled(AutoAttack(steps=5, queries=20), model, x, y, eps=0.9).all()


def test_autoattack_rand_is_rand_with_twenty_draws(trained, waves):
    x, y = waves[0][:4], waves[1][:4]
    context = Context(keys=range(4), pick=lambda points: points.new_zeros(len(points)))
    ours, known = (attack(trained, x, y, Ball(0.03), context) for attack in (AutoAttackRand(3), Rand(3, eot=20)))
    assert torch.equal(ours.x, known.x) and set(ours.forwards.tolist()) == {2 * 4 * 20}


def paced(losses: list[float], start: float) -> HalvingSteps:
    """The step rule of 100 steps after steps with these losses."""
    center = torch.zeros(1, 3, 2, 2)
    search = Search.begin(center, center + 0.1, Evaluation(torch.tensor([start]), center, torch.zeros(1, 4), 1, 1))
    pace = HalvingSteps.begin(search, Ball(0.5), 100, 0.75, 0.2)
    for step, loss in enumerate(losses, 1):
        evaluation = Evaluation(torch.tensor([loss]), center, torch.zeros(1, 4), 1, 1)
        pace.record(search, evaluation)
        search.move(center, evaluation)
        pace.check(search, step)
    return pace


def test_steps_halve_as_in_the_authors_code():
    rising = [0.1 * n for n in range(1, 23)]
    assert paced(rising, start=0.0).length.item() == 1  # 22 rises of 22
    few = rising[:17] + [0.0] * 5
    assert paced(few, start=9.0).length.item() == 1  # 17 of 22, more than 16.5: the first loss is above 0
    below = [loss - 9 for loss in few]
    assert paced(below, start=-10.0).length.item() == 0.5  # the same rises, but the first loss is not above 0
    third = [0.1 * n for n in range(1, 42)] + [4.2 + 0.1 * n for n in range(12)] + [0.0] * 4
    assert paced(third, start=0.0).length.item() == 0.5  # 12 rises of 16 do not suffice
