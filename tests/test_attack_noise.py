"""Networks that only seem robust, and stochastic ones."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from conftest import Linear, random_images
from torch import nn
from torch.nn import functional as F

from stochx.attacks import (
    APGD,
    PGD,
    Context,
    DeepFool,
    Rand,
    Square,
    Standard,
)
from stochx.engine.ascent import loss_gradient, loss_value
from stochx.engine.device import select_runtime
from stochx.engine.gradients import logits
from stochx.engine.losses import Goal, cross_entropy, margin
from stochx.engine.network.fused import fused
from stochx.engine.threat import Ball

with warnings.catch_warnings():
    warnings.simplefilter("ignore")

from attacking import fooled, run

# Networks that only seem robust


class Rounded(nn.Module):
    """A network that sees few shades: its gradient is 0 almost everywhere."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.round(x * 40) / 40)


class Loud(nn.Module):
    """A network with huge logits: the softmax of float32 is exactly 0 and 1, the cross entropy has no slope."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 1e4 * self.network(x)


def test_rounded_pixels_hide_from_gradients_and_not_from_square(linear):
    model, x = Rounded(linear).eval(), random_images(24, 1, 4, 4)
    y = model(x).argmax(1)
    broken = {name: int(fooled(name, model, x, y, eps=0.1).sum()) for name in ("pgd", "square:queries=300")}
    assert broken["pgd"] <= 4 and broken["square:queries=300"] >= 18


def test_huge_logits_hide_from_cross_entropy_and_not_from_margins():
    model, x = Loud(Linear()).float().eval(), random_images(24, 1, 4, 4).float()
    y = model(x).argmax(1)
    for blind in PGD(), APGD(steps=30):
        assert fooled(blind, model, x, y, eps=0.1).sum() <= 4
    for seeing in PGD(loss="margin"), PGD(loss="dlr"), APGD(steps=30, loss="dlr"), DeepFool(), Square(queries=300):
        assert fooled(seeing, model, x, y, eps=0.1).sum() >= 18, seeing


@pytest.mark.parametrize("attack", [DeepFool(), Square(queries=60)])
def test_what_compares_small_differences_ignores_a_low_precision(attack, trained, waves):
    model, x, y = copy.deepcopy(trained).float(), waves[0].float(), waves[1]
    full = run(attack, model, x, y)
    with select_runtime("cpu", "bf16").scope():
        low = run(attack, model, x, y, wrong=lambda z, places: model(z).argmax(1) != y[places])
    assert torch.equal(full.x, low.x)


# Stochastic networks


class Noisy(nn.Module):
    """Pixels under Gaussian noise: of each image on its own, or one draw for the whole batch."""

    def __init__(self, network, sigma, noise):
        super().__init__()
        self.network, self.sigma, self.noise = network, sigma, noise

    def forward(self, x):
        draw = torch.randn_like(x if self.noise == "sample" else x[:1])
        return self.network(x + self.sigma * draw)


@pytest.mark.parametrize("noise", ["sample", "forward"])
def test_the_spread_of_an_eot_gradient_falls_with_the_root_of_its_draws(noise, trained, waves):
    model, x, y = Noisy(trained, 0.1, noise).eval(), waves[0][:4], waves[1][:4]
    spread = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for eot in (1, 4, 16):
            drawn = torch.stack([loss_gradient(model, x, Goal(y), margin, eot).gradient for _ in range(100)])
            spread[eot] = drawn.std(0).square().mean().sqrt().item()
    assert spread[1] / spread[4] == pytest.approx(2, rel=0.2)
    assert spread[1] / spread[16] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("estimand", ["mean", "vote"])
def test_each_estimand_is_the_loss_it_names(estimand, trained, waves):
    model, x, y = Noisy(trained, 0.05, "sample").eval(), waves[0][:4], waves[1][:4]
    point = x.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        out = fused(model, x).whole(point.repeat(6, 1, 1, 1)).view(6, 4, 5)
        torch.manual_seed(3)
        found = loss_gradient(model, x, Goal(y), cross_entropy, 6, estimand)
        torch.manual_seed(3)
        seen = loss_value(model, x, Goal(y), cross_entropy, 6, estimand)
    if estimand == "vote":
        loss = F.nll_loss(out.softmax(2).mean(0).log(), y, reduction="none")
    else:
        loss = torch.stack([F.cross_entropy(o, y, reduction="none") for o in out]).mean(0)
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.gradient, torch.autograd.grad(loss.sum(), point)[0])
    torch.testing.assert_close(found.logits, out.detach().mean(0))
    torch.testing.assert_close(seen.loss, found.loss)
    assert not seen.gradient.numel() and found.forwards == seen.forwards == 6


@pytest.mark.parametrize(("noise", "batches"), [("sample", [24]), ("forward", [4] * 6)])
def test_draws_go_together_only_where_each_image_draws_its_own(noise, batches, trained, waves):
    model, seen = Noisy(trained, 0.05, noise).eval(), []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.random.fork_rng():
        loss_gradient(model, waves[0][:4], Goal(waves[1][:4]), cross_entropy, 6)
    handle.remove()
    assert [rows for rows in seen if rows > 1] == batches  # on single images, gradients and memory are measured


def test_more_draws_than_fit_are_taken_in_turns(trained, waves):
    x, y = waves
    expected = loss_gradient(trained, x, Goal(y), cross_entropy)
    for estimand in "mean", "vote":
        with select_runtime("cpu", batch_size=3).scope():
            found = loss_gradient(trained, x, Goal(y), cross_entropy, 5, estimand)
        torch.testing.assert_close(found.gradient, expected.gradient)
        torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize("attack", [PGD(5, eot=4, restarts=2), APGD(5, eot=4), Rand(5, eot=3), Standard(3, 10)])
def test_no_image_of_a_stochastic_network_leaves_and_the_choosing_draws_decide(attack, trained, waves):
    model, (x, y), asked = Noisy(trained, 0.05, "sample").eval(), waves, []

    def pick(points):
        asked.append(points.clone())
        return points.flatten(1).mean(1)  # any score: the darkest candidate is kept

    context = Context(keys=range(30), pick=pick)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = attack(model, x, y, Ball(0.02), context)
    assert len(asked) >= 1 and all(len(points) == 30 for points in asked)
    score = torch.stack([points.flatten(1).mean(1) for points in asked])
    torch.testing.assert_close(found.x.flatten(1).mean(1), score.amin(0))
    assert len(set(found.forwards.tolist())) == 1 or isinstance(attack, Standard)


def test_more_draws_find_more_of_a_noisy_network(trained, waves):
    model, (x, y) = Noisy(trained, 0.25, "sample").eval(), waves
    left = {}
    for eot in (1, 16):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            adv = PGD(10, eot=eot)(model, x, y, Ball(0.03), Context(range(30), pick=lambda z: z.new_zeros(len(z)))).x
            draws = torch.stack([logits(model, adv).argmax(1) == y for _ in range(200)])
        left[eot] = draws.double().mean().item()
    assert left[16] < left[1] - 0.02
