"""More work never hurts an attack, APGD, Square and the ensembles, and what fails."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from conftest import Linear, random_images
from torch import nn

from stochx.attacks import (
    APGD,
    PGD,
    Context,
    DeepFool,
    Rand,
    Square,
    Standard,
    Transfer,
)
from stochx.attacks._search import spans
from stochx.attacks._squares import two_sided
from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.losses import LOSSES, Goal, margin
from stochx.engine.threat import Ball
from stochx.errors import RunError, UsageError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")

from attacking import STRENGTH, UNJUDGED, Binary, fooled, run

# More work never hurts, less is never counted wrongly


@pytest.mark.parametrize("attack", ["pgd:steps=5,restarts={}", "random:tries={}", "apgd:steps=5,restarts={}"])
def test_more_restarts_never_lose_an_image(attack, trained, waves):
    x, y = waves
    few, many = (fooled(attack.format(n), trained, x, y, eps=0.034) for n in (1, 4))
    assert (few <= many).all()
    assert "random" in attack or (few.any() and not few.all())


@pytest.mark.parametrize("attack", [PGD(steps=15), PGD(steps=15, restarts=2, momentum=0.5), APGD(steps=15)])
def test_leaving_early_never_saves_an_image(attack, trained, waves):
    x, y = waves
    early, late = (run(attack, trained, x, y, judge_any=judge) for judge in (True, False))
    wrong, at_last = (logits(trained, found.x).argmax(1) != y for found in (early, late))
    assert (at_last <= wrong).all() and wrong.any() and not wrong.all()
    assert early.forwards.sum() < late.forwards.sum()
    assert (early.step[wrong] <= late.step[wrong]).all()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "square", "deepfool"])
def test_a_ball_of_nothing_changes_nothing_and_one_of_everything_breaks_all(name, linear):
    x = random_images(12, 1, 4, 4)
    y = linear(x).argmax(1)
    assert torch.equal(run(name, linear, x, y, eps=0.0).x, x)
    assert fooled("square:queries=500" if name == "square" else name, linear, x, y, eps=1.0).all()


def test_the_step_of_pgd_is_two_and_a_half_eps_over_all_steps(linear):
    x = random_images(3, 1, 4, 4)
    y = linear(x).argmax(1)
    bare, typed = (run(PGD(8, step, random_start=False), linear, x, y, "l2", 0.1, wrong=None) for step in (0, 2.5 / 8))
    assert torch.equal(bare.x, typed.x)


def test_a_target_is_reached_and_any_other_class_is_not_enough(trained, waves):
    x, y = waves
    target = (y + 1) % 5
    for attack in PGD(loss="margin"), APGD(steps=30), APGD(steps=30, loss="targeted-dlr"), DeepFool():
        found = run(attack, trained, x, y, eps=0.1, target=target)
        assert (logits(trained, found.x).argmax(1) == target).double().mean() > 0.6, attack


def test_kl_leaves_the_unchanged_probabilities(trained, waves):
    x, y = waves
    reference = logits(trained, x).softmax(1)
    found = run(PGD(steps=10, loss="kl"), trained, x, y, **UNJUDGED)
    start = Ball(STRENGTH["linf"]).sample(x, [f"key {n}" for n in range(30)], 0)
    before, after = (LOSSES["kl"](logits(trained, z), Goal(y, reference=reference)) for z in (start, found.x))
    assert (after > before).all()
    with pytest.raises(ValueError, match="random_start"):
        PGD(loss="kl", random_start=False)


# APGD, Square and the ensembles


def test_checkpoints_are_those_of_the_paper():
    assert [place for place, _ in spans(100)] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(spans(10)) == [(3, 3), (5, 2), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)]
    assert [place for place, _ in spans(1000)][:3] == [220, 410, 570] and list(spans(1)) == [(1, 1)]


def test_apgd_on_average_finds_more_loss_than_pgd(trained, waves):
    x, y = waves
    loss = [margin(logits(trained, run(a, trained, x, y, **UNJUDGED).x), Goal(y)).mean() for a in (APGD(30), PGD(30))]
    assert loss[0] > loss[1] - 0.02


def test_a_targeted_loss_tries_the_most_probable_classes_in_turn(trained, waves):
    x, y = waves
    found = run(APGD(steps=6, loss="targeted-dlr", targets=9), trained, x, y, **UNJUDGED)
    assert found.restart.max() <= 3 and set(found.forwards.tolist()) == {4 * 7}  # five classes: four are wrong
    assert run(APGD(steps=6, loss="targeted-dlr", targets=2), trained, x, y, **UNJUDGED).restart.max() <= 1


def test_what_an_attack_cannot_do_in_l1_it_says():
    model, x = Linear().eval(), random_images(2, 1, 4, 4)
    for attack in "deepfool", "standard":
        with pytest.raises(UsageError, match="`l1`") as caught:
            run(attack, model, x, torch.tensor([0, 1]), "l1", 0.1)
        assert "linf" in caught.value.hint


def test_the_bump_of_square_is_balanced_and_of_length_one():
    for side in (3, 5, 7, 32):
        for norm, length in ("l2", 2), ("l1", 1):
            bump = two_sided(side, norm)
            assert bump.norm(length).item() == pytest.approx(1)
            assert (bump[: side // 2] > 0).all() and (bump[side // 2 :] < 0).all()
    ring = torch.tensor([1 / 4, 1 + 1 / 4, 1 / 4]).double()  # two rectangles around the middle of a row of three
    torch.testing.assert_close(two_sided(3, "l2")[0], ring / ring.norm() / 2**0.5)
    torch.testing.assert_close(two_sided(3, "l1")[0], torch.tensor([1 / 16, 17 / 16, 1 / 16]).double() / (19 / 16) / 2)


def test_the_squares_of_square_shrink_as_queries_go():
    x = torch.zeros(1, 3, 32, 32)
    sides = [Square(queries=10_000).side(q, x) for q in (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert sides == [round((0.8 * 1024 / 2**k) ** 0.5) for k in range(10)]
    assert Square(queries=100).side(99, x) == sides[-1]
    fixed = Square(queries=5001, rescale=False)  # as AutoAttack has it
    assert [fixed.side(q, x) for q in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 4999)] == [29, 29, *sides[1:8], 3]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_climbs_and_its_points_fill_the_ball(norm, trained, waves):
    x, y = waves
    eps = {**STRENGTH, "l1": 5.0}[norm]
    few, many = (run(Square(queries=q), trained, x, y, norm, eps, **UNJUDGED) for q in (1, 150))
    gain = margin(logits(trained, many.x), Goal(y)) - margin(logits(trained, few.x), Goal(y))
    assert gain.min() >= 0 and gain.mean() > 0.1
    assert Ball(1, norm).length(many.x, x).min() > 0.9 * eps and Ball(eps, norm).holds(many.x, x).all()
    assert set(many.forwards.tolist()) == {150}


def test_square_works_on_images_of_any_shape():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 7, 4)).double().eval()
    x = random_images(3, 2, 3, 7)
    for norm in "linf", "l2", "l1":
        found = run(Square(queries=40), model, x, model(x).argmax(1), norm, 0.05, **UNJUDGED)
        assert Ball(1, norm).length(found.x, x).max() <= 0.05 + 1e-12


def test_the_standard_ensemble_is_no_weaker_than_its_parts(trained, waves):
    x, y = waves
    together = run(Standard(steps=10, queries=50), trained, x, y)
    wrong = logits(trained, together.x).argmax(1) != y
    for part in APGD(10), APGD(10, "targeted-dlr"), DeepFool():
        assert (~wrong).sum() <= (~fooled(part, trained, x, y)).sum() + 1
    assert together.restart[wrong].max() <= 3 and together.forwards[~wrong].min() > 50
    assert together.forwards[wrong & (together.restart == 0)].max() <= 11


def test_the_ensembles_do_without_dlr_where_there_are_too_few_classes(linear):
    x = random_images(6, 1, 4, 4)
    y, binary = linear(x).argmax(1), Binary().eval()
    for model, labels in (linear, y), (binary, binary(x).argmax(1)):
        for attack in Standard(steps=5, queries=20), Rand(steps=5, eot=1):
            assert fooled(attack, model, x, labels, eps=0.9).all()


def test_transfer_crafts_on_the_source_and_asks_the_model_once(trained, waves):
    x, y = waves
    found = run(Transfer(steps=5), trained, x, y, source=trained)
    assert torch.equal(found.x, run(PGD(5, random_start=False, momentum=1.0), trained, x, y, judge_any=False).x)
    asked = []

    def wrong(points, places):
        asked.append(len(points))
        return torch.zeros(len(points), dtype=torch.bool)

    run(Transfer(steps=5), trained, x, y, source=trained, wrong=wrong)
    assert asked == [30]
    with pytest.raises(UsageError, match="needs a network") as caught:
        run(Transfer(), trained, x, y)
    assert "--source" in caught.value.hint


# Failures


class Broken(nn.Module):
    """Fails at its third call: with NaN logits from then on, or with an exception."""

    def __init__(self, network, raises):
        super().__init__()
        self.network, self.raises, self.calls = network, raises, [0]

    def forward(self, x):
        assert x.isfinite().all()  # control flow that needs data: it cannot be traced
        self.calls[0] += 1
        if self.calls[0] >= 3 and self.raises:
            raise RuntimeError("no more")
        return self.network(x) * (torch.nan if self.calls[0] >= 3 else 1)


@pytest.mark.parametrize("raises", [False, True], ids=["nan", "raises"])
@pytest.mark.parametrize("name", [name for name in ATTACKS if not ATTACKS.declares(name, "needs_ensemble")])
def test_a_network_that_fails_is_an_error_and_stays_as_it_was(name, raises, trained, waves):
    x, y = waves
    model, state = Broken(trained, raises).eval(), torch.get_rng_state()
    context = Context(keys=range(30), source=model)
    norm = (ATTACKS.declares(name, "norms") or ["linf"])[0]
    with pytest.raises(RuntimeError if raises else RunError, match="no more" if raises else "not finite"):
        for _ in range(3):
            ATTACKS.make(name)(model, x, y, Ball(0.01, norm), context)
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    "text",
    [
        "pgd:steps=0",
        "pgd:step=-1",
        "pgd:momentum=2",
        "apgd:rho=0",
        "apgd:targets=0",
        "square:p=0",
        "square:queries=0",
        "deepfool:candidates=0",
        "deepfool:overshoot=-1",
        "fgsm:eot=-1",
        "random:tries=0",
        "transfer:steps=0",
        "standard:queries=0",
        "rand:eot=-1",
        "autoattack:queries=0",
        "autoattack-rand:steps=0",
    ],
)
def test_values_that_make_no_sense_are_usage_errors(text):
    with pytest.raises(UsageError, match=text.split(":")[0]):
        ATTACKS.make(text)


def test_attacks_are_plain_data():
    assert dataclasses.replace(PGD(), steps=3) == ATTACKS.make("pgd:steps=3")
