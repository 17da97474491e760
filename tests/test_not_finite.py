"""Networks that return NaN or infinity in one of their passes: an error, never a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from stochx.attacks import Ball, Context
from stochx.catalog import ATTACKS, ATTRIBUTIONS
from stochx.engine.fewshot.network import scores_of
from stochx.engine.io.data import Item
from stochx.engine.io.images import Preparation
from stochx.engine.judging import Judge
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.ensemble import RandomEnsemble
from stochx.engine.smoothing import check_independent
from stochx.errors import InputError, RunError
from stochx.tasks.attack import attack
from stochx.tasks.batches import Source

IMAGES = 4


class _Broken(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(context, x, value):
        context.value = value
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.value, None


class Faulty(nn.Module):
    """A network of three classes whose pass number `at` returns `value` for the last image, or as its gradient.

    Passes of fewer than `least` images, which measure memory and compare gradients, do not count.
    """

    def __init__(self, value=torch.nan, in_gradient=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3))
        self.value, self.in_gradient, self.least = value, in_gradient, IMAGES
        self.state = {"at": 0, "passes": 0}

    def forward(self, x):
        assert x.isfinite().all()  # control flow that needs data: it cannot be traced
        counts = len(x) >= self.least and (x.requires_grad or not self.in_gradient)
        self.state["passes"] += counts
        fails = counts and self.state["passes"] == self.state["at"]
        out = self.layers(_Broken.apply(x, self.value) if fails and self.in_gradient else x)
        if fails and not self.in_gradient:
            out = torch.cat([out[:-1], out[-1:] * self.value])
        return out


def faulty(*how):
    torch.manual_seed(0)
    return Faulty(*how).eval()


def passes(model, work):
    """Yield each pass of `work` in which the model may fail, once it will."""
    model.state.update(at=0, passes=0)
    work()
    assert model.state["passes"]
    for at in range(1, model.state["passes"] + 1):
        model.state.update(at=at, passes=0)
        yield at


GRADIENT = torch.nan, True
WAYS = [
    pytest.param(name, how, id=f"{name}-{kind}")
    for name in ATTACKS
    for kind, how in (("nan", (torch.nan,)), ("inf", (torch.inf,)), ("gradient", GRADIENT))
    if how is not GRADIENT or name == "transfer" or not ATTACKS.declares(name, "black_box")
]


@pytest.mark.parametrize(("name", "how"), WAYS)
def test_a_single_pass_that_is_not_finite_ends_an_attack(name, how):
    attack, model, x = ATTACKS.make(name), faulty(*how), torch.rand(IMAGES, 3, 8, 8)
    short = {key: n for key, n in {"steps": 2, "queries": 2, "tries": 2, "targets": 1}.items() if hasattr(attack, key)}
    attack, y = replace(attack, **short), model(x).argmax(1)
    network = RandomEnsemble([model, model], [0.5, 0.5]) if ATTACKS.declares(name, "needs_ensemble") else model
    judge = Judge(model, y, None, 1, 0, "key", noisy=False)
    context = replace(Context.judged_by(judge, range(IMAGES)), source=model, judge_any=False)
    norm = (ATTACKS.declares(name, "norms") or ["linf"])[0]

    def work():
        attack(network, x, y, Ball(1e-4, norm), context)

    for _ in passes(model, work):
        with pytest.raises(RunError, match="not finite"):
            work()


def test_a_point_is_not_misclassified_by_logits_that_are_not_finite():
    """Their largest is NaN itself, in the place of a class: an attack would have succeeded."""
    model, x = faulty(), torch.rand(IMAGES, 3, 8, 8)
    judge = Judge(model, model(x).argmax(1), None, 1, 0, "key", noisy=False)
    assert not judge.wrong(x, torch.arange(IMAGES)).any()
    for _ in passes(model, lambda: judge.wrong(x, torch.arange(IMAGES))):
        with pytest.raises(RunError, match="not finite"):
            judge.wrong(x, torch.arange(IMAGES))


MAPS = [name for name in ATTRIBUTIONS if not ATTRIBUTIONS.declares(name, "control")]


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name", MAPS)
def test_a_single_pass_that_is_not_finite_shows_in_a_map_or_in_its_gap(name, value):
    model, x = faulty(value), torch.rand(IMAGES, 3, 8, 8)
    y = model(x).argmax(1)
    try:
        method = ATTRIBUTIONS.make(name)
        few = [key for key in ("samples", "roots", "steps", "draws") if hasattr(method, key)]
        method = replace(method, **dict.fromkeys(few[:1], 2))
        method(model, x, y)
    except InputError:
        pytest.skip("needs the operations of the network, which this one does not show")
    for _ in passes(model, lambda: method(model, x, y)):
        found = method(model, x, y)
        parts = [part for part in (found.map, found.gap) if part is not None]
        assert not all(part.isfinite().all() for part in parts)


def test_a_single_pass_that_is_not_finite_is_not_taken_for_images_that_depend_on_each_other():
    model = Classifier(faulty(), ("a", "b", "c"), Preparation(8, 8)).eval()
    model.network.least = 2
    for _ in passes(model.network, lambda: check_independent(model)):
        with pytest.raises(RunError, match="not finite"):
            check_independent(model)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_scores_of_episodes_are_finite_in_every_round(at):
    rounds = []

    def head(support, query):
        rounds.append(1)
        scores = torch.zeros(1, 4, 2)
        return scores / (len(rounds) != at), None

    with pytest.raises(RunError, match="scores of the few-shot network are not finite"):
        scores_of(head, torch.rand(1, 2, 1, 3, 2, 2), torch.rand(1, 4, 3, 2, 2), transductive=True)
    assert len(rounds) == at


def test_the_images_the_attack_and_its_step_that_met_it_are_named():
    model = Classifier(faulty(torch.nan, True), ("a", "b", "c"), Preparation(8, 8)).eval()
    model.network.least = 1
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = int(model(pixels[:1]).argmax(1))
    sources = [Source(f"{name}.png", lambda n=n: Item(str(n), pixels[n], label)) for n, name in enumerate("xy")]

    def work():
        return attack(model, {"pgd": ATTACKS.make("pgd:steps=3")}, sources, Ball(1e-4))

    work()  # the first time it also measures the memory of a pass
    said = []
    for _ in passes(model.network, work):
        with pytest.raises(RunError) as caught:
            work()
        said.append(str(caught.value))
    expected = "`x.png`: `pgd`: the model's loss gradients are not finite at evaluation"  # `y` is misclassified anyway
    assert said == [f"{expected} {step}" for step in (1, 2, 3)]
