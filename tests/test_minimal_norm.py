"""Attacks that look for the nearest misclassified point, and the projection that FAB rests on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from attacking import Binary
from conftest import random_images
from scipy.optimize import linprog, minimize

from stochx.attacks import Ball, Context
from stochx.attacks._hyperplane import step_to_plane
from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.threat import DUALS, norm_of

NORMS = ("linf", "l2", "l1")


def plane(count=12, reachable=True):
    """Images, normals, and the heights of planes that the box meets, or lies below."""
    x, w = random_images(count, 1, 3, 3), torch.randn(count, 1, 3, 3, dtype=torch.float64)
    w[:, 0, 0, 0] = 0
    highest, lowest = w.clamp(min=0).flatten(1).sum(1), w.clamp(max=0).flatten(1).sum(1)
    share = torch.linspace(0.05, 0.95, count, dtype=torch.float64)
    return x, w, lowest + share * (highest - lowest) if reachable else highest + 1


def shortest(x, w, height, norm):
    """The length of the shortest step from x to the plane in the box, by a general solver; all are numpy vectors."""
    need, box = height - w @ x, [(-v, 1 - v) for v in x]
    if norm == "l2":
        constraint = {"type": "eq", "fun": lambda d: w @ d - need, "jac": lambda d: w}
        start = np.zeros_like(x)
        solved = minimize(lambda d: d @ d, start, jac=lambda d: 2 * d, bounds=box, constraints=constraint, tol=1e-15)
        return solved.fun**0.5
    n = len(x)
    slack = 1 if norm == "linf" else n  # bounds of |d|: one for all, or one each
    to = np.ones((n, 1)) if norm == "linf" else np.eye(n)
    inequalities = np.block([[np.eye(n), -to], [-np.eye(n), -to]])
    solved = linprog(
        np.r_[np.zeros(n), np.ones(slack)],
        inequalities,
        np.zeros(2 * n),
        np.r_[w, np.zeros(slack)][None],
        [need],
        [*box, *[(0, None)] * slack],
    )
    return solved.fun


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_to_a_plane_is_the_shortest_in_the_box(norm):
    x, w, height = plane()
    step = step_to_plane(x, w, height, norm)
    z = x + step
    torch.testing.assert_close((w * z).flatten(1).sum(1), height, rtol=0, atol=1e-12)
    assert z.min() >= 0 and z.max() <= 1
    expected = [shortest(*(part[n].flatten().numpy() for part in (x, w, height)), norm) for n in range(len(x))]
    torch.testing.assert_close(norm_of(step.flatten(1), norm), torch.tensor(np.array(expected)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_box_does_not_reach_the_plane_the_step_ends_in_its_corner(norm):
    x, w, height = plane(reachable=False)
    z = x + step_to_plane(x, w, height, norm)
    torch.testing.assert_close(z, torch.where(w > 0, 1.0, torch.where(w < 0, 0.0, x)), rtol=0, atol=1e-12)


def nearest(text, model, x, y, norm):
    found = ATTACKS.make(text)(model, x, y, Ball(0, norm), Context(keys=range(len(x))))
    return Ball(0, norm).length(found.nearest, x)


@pytest.mark.parametrize(
    ("text", "norm", "ratio"),
    [
        *[("fab:targets=1", norm, 1.0053) for norm in NORMS],
        *[("fab:targets=0", norm, 1.0053) for norm in NORMS],
        *[("fmn:steps=100", norm, 1.001) for norm in NORMS],
        ("ddn:steps=400,radius=0.1", "l2", 1.01),
    ],
)
def test_the_distance_to_a_linear_boundary_is_found(text, norm, ratio):
    model, x = Binary().eval(), 0.4 + 0.2 * random_images(36, 1, 4, 4)  # far from the sides of the box
    out = model(x)
    y, w = out.argmax(1), torch.autograd.functional.jacobian(lambda z: model(z).diff(dim=1).sum(), x[:1])
    exact = out.diff(dim=1).abs().squeeze(1) / norm_of(w.flatten(1), DUALS[norm])
    inside = exact < 0.4  # where the box does not matter
    found = (nearest(text, model, x, y, norm) / exact)[inside]
    assert inside.sum() > 12 and found.min() > 1 and found.max() < ratio


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("text", ["fab:steps=20", "fmn:steps=60", "ddn:steps=60"])
def test_the_nearest_point_is_misclassified_and_no_farther_after_more_steps(text, norm, trained, waves):
    x, y = waves[0].double(), logits(trained, waves[0].double()).argmax(1)
    if norm not in getattr(ATTACKS.make(text), "norms", NORMS):
        pytest.skip("`ddn` is for L2")
    found = ATTACKS.make(text)(trained, x, y, eps=0, norm=norm).nearest
    moved = (found != x).flatten(1).any(1)
    assert moved.float().mean() > 0.8
    assert (logits(trained, found).argmax(1) != y)[moved].all()


def test_a_fixed_radius_stops_at_the_first_wrong_point_in_the_ball(trained, waves):
    x, y = waves[0].double(), logits(trained, waves[0].double()).argmax(1)
    context = Context(keys=range(len(x)), wrong=lambda z, places: logits(trained, z).argmax(1) != y[places])
    for text in ("fab:targets=1", "fmn"):
        found = ATTACKS.make(text)(trained, x, y, Ball(0.5), context)
        fooled = logits(trained, found.x).argmax(1) != y
        assert fooled.all() and (found.step < 20).all()


@pytest.mark.parametrize("targets", [1, 0])
@pytest.mark.parametrize("norm", NORMS)
def test_fab_is_the_fab_of_autoattack(targets, norm, trained, waves):
    from pyautoattack.fab_pt import FABAttack_PT

    network, x = copy.deepcopy(trained).float(), waves[0].float()[:8]  # the peer works in float32
    y = logits(network, x).argmax(1)
    names = {"linf": "Linf", "l2": "L2", "l1": "L1"}
    fab = FABAttack_PT(network, norm=names[norm], n_iter=15, eps=1e-9, seed=0, targeted=bool(targets), device="cpu")
    fab.target_class = 2
    theirs = fab.attack_single_run(x.clone(), y.clone(), use_rand_start=False, is_targeted=bool(targets))
    ours = nearest(f"fab:steps=15,targets={targets}", network, x, y, norm)
    expected = Ball(0, norm).length(theirs, x)
    close = (ours - expected).abs() <= 1e-3 * expected
    assert close.sum() >= 7  # in L1 two almost equal gradient values may change places
