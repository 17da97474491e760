"""Attacks on stochastic networks: how many draws their gradient needs, and noise that the attacker knows."""

import pytest
import torch
from torch import nn

from stochx.attacks import APGD, DDN, FGSM, FMN, PGD, Context, Square, Transfer
from stochx.engine.ascent import loss_gradient
from stochx.engine.expectation import IMAGES, MOST, Draws, needed_draws
from stochx.engine.gradients import logits
from stochx.engine.judging import Judge
from stochx.engine.losses import Goal, cross_entropy
from stochx.engine.realisation import is_reproducible, realised
from stochx.engine.threat import Ball
from stochx.errors import UsageError
from stochx.runs._noise import budget_of
from stochx.settings import Attack as AttackSettings
from stochx.tasks.attack_checks import check_expectation
from stochx.tasks.correct_images import CorrectImages

SIDE = 6
PIXELS = SIDE * SIDE


class ShakenSlope(nn.Module):
    """logits = 0, (w + sigma e) . x, with fresh e ~ N(0, 1) for each image: a gradient of relative variance r."""

    noise = "sample"

    def __init__(self, r):
        super().__init__()
        self.register_buffer("w", torch.full((PIXELS,), 0.001))
        self.sigma = 0.001 * r**0.5

    def forward(self, x):
        slope = self.w + self.sigma * torch.randn(len(x), PIXELS)
        return torch.stack([torch.zeros(len(x)), (slope * x.flatten(1)).sum(1)], 1)


def images(count):
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("r", "draws"), [(1.0, 5), (4.0, 18), (8.0, 35)])
def test_draws_follow_from_the_relative_variance_of_a_gradient(r, draws):
    x = images(256)  # cos = 1 / sqrt(1 + r / K) = 0.9 at K = 4.263 r
    found = needed_draws(ShakenSlope(r), x, torch.ones(256, dtype=torch.long), Ball(0.1), 0)
    assert found.draws == pytest.approx(draws, rel=0.25, abs=1) and not found.capped
    assert found.agreement == pytest.approx(0.9, abs=0.03)


def test_draws_are_capped_and_the_agreement_that_is_left_is_told():
    found = needed_draws(ShakenSlope(100.0), images(256), torch.ones(256, dtype=torch.long), Ball(0.1), 0)
    assert found.draws == MOST and found.capped and found.agreement < 0.7


def test_a_gradient_with_hardly_any_noise_still_takes_two_draws():
    found = needed_draws(ShakenSlope(1e-4), images(IMAGES), torch.ones(IMAGES, dtype=torch.long), Ball(0.1), 0)
    assert found == Draws(2, pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize(
    ("attack", "passes"),
    [(FGSM(), 7), (PGD(3), 3 * 7), (APGD(3), 4 * 7), (FMN(3), 4 * 7), (DDN(3), 4 * 7), (PGD(3, eot=2), 3 * 2)],
)
def test_an_attack_takes_the_draws_of_its_context_unless_it_names_its_own(attack, passes):
    model, x, y = ShakenSlope(1.0), images(2), torch.ones(2, dtype=torch.long)
    context = Context(["a", "b"], pick=lambda x: x.new_zeros(len(x)), eot=7)
    attempt = attack(model, x, y, Ball(0.1, "l2"), context)
    assert attempt.forwards.tolist() == attempt.backwards.tolist() == [passes] * 2


def test_queries_are_forward_passes_alone():
    model, x, y = ShakenSlope(1.0), images(2), torch.ones(2, dtype=torch.long)
    attempt = Square(5)(model, x, y, Ball(0.1), Context(["a", "b"], pick=lambda x: x.new_zeros(len(x)), eot=7))
    assert attempt.forwards.tolist() == [35, 35] and attempt.backwards.tolist() == [0, 0]


def test_crafting_on_another_network_takes_none_of_the_draws_that_the_attacked_one_needs():
    model, x, y = ShakenSlope(1.0), images(2), torch.ones(2, dtype=torch.long)
    context = Context(["a", "b"], pick=lambda x: x.new_zeros(len(x)), eot=7, source=ShakenSlope(0.0))
    assert Transfer(5)(model, x, y, Ball(0.1), context).forwards.tolist() == [5, 5]


def test_a_realised_network_is_one_function_for_gradients_and_judges():
    model, x, y = ShakenSlope(1.0), images(4), torch.ones(4, dtype=torch.long)
    with realised(3):
        first, second = (loss_gradient(model, x, Goal(y), cross_entropy, eot=2) for _ in range(2))
        assert torch.equal(first.gradient, second.gradient)
        torch.testing.assert_close(first.logits, logits(model, x))
        verdicts = [Judge(model, y, None, 5, 0, "batch", True).verdict(x, question).right for question in "ab"]
        assert torch.equal(*verdicts) and set(verdicts[0].tolist()) <= {0.0, 1.0}
    with realised(4):
        assert not torch.equal(first.logits, logits(model, x))
    assert not torch.equal(logits(model, x), logits(model, x))


def test_noise_from_elsewhere_is_not_reproducible():
    source = torch.Generator().manual_seed(0)

    class Own(ShakenSlope):
        def forward(self, x):
            return super().forward(x) + torch.randn(1, generator=source)

    assert is_reproducible(lambda: logits(ShakenSlope(1.0), images(2)))
    assert not is_reproducible(lambda: logits(Own(1.0), images(2)))


@pytest.mark.parametrize(("estimates", "label"), [(True, "one draw"), (False, None)])
def test_one_draw_is_marked_unless_the_gradient_is_known(estimates, label):
    assert budget_of(PGD(3), 1, estimates)["label"] == label and budget_of(PGD(3), 5, True)["label"] is None


def test_a_budget_is_spent_in_every_way_that_divides_it():
    settings = AttackSettings(model="net.pt", attack=("pgd:restarts=2",), budget=1000)
    assert settings.attacks == (
        "pgd:steps=1000,eot=1,restarts=2",
        "pgd:steps=200,eot=5,restarts=2",
        "pgd:steps=50,eot=20,restarts=2",
        "pgd:steps=20,eot=50,restarts=2",
    )
    assert AttackSettings(model="net.pt", budget=20).attacks == (
        "pgd:steps=20,eot=1",
        "pgd:steps=4,eot=5",
        "pgd:steps=1,eot=20",
    )


@pytest.mark.parametrize(
    ("attack", "budget", "message"),
    [
        (("pgd",), 7, "cannot be divided"),
        (("square",), 1000, "no steps and draws"),
        (("pgd:eot=5",), 100, "fixes `eot`"),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(attack, budget, message):
    with pytest.raises(UsageError, match=message):
        AttackSettings(model="net.pt", attack=attack, budget=budget).check()


class Hidden(nn.Module):
    """The sign of each pixel's slope is drawn for each image, with a small bias: one draw points anywhere."""

    noise, classes = "sample", ("a", "b")

    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, x):
        signs = torch.where(torch.rand(len(x), 3 * PIXELS) < 0.5 + self.bias / 2, 1.0, -1.0)
        rise = (signs * (x.flatten(1) - 0.5)).sum(1) / self.bias / 1.35
        return torch.stack([torch.full((len(x),), 1.0), rise], 1)


@pytest.mark.parametrize(("draws", "verdict"), [(1, "fail"), (400, "ok")])
def test_the_expectation_check_fails_an_attack_that_more_draws_make_stronger(draws, verdict):
    count = 64
    x = 0.5 + 0 * images(count).expand(-1, 3, -1, -1)
    bench = CorrectImages(
        Hidden(0.3), x, torch.zeros(count, dtype=torch.long), [str(n) for n in range(count)], Ball(0.03), 0, 1
    )
    rows = [{"model": "net", "attack": "pgd", "robust": 0.9, "n": 256}]
    check = check_expectation(bench, {"pgd": PGD(5, random_start=False, eot=draws)}, rows, full=False)
    assert check.name == "expectation" and check.verdict == verdict, check.text
