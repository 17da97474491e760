"""Target classes and probabilities as losses: MultiTargeted, MALT, PMA."""

from __future__ import annotations

import math

import pytest
import torch
from attacking import UNJUDGED, fooled, run
from conftest import random_images, shared
from support import cifar_test_images
from torch import nn
from torch.nn import functional as F

from stochx.attacks import APGD, MALT, PGD, PMA, MultiTargeted
from stochx.attacks._targets import by_distance
from stochx.engine.ascent import loss_gradient
from stochx.engine.gradients import logits
from stochx.engine.losses import LOSSES, Goal, gap, margin
from stochx.engine.threat import DUALS, Ball, norm_of
from stochx.loading import load_model


class Plane(nn.Module):
    """Logits `offset + rows @ (x - 0.5)`, times `scale`, on (N, 1, 8, 8)."""

    def __init__(self, rows, offset, scale=1.0):
        super().__init__()
        self.rows = nn.Parameter(torch.as_tensor(rows, dtype=torch.float64), requires_grad=False)
        self.offset = nn.Parameter(torch.as_tensor(offset, dtype=torch.float64), requires_grad=False)
        self.scale = scale

    def forward(self, x):
        return self.scale * (self.offset.to(x) + (x - 0.5).flatten(1) @ self.rows.T.to(x))


def near_and_far():
    """Class 1 is 0.1 behind and gains 0.05 in an Linf ball of 0.1; class 2, on other pixels, 0.3 and 0.4."""
    rows = torch.zeros(3, 64)
    rows[1, :32], rows[2, 32:] = 0.5 / 32, 4 / 32
    return Plane(rows, [0.0, -0.1, -0.3]).eval()


X = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
Y = torch.zeros(4, dtype=torch.long)

# MultiTargeted


def test_where_logits_are_linear_multitargeted_is_optimal_and_the_untargeted_margin_is_not():
    model = near_and_far()
    one, each = (run(a, model, X, Y, eps=0.1, **UNJUDGED).x for a in (APGD(20, "margin"), MultiTargeted(20)))
    torch.testing.assert_close(margin(logits(model, each), Goal(Y)), torch.full((4,), 0.1).double())
    torch.testing.assert_close(logits(model, one)[:, 1] - logits(model, one)[:, 0], torch.full((4,), -0.05).double())
    assert not fooled(APGD(20, "margin"), model, X, Y, eps=0.1).any()
    assert fooled("multitargeted:steps=20", model, X, Y, eps=0.1).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_multitargeted_reaches_the_largest_gap_of_every_linear_network(norm):
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 64, generator=source, dtype=torch.float64)
    model, x = Plane(rows, torch.zeros(5)).eval(), 0.5 + 0.1 * (random_images(6, 1, 8, 8) - 0.5)
    y, eps = logits(model, x).argmax(1), {"linf": 0.02, "l2": 0.15}[norm]
    out = logits(model, x)
    best = torch.stack(
        [
            max(
                out[n, k] - out[n, y[n]] + eps * norm_of((rows[k] - rows[y[n]])[None], DUALS[norm])[0]
                for k in range(5)
                if k != y[n]
            )
            for n in range(6)
        ]
    )
    found = margin(logits(model, run(MultiTargeted(60), model, x, y, norm, eps, **UNJUDGED).x), Goal(y))
    torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-3)


def test_multitargeted_is_apgd_on_the_gap_to_every_class(trained, waves):
    x, y = waves
    typed, named = (
        run(a, trained, x, y, **UNJUDGED) for a in ("apgd:steps=6,loss=targeted-gap", "multitargeted:steps=6")
    )
    assert torch.equal(typed.x, named.x) and set(named.forwards.tolist()) == {4 * 7}


# MALT


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_network_the_first_target_has_the_nearest_boundary(norm):
    source = torch.Generator().manual_seed(1)
    steep = torch.tensor([1.0, 3, 0.3, 2, 0.5, 1.5]).double()[:, None]
    rows = steep * torch.randn(6, 64, generator=source, dtype=torch.float64)
    model, x = Plane(rows, torch.zeros(6)).eval(), random_images(20, 1, 8, 8)
    out = logits(model, x)
    y = out.argmax(1)
    distance = torch.full((20, 6), torch.inf).double()
    for n in range(20):
        for k in set(range(6)) - {int(y[n])}:
            distance[n, k] = (out[n, y[n]] - out[n, k]) / norm_of((rows[y[n]] - rows[k])[None], DUALS[norm])[0]
    likely = out.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :5]
    order = by_distance(model, x, Goal(y), likely, Ball(0.1, norm), 1)
    assert torch.equal(order, distance.argsort(dim=1)[:, :5])
    assert (order[:, 0] != likely[:, 0]).any()  # the most probable class is not always the nearest


def test_malt_breaks_with_one_target_what_the_most_probable_class_does_not():
    model = near_and_far()
    attacks = "apgd:steps=20,loss=targeted-gap,targets=1", "malt:steps=20,targets=1"
    assert [int(fooled(attack, model, X, Y, eps=0.1).sum()) for attack in attacks] == [0, 4]


def test_malt_counts_its_gradients_and_looks_at_the_candidates_alone(trained, waves):
    x, y = waves
    found = run(MALT(6, targets=2, candidates=3), trained, x, y, **UNJUDGED)
    assert set(found.forwards.tolist()) == {3 + 2 * 7} and found.restart.max() <= 1
    first = run(MALT(6, targets=1, candidates=1), trained, x, y, **UNJUDGED).x
    assert torch.equal(first, run("apgd:steps=6,loss=targeted-dlr,targets=1", trained, x, y, **UNJUDGED).x)


def test_three_near_targets_leave_no_more_images_than_nine_likely_ones():
    model = load_model(str(shared("weights_cifar10/robust_resnet2b.safetensors"))).eval().requires_grad_(False)
    x, y = cifar_test_images(120)
    attacks = (f"apgd:steps=30,loss=targeted-dlr,targets={n}" for n in (9, 3))
    nine, three, near = (
        int((~fooled(a, model, x, y, eps=8 / 255)).sum()) for a in (*attacks, "malt:steps=30,targets=3")
    )
    assert near <= nine < three


# Probabilities as a loss


def test_the_probability_margin_is_a_difference_of_probabilities():
    z, y = torch.tensor([[2.0, 0.5, 1.0], [-1.0, 3.0, 2.5]]).double(), torch.tensor([0, 0])
    p = z.softmax(1)
    torch.testing.assert_close(LOSSES["pm"](z, Goal(y)) - 1, torch.stack([p[0, 2], p[1, 1]]) - p[:, 0])
    torch.testing.assert_close(
        LOSSES["pm"](z, Goal(y, torch.tensor([1, 2]))) - 1, torch.stack([p[0, 1], p[1, 2]]) - p[:, 0]
    )
    two = torch.tensor([[0.7, 0.2]]).double()  # with two classes it is tanh(gap / 2)
    assert float(LOSSES["pm"](two, Goal(y[:1])) - 1) == pytest.approx(math.tanh(-0.25))


@pytest.mark.parametrize("ahead", [10.0, 100.0, 1000.0])
def test_the_gradient_of_the_probability_margin_does_not_underflow(ahead):
    z = torch.tensor([[ahead, 0.0, -1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(LOSSES["pm"](z, Goal(torch.tensor([0]))).sum(), z)
    plain = (z.softmax(1)[0, 1] - z.softmax(1)[0, 0]).sum()
    (bare,) = torch.autograd.grad(plain, z)
    assert slope[0, 0] < -1e-7 and slope[0, 1] > 5e-8
    if ahead == 10:
        torch.testing.assert_close(slope, bare, rtol=1e-3, atol=1e-9)
    else:
        assert bare.abs().max() < 1e-42


def test_a_further_rise_of_the_margin_is_a_further_rise_of_the_loss_however_sure_the_network():
    ahead = torch.linspace(400, -400, 2001)
    loss = LOSSES["pm"](torch.stack([ahead, torch.zeros_like(ahead)], 1), Goal(torch.zeros(2001).long()))
    rises = loss.diff()
    assert (rises >= 0).all() and (rises[ahead[1:] > 0] > 0).all()


class Drawn(nn.Module):
    """Linear logits with noise of its own for each image."""

    noise = "sample"

    def __init__(self):
        super().__init__()
        self.plane = Plane(torch.randn(4, 64, generator=torch.Generator().manual_seed(2)), torch.zeros(4))

    def forward(self, x):
        z = self.plane(x)
        return z + torch.randn_like(z)


def test_with_a_target_mean_draw_and_vote_have_the_same_gradient():
    model, goal = Drawn().eval(), Goal(Y, torch.tensor([1, 2, 3, 1]))
    slopes = {}
    for loss in "pm", "ce":
        for estimand in "mean", "vote":
            torch.manual_seed(0)
            slopes[loss, estimand] = loss_gradient(model, X, goal, LOSSES[loss], 16, estimand).gradient
    torch.testing.assert_close(slopes["pm", "mean"], slopes["pm", "vote"])
    assert (slopes["ce", "mean"] - slopes["ce", "vote"]).norm() > 0.1 * slopes["ce", "vote"].norm()


def test_where_probabilities_are_saturated_pma_succeeds_and_cross_entropy_has_no_gradient():
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(3))
    model, x = Plane(rows, torch.zeros(3), scale=1e4).eval().float(), random_images(8, 1, 8, 8).float()
    y = logits(model, x).argmax(1)
    assert fooled(PMA(20), model, x, y, eps=0.3).all()
    assert fooled(PGD(20, loss="pm", random_start=False), model, x, y, eps=0.3).all()
    assert not fooled(PGD(20, random_start=False), model, x, y, eps=0.3).any()


def reference_pma(model, x, y, ball, keys, steps, second):
    """One pass of PMA, written down with softmax, in float64."""
    points, half = ball.sample(x, keys, int(second)), steps // 2
    rows = torch.arange(len(y))
    for i in range(steps):
        points = points.detach().requires_grad_()
        p = model(points).softmax(1)
        other = (p - 2 * F.one_hot(y, p.shape[1])).amax(1)
        loss = p[rows, y] if i == 0 else other - p[rows, y] if i >= half else other if second else -p[rows, y]
        (slope,) = torch.autograd.grad(loss.sum(), points)
        turn = i / half if i < half else (i - half) / (steps - half)
        length = ball.eps * (1 + math.cos(math.pi * turn))
        points = (x + (points + length * slope.sign() - x).clamp(-ball.eps, ball.eps)).clamp(0, 1)
    return points.detach()


def test_pma_follows_its_reference(trained, waves):
    x, y = waves
    ball, keys = Ball(0.03), [f"key {n}" for n in range(30)]
    found = run(PMA(9), trained, x, y, eps=0.03, **UNJUDGED)
    passes = [reference_pma(trained, x, y, ball, keys, 9, second) for second in (False, True)]
    values = torch.stack([margin(logits(trained, points), Goal(y)) for points in passes])
    better = (values[1] > values[0]).long()
    assert torch.equal(found.restart, better) and better.any() and not better.all()
    torch.testing.assert_close(found.x, torch.stack(passes)[better, torch.arange(30)], atol=1e-9, rtol=0)
    assert set(found.forwards.tolist()) == {2 * (9 + 1)}


def test_pma_has_a_goal_of_its_own(trained, waves):
    x, y = waves
    target = (y + 1) % 5
    for attack in PMA(20), MultiTargeted(20), MALT(20):
        found = run(attack, trained, x, y, eps=0.1, target=target)
        assert (logits(trained, found.x).argmax(1) == target).double().mean() > 0.6, attack


def test_the_gap_is_the_targets_logit_minus_that_of_the_label():
    z = torch.tensor([[3.0, 1.0, 7.0]])
    assert gap(z, Goal(torch.tensor([0]), torch.tensor([1]))).item() == -2
