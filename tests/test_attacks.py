"""What each attack must find: closed forms, and peers."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from conftest import random_images, shared
from support import cifar_test_images

from stochx.attacks import (
    APGD,
    FGSM,
    PGD,
    DeepFool,
    RandomSearch,
    Square,
)
from stochx.engine.gradients import logits
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import Ball, norm_of
from stochx.loading import load_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks

from attacking import STRENGTH, UNJUDGED, Binary, fooled, run

# Closed forms


BEST = {
    "linf": torch.sign,
    "l2": lambda w: w / w.norm(),
    "l1": lambda w: torch.where(w.abs() == w.abs().max(), w.sign(), 0.0),
}


@pytest.mark.parametrize("norm", BEST)
@pytest.mark.parametrize(
    "attack", ["fgsm", "pgd:steps=10,random-start=false", "pgd:steps=7,momentum=0.9,random-start=false,loss=margin"]
)
def test_a_linear_network_is_attacked_along_its_weights(attack, norm):
    model, x = Binary().eval(), random_images(6, 1, 4, 4)
    y = model(x).argmax(1)
    way = BEST[norm](model.w.detach()).view(1, 1, 4, 4) * (1 - 2 * y).view(-1, 1, 1, 1)
    found = run(attack.replace("random-start", "random_start"), model, x, y, norm, 0.1, **UNJUDGED)
    torch.testing.assert_close(found.x, x + 0.1 * way, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", [PGD(steps=40), APGD(steps=40), Square(queries=400)])
def test_a_linear_network_is_attacked_at_the_corner_from_any_start(attack):
    model, x = Binary().eval(), random_images(6, 1, 4, 4)
    y = model(x).argmax(1)
    best = x + 0.1 * model.w.detach().sign().view(1, 1, 4, 4) * (1 - 2 * y).view(-1, 1, 1, 1)
    found = run(attack, model, x, y, eps=0.1, **UNJUDGED).x
    goal = Goal(y)
    short = margin(model(best), goal) - margin(model(found), goal)
    assert short.min() > -1e-9 and short.max() < (0.05 if isinstance(attack, Square) else 1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_goes_just_over_a_linear_boundary(norm):
    model, x = Binary().eval(), random_images(6, 1, 4, 4)
    y = model(x).argmax(1)
    found = run(DeepFool(), model, x, y, norm, 1.0)
    w = model.w.detach()
    shortest = ((x - 0.5).flatten(1) @ w).abs() / norm_of(w[None], {"linf": "l1", "l2": "l2"}[norm])
    torch.testing.assert_close(Ball(1, norm).length(found.x, x), 1.02 * shortest, rtol=1e-9, atol=1.1e-5)
    assert (model(found.x).argmax(1) != y).all() and found.step.tolist() == [1] * 6


def test_deepfool_takes_the_nearest_of_several_boundaries(linear):
    x = random_images(20, 1, 4, 4)
    out = linear(x)
    y = out.argmax(1)
    found = run(DeepFool(), linear, x, y, "l2", 1.0)
    gaps = out.gather(1, y[:, None]) - out
    lengths = gaps / (linear.weight[y][:, None] - linear.weight).norm(dim=2)  # 0 / 0 for the label itself
    shortest = lengths.nan_to_num(torch.inf).amin(1)
    torch.testing.assert_close(Ball(1, "l2").length(found.x, x), (1.02 * shortest).detach(), rtol=1e-9, atol=1.1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_points_never_beat_the_gradient_of_a_linear_network(norm):
    model, x = Binary().eval(), random_images(10, 1, 4, 4)
    y = model(x).argmax(1)
    best, luck = (run(attack, model, x, y, norm, 0.1, **UNJUDGED).x for attack in (FGSM(), RandomSearch(tries=50)))
    assert (margin(model(best), Goal(y)) > margin(model(luck), Goal(y))).all()


# Peers


def peer_points(peer, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer(x, y)


def assert_close_on_nearly_all_pixels(ours, theirs):
    agree = ((ours - theirs).abs() <= 1e-6).double().mean()
    assert agree >= 0.999, f"only {agree:.5f} of the pixels agree"


def theirs_foolbox(attack, model, x, y, eps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = foolbox.PyTorchModel(copy.deepcopy(model), bounds=(0, 1), device="cpu")  # it fills .grad
        return attack(peer, x, y, epsilons=eps)[1]


TORCHATTACKS = {
    "fgsm": ("linf", lambda m, e: torchattacks.FGSM(m, e)),
    "pgd:steps=7,step=0.25,random_start=false": (
        "linf",
        lambda m, e: torchattacks.PGD(m, e, e / 4, 7, random_start=False),
    ),
    "pgd:steps=5,step=0.25,momentum=1,random_start=false": (
        "linf",
        lambda m, e: torchattacks.MIFGSM(m, e, e / 4, 5, 1.0),
    ),
    "pgd:steps=5,step=0.3,random_start=false": (
        "l2",
        lambda m, e: torchattacks.PGDL2(m, e, 0.3 * e, 5, random_start=False, eps_for_division=1e-30),
    ),
}


@pytest.fixture(scope="module")
def resnet20():
    """The CIFAR network of the shared weights in float64, and 64 images that it gets right."""
    model = load_model(str(shared("weights_cifar10/resnet20.safetensors"))).double().eval()
    x, y = cifar_test_images(80)
    x = x.double()
    right = logits(model, x).argmax(1) == y
    return model, x[right][:64].contiguous(), y[right][:64]


@pytest.mark.parametrize("text", TORCHATTACKS)
def test_points_are_those_of_torchattacks(text, trained, waves):
    norm, peer = TORCHATTACKS[text]
    x, y = waves
    ours = run(text, trained, x, y, norm, **UNJUDGED).x
    assert_close_on_nearly_all_pixels(ours, peer_points(peer(trained, STRENGTH[norm]), x, y))


@pytest.mark.slow
@pytest.mark.parametrize("text", TORCHATTACKS)
def test_points_are_those_of_torchattacks_on_a_cifar_network(text, resnet20):
    model, x, y = resnet20[0], resnet20[1][:20], resnet20[2][:20]
    norm, peer = TORCHATTACKS[text]
    eps = 8 / 255 if norm == "linf" else 0.5
    ours = run(text, model, x, y, norm, eps, **UNJUDGED).x
    theirs = peer_points(peer(model, eps), x, y)
    assert_close_on_nearly_all_pixels(ours, theirs)
    assert torch.equal(logits(model, ours).argmax(1), logits(model, theirs).argmax(1))


@pytest.mark.parametrize(
    ("text", "norm", "peer"),
    [
        ("fgsm", "linf", lambda: foolbox.attacks.LinfFastGradientAttack()),
        ("fgsm", "l2", lambda: foolbox.attacks.L2FastGradientAttack()),
        (
            "pgd:steps=7,step=0.25,random_start=false",
            "linf",
            lambda: foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=7, random_start=False),
        ),
        (
            "pgd:steps=5,step=0.3,random_start=false",
            "l2",
            lambda: foolbox.attacks.L2PGD(rel_stepsize=0.3, steps=5, random_start=False),
        ),
    ],
    ids=["fgsm-linf", "fgsm-l2", "pgd-linf", "pgd-l2"],
)
def test_points_are_those_of_foolbox(text, norm, peer, trained, waves):
    x, y = (part.clone() for part in waves)
    ours = run(text, trained, x, y, norm, **UNJUDGED).x
    assert_close_on_nearly_all_pixels(ours, theirs_foolbox(peer(), trained, x, y, STRENGTH[norm]))


def test_targeted_points_are_those_of_torchattacks(trained, waves):
    x, y = waves
    target, eps = (y + 2) % 5, STRENGTH["linf"]
    peer = torchattacks.PGD(trained, eps, eps / 4, 7, random_start=False)
    peer.set_mode_targeted_by_label(quiet=True)
    ours = run("pgd:steps=7,step=0.25,random_start=false", trained, x, y, wrong=None, target=target).x
    assert_close_on_nearly_all_pixels(ours, peer_points(peer, x, target))


def test_deepfool_withstands_as_many_as_foolbox_s(trained, waves):
    x, y = waves
    peer = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, loss="logits")
    theirs = theirs_foolbox(peer, trained, x.clone(), y, 5.0)
    far = Ball(5, "l2").length(theirs, x)
    ours = Ball(5, "l2").length(run(DeepFool(), trained, x, y, "l2", 5.0).x, x)
    assert (ours.median() / far.median()).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_leaves_as_many_as_torchattacks_apgd(loss, norm):
    weights = str(shared("weights_cifar10/robust_cnn_a_mix.safetensors"))
    mean, std = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
    model = load_model(weights, arch="robust-cnn:first=2,second=2", mean=mean, std=std).eval()
    x, y = cifar_test_images(300)
    x, eps = x.contiguous(), {"linf": 2 / 255, "l2": 0.25}[norm]
    peer = torchattacks.APGD(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, steps=30, loss=loss)
    left = (logits(model, peer_points(peer, x, y)).argmax(1) == y).sum()
    ours = (~fooled(APGD(steps=30, loss=loss), model, x, y, norm, eps)).sum()
    assert abs(int(ours - left)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_leaves_as_many_as_torchattacks_apgd_on_a_resnet(loss, resnet20):
    model, x, y = resnet20
    model, x = copy.deepcopy(model).float(), x.float()
    peer = torchattacks.APGD(model, eps=0.5 / 255, steps=50, loss=loss)
    left = (logits(model, peer_points(peer, x, y)).argmax(1) == y).sum()
    ours = (~fooled(APGD(steps=50, loss=loss), model, x, y, eps=0.5 / 255)).sum()
    assert abs(int(ours - left)) <= 1
