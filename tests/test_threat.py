"""The ball: what its projections, steps and samples promise, and the losses that attacks raise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.nn import functional as F

from stochx.engine.losses import LOSSES, Goal, dlr, gap, margin
from stochx.engine.threat import Ball, norm_of, sparse_sign
from stochx.errors import UsageError

NORMS = ["linf", "l2", "l1"]
balls = st.tuples(st.sampled_from(NORMS), st.floats(0, 3), st.integers(0, 10_000))


def drawn(seed, spread):
    """A centre in [0, 1] and a point around it: (3, 2, 3, 3) each, float64."""
    source = torch.Generator().manual_seed(seed)
    center = torch.rand(3, 2, 3, 3, generator=source, dtype=torch.float64)
    return center, center + spread * torch.randn(3, 2, 3, 3, generator=source, dtype=torch.float64)


def bisected(delta, eps):
    """The nearest point of the L1 ball, its threshold found by bisection."""
    low, high = 0.0, delta.abs().max().item()
    if delta.abs().sum() <= eps:
        return delta
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (delta.abs() - middle).clamp(min=0).sum() > eps else (low, middle)
    return delta.sign() * (delta.abs() - high).clamp(min=0)


@settings(deadline=None, max_examples=60)
@given(balls)
def test_projection_lands_in_the_ball_and_the_box_and_stays_there(case):
    norm, eps, seed = case
    center, x = drawn(seed, 0.7)
    ball = Ball(eps, norm)
    once = ball.project(x, center)
    assert ball.length(once, center).max() <= eps + 1e-12 and once.min() >= 0 and once.max() <= 1
    torch.testing.assert_close(ball.project(once, center), once, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(balls)
def test_projection_is_nearest_where_the_box_does_not_bind(case):
    norm, eps, seed = case
    center, x = drawn(seed, 0.1)
    center, x, ball = 0.5 + 0.001 * center, 0.5 + 0.001 * x, Ball(eps / 1000, norm)
    nearest = ball.project(x, center)
    for n in range(3):
        others = (
            center[n] + ball.eps * torch.randn(500, 2, 3, 3, generator=torch.Generator().manual_seed(seed)).double()
        )
        others = torch.cat([ball.project(others, center[n]), torch.lerp(nearest[n : n + 1], center[n : n + 1], 0.01)])
        assert (x[n] - nearest[n]).norm() <= (x[n] - others).flatten(1).norm(dim=1).min() + 1e-12


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 3), st.integers(0, 10_000))
def test_the_l1_projection_is_the_bisected_threshold(eps, seed):
    center, x = drawn(seed, 0.2)
    center, x, eps = 0.5 + 0.01 * center, 0.5 + 0.01 * x, eps / 100
    expected = torch.stack([center[n] + bisected(x[n] - center[n], eps) for n in range(3)])
    torch.testing.assert_close(Ball(eps, "l1").project(x, center), expected, rtol=0, atol=1e-12)


def quadratic_programme(u, center, eps):
    """The nearest point to u in the L1 ball and [0, 1], as a smooth programme over increases p and decreases m."""
    d = len(u)
    found = minimize(
        lambda pm: ((center + pm[:d] - pm[d:] - u) ** 2).sum(),
        np.zeros(2 * d),
        jac=lambda pm: np.outer([2, -2], center + pm[:d] - pm[d:] - u).ravel(),
        method="SLSQP",
        bounds=[*((0, 1 - c) for c in center), *((0, c) for c in center)],
        constraints={"type": "ineq", "fun": lambda pm: eps - pm.sum(), "jac": lambda pm: -np.ones(2 * d)},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return center + found.x[:d] - found.x[d:]


@pytest.mark.parametrize("eps", [0.0, 0.3, 1.5, 4.0])
def test_the_l1_projection_is_the_nearest_in_ball_and_box_together(eps):
    center, x = drawn(8, 0.7)
    center[0, 0, 0] = torch.tensor([0.0, 1.0, 0.0])  # no room on one side
    ours = Ball(eps, "l1").project(x, center).flatten(1)
    for n in range(3):
        theirs = quadratic_programme(x[n].flatten().numpy(), center[n].flatten().numpy(), eps)
        torch.testing.assert_close(ours[n], torch.from_numpy(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_holds_what_float32_can_hold_and_no_more(norm):
    center, ball = (
        0.4 + 0.2 * random_images(4, 3, 32, 32).float(),
        Ball({"linf": 0.03, "l2": 0.5, "l1": 4.0}[norm], norm),
    )
    x = center.clone()
    for step in range(10):
        x = ball.project(x + ball.eps * ball.ascent(random_images(4, 3, 32, 32, seed=step).float() - 0.5), center)
    assert ball.holds(x, center).all()
    assert not ball.holds(center + 1.001 * (x - center), center).any()
    assert not ball.holds(center.index_fill(0, torch.tensor([0]), torch.nan), center)[0]
    assert not Ball(9, "linf").holds(center + 1, center).any()


def test_lengths_in_l1_are_exact_in_float32():
    rows = torch.rand(2, 150_528, generator=torch.Generator().manual_seed(0)) / 2500
    torch.testing.assert_close(norm_of(rows, "l1").double(), rows.double().abs().sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_ascent_has_length_one_and_climbs_most(norm):
    gradient = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = Ball(1, norm).ascent(gradient)
    torch.testing.assert_close(norm_of(step.flatten(1), norm), torch.ones(4, dtype=torch.float64))
    climb = (step * gradient).flatten(1).sum(1)
    if norm != "l1":  # there the step is spread over 1 % of the values on purpose
        dual = norm_of(gradient.flatten(1), {"linf": "l1", "l2": "l2"}[norm])
        torch.testing.assert_close(climb, dual)
    else:
        assert ((step != 0).flatten(1).sum(1) == round(0.01 * 192)).all()
        torch.testing.assert_close(climb, gradient.flatten(1).abs().topk(2, dim=1).values.mean(1))


def test_a_sparse_step_moves_as_many_values_as_each_image_is_given():
    gradient = torch.tensor([[4.0, -3.0, 2.0, -1.0], [1.0, -2.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    step = sparse_sign(gradient, torch.tensor([2.0, 0.3]))
    assert step.flatten(1).tolist() == [[0.5, -0.5, 0, 0], [0, -1, 0, 0]]


@pytest.mark.parametrize("norm", NORMS)
def test_the_ascent_does_not_see_the_scale_of_a_gradient(norm):
    gradient = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ball = Ball(1, norm)
    torch.testing.assert_close(ball.ascent(gradient * 1e-30), ball.ascent(gradient))
    assert ball.ascent(torch.zeros(2, 3, 8, 8)).eq(0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_samples_stay_inside_and_depend_on_key_and_index_alone(norm):
    center, ball = random_images(3, 3, 8, 8), Ball(0.2, norm)
    together = ball.sample(center, ["a", "b", "c"], 1)
    assert ball.length(together, center).max() <= 0.2 + 1e-7 and together.min() >= 0 and together.max() <= 1
    assert torch.equal(ball.sample(center[1:2], ["b"], 1), together[1:2])
    assert not torch.allclose(ball.sample(center, ["a", "b", "c"], 2), together)
    assert not torch.allclose(ball.sample(center[:1], ["z"], 1), together[:1])
    torch.testing.assert_close(ball.sample(center.float(), ["a", "b", "c"], 1).double(), together, rtol=0, atol=1e-6)


def test_linf_samples_are_uniform_and_l2_samples_uniform_in_the_ball():
    center, keys = torch.full((2000, 1, 1, 2), 0.5), range(2000)
    flat = (Ball(0.1).sample(center, keys, 0) - 0.5).flatten()
    assert flat.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.03) and abs(flat.mean()) < 0.003
    area = Ball(0.1, "l2").length(Ball(0.1, "l2").sample(center, keys, 0), center).square() / 0.01
    assert area.mean().item() == pytest.approx(0.5, abs=0.02)  # uniform on [0, 1] in two dimensions


# Losses


def logits_of(n=6, classes=5):
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_margins_are_positive_exactly_where_the_goal_is_reached():
    out, y = logits_of(200), torch.arange(200) % 5
    target = (y + 1) % 5
    assert torch.equal(margin(out, Goal(y)) > 0, out.argmax(1) != y)
    assert torch.equal(margin(out, Goal(y, target)) > 0, out.argmax(1) == target)


def test_dlr_is_its_formula_and_blind_to_scale_and_shift():
    out, y, target = logits_of(), torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 2])
    for n in range(6):
        z = out[n].sort(descending=True).values
        best = z[1] if out[n].argmax() == y[n] else z[0]
        plain, aimed = dlr(out, Goal(y))[n], dlr(out, Goal(y, target))[n]
        torch.testing.assert_close(plain, -(out[n, y[n]] - best) / (z[0] - z[2]))
        torch.testing.assert_close(aimed, -(out[n, y[n]] - out[n, target[n]]) / (z[0] - (z[2] + z[3]) / 2))
    for goal in Goal(y), Goal(y, target):
        torch.testing.assert_close(dlr(100 * out + 7, goal), dlr(out, goal))


def test_cross_entropy_and_kl_are_torch_s():
    out, y, target = logits_of(), torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 2])
    torch.testing.assert_close(LOSSES["ce"](out, Goal(y)), F.cross_entropy(out, y, reduction="none"))
    torch.testing.assert_close(LOSSES["ce"](out, Goal(y, target)), -F.cross_entropy(out, target, reduction="none"))
    p, q = logits_of().roll(1, 0).softmax(1), out.softmax(1)
    torch.testing.assert_close(LOSSES["kl"](out, Goal(y, reference=p)), (p * (p / q).log()).sum(1))
    torch.testing.assert_close(gap(out, Goal(y, target))[0], out[0, 1] - out[0, 0])


def test_a_loss_that_does_not_suit_says_what_does():
    out, y = logits_of(2, 3), torch.tensor([0, 1])
    with pytest.raises(UsageError, match="needs 4 classes") as caught:
        dlr(out, Goal(y, y.roll(1)))
    assert "loss=margin" in caught.value.hint
    with pytest.raises(UsageError, match="needs 3 classes"):
        dlr(out[:, :2], Goal(y))
    with pytest.raises(UsageError, match="targeted attacks"):
        LOSSES["kl"](out, Goal(y, y.roll(1), out.softmax(1)))


def test_a_goal_can_be_cut_and_repeated():
    goal = Goal(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), torch.eye(3))
    some, twice = goal[torch.tensor([2, 0])], goal.repeat(2)
    assert some.y.tolist() == [2, 0] and some.target.tolist() == [0, 1] and some.reference[0, 2] == 1
    assert twice.y.tolist() == [0, 1, 2, 0, 1, 2] and twice.reference.shape == (6, 3)
