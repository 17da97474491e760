"""The planted test: where the best attack is known, in every norm, under noise, and for attacks with a flaw."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from weak_evaluations import Flawed, net, shaken, untaught

from stochx.attacks import Attempt
from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.readout import LastLayer, fit_readout, last_linear, reading_out
from stochx.engine.threat import Ball
from stochx.tasks.planted import _Field, in_two_classes, planted

BALLS = [Ball(0.05), Ball(0.5, "l2"), Ball(2.0, "l1")]
KEYS = [f"key {n}" for n in range(6)]


def images(count=6, side=4):
    source = torch.Generator().manual_seed(1)
    return 0.3 + 0.4 * torch.rand(count, 3, side, side, generator=source)


def straight():
    """A linear network, whose features are its pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    return Classifier(network, ["a", "b", "c"], Preparation(4, 4)).eval().requires_grad_(False)


def field(ball, model=None):
    model = model or straight()
    layer = last_linear(model, images())
    return _Field(model, layer, images(), KEYS, ball, 0)


@dataclass(frozen=True)
class Handed:
    """The planted points themselves."""

    ball: Ball

    def __call__(self, model, x, y, ball, context):
        zero = torch.zeros_like(y)
        return Attempt(field(self.ball).plant(self.ball.norm == "linf", 0), zero, zero, zero)


@pytest.mark.parametrize("ball", BALLS, ids=lambda ball: ball.norm)
def test_planted_points_lie_on_the_surface_of_the_ball(ball):
    for corners in (True, False):
        points = field(ball).plant(corners, 0)
        assert torch.allclose(ball.length(points, images()), torch.full((6,), ball.eps), rtol=1e-5)
        assert ball.holds(points, images()).all()


@pytest.mark.parametrize("ball", BALLS, ids=lambda ball: ball.norm)
def test_on_a_linear_network_a_sound_attack_finds_every_planted_example(ball):
    attack = "apgd:steps=50" if ball.norm == "l1" else "pgd:steps=20"  # PGD's sparse steps end at the edge of [0, 1]
    result = planted(straight(), ATTACKS.make(attack), images(), KEYS, ball, 0)
    assert (result.tasks, result.failed, result.found) == (6, 0, 6) and result.regret <= 0


def test_the_best_score_of_a_linear_readout_is_no_lower_than_the_planted_one():
    ball = BALLS[0]
    here = field(ball)
    points = here.plant(True, 0)
    readout, ready = here.readout(points)
    score, at = readout(points.flatten(1)[:, None].double())[:, 0], readout(images().flatten(1)[:, None].double())[:, 0]
    assert ready.all() and (score > 0).all() and (at < 0).all()
    assert (at + ball.eps * readout.weight.abs().sum(1) >= score - 1e-6).all()  # w x + b + eps |w|_1


@pytest.mark.parametrize("ball", BALLS, ids=lambda ball: ball.norm)
def test_an_attack_that_is_handed_the_planted_points_passes(ball):
    result = planted(straight(), Handed(ball), images(), KEYS, ball, 0)
    assert result.found == 6 and result.regret == 0


@pytest.mark.parametrize(
    "attack",
    [
        ATTACKS.make("pgd:steps=20,step=0.00125"),
        Flawed(spoil=lambda gradient, step: -gradient),
        Flawed(spoil=lambda gradient, step: 0 * gradient),
    ],
    ids=["a step a hundred times too small", "a wrong sign", "a detached graph"],
)
def test_an_attack_with_a_flaw_misses_planted_examples(attack):
    result = planted(straight(), attack, images(), KEYS, BALLS[0], 0)
    assert result.found == 0 and result.regret == 1


def test_a_network_that_detaches_its_pixels_keeps_its_planted_examples_to_itself():
    model = straight()
    model.network[0].forward = lambda z: z.detach().flatten(1)
    assert planted(model, ATTACKS.make("pgd:steps=5"), images(), KEYS, BALLS[0], 0).found == 0


def test_under_noise_the_means_of_draws_judge():
    x = images(3, 16)
    result = planted(shaken(0.02)(), ATTACKS.make("pgd:steps=10,eot=2"), x, KEYS[:3], Ball(0.06), 0)
    assert result.tasks + result.failed == 3 and result.found == result.tasks > 0
    loud = planted(shaken(5.0)(), ATTACKS.make("pgd:steps=2"), x, KEYS[:3], Ball(0.06), 0)
    assert loud.failed == 3, "so much noise hides every planted example"


def test_the_network_is_left_as_it_was():
    model, x = net(), images(6, 16)
    before, modules, classes = logits(model, x), list(model.modules()), model.classes
    planted(model, ATTACKS.make("pgd:steps=2"), x, KEYS, BALLS[0], 0)
    assert torch.equal(logits(model, x), before) and list(model.modules()) == modules and model.classes == classes


def test_each_image_is_read_by_its_own_readout():
    model, x = untaught(), images(6, 16)
    layer = last_linear(model, x)
    assert layer == LastLayer("6", 384)
    here = _Field(model, layer, x, KEYS, Ball(0.06), 0)
    points = here.plant(True, 0)
    readout, _ = here.readout(points)
    with reading_out(model, layer, readout, x):
        places = torch.tensor([4, 1, 1, 0])  # as attacks leave images out, and repeat them for draws
        assert logits(model, points[places]).argmax(1).tolist() == [1] * 4
        assert logits(model, x[places]).argmax(1).tolist() == [0] * 4


def test_a_logistic_regression_separates_what_can_be_separated():
    source = torch.Generator().manual_seed(0)
    features = torch.randn(3, 20, 40, generator=source, dtype=torch.float64)
    positive = torch.arange(20) >= 18
    assert torch.equal(fit_readout(features, positive)(features) > 0, positive.expand(3, -1))


def test_a_network_that_ends_in_a_convolution_has_no_planted_test():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, [f"class {k}" for k in range(5)], Preparation(4, 4)).eval()
    assert planted(model, ATTACKS.make("fgsm"), images(), KEYS, BALLS[0], 0) is None


@pytest.mark.parametrize("text", ["apgd:loss=dlr", "apgd:loss=targeted-dlr", "pgd:loss=dlr"])
def test_the_margin_replaces_dlr_where_there_are_two_classes(text):
    assert in_two_classes(ATTACKS.make(text)).loss == "margin"
    assert in_two_classes(ATTACKS.make("pgd:loss=ce")).loss == "ce"
