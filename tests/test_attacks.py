"""What each attack must find: closed forms, peers, more work never hurting, and networks that only seem robust."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings

import pytest
import torch
from conftest import Linear, TinyNet, random_images, shared
from test_loading import cifar_test_images
from torch import nn
from torch.nn import functional as F

from stochx.attacks import (
    APGD,
    FGSM,
    PGD,
    Context,
    DeepFool,
    Rand,
    RandomSearch,
    Square,
    Standard,
    Transfer,
)
from stochx.attacks._squares import two_sided
from stochx.attacks.apgd import spans
from stochx.catalog import ATTACKS
from stochx.engine.ascent import glance, look
from stochx.engine.device import choose
from stochx.engine.gradients import logits
from stochx.engine.losses import LOSSES, Goal, cross_entropy, margin
from stochx.engine.threat import Ball, norm_of
from stochx.engine.twin import twin
from stochx.errors import FailureError, UsageError
from stochx.loading import load_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks

STRENGTH = {"linf": 0.03, "l2": 0.6}


def textures(count, seed):
    """Waves of five directions under noise: (N, 3, 16, 16) in float64, and which wave."""
    source = torch.Generator().manual_seed(seed)
    y, place = torch.arange(count) % 5, torch.arange(16).double()
    down, right = (1.2 * torch.tensor(w).double()[y].view(-1, 1, 1) for w in ([0, 1, 1, 1, 0], [1, 0, 1, -1, 2]))
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=source, dtype=torch.float64)
    wave = torch.sin(down * place[:, None] + right * place + phase)
    noise = torch.randn(count, 3, 16, 16, generator=source, dtype=torch.float64)
    return (0.5 + 0.1 * wave[:, None] + 0.1 * noise).clamp(0, 1), y


@pytest.fixture(scope="module")
def trained():
    """The tiny convnet in float64, taught to tell the waves: some images withstand STRENGTH, some do not."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net, (x, y) = TinyNet(), textures(200, 0)
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(net(x.float()), y).backward()
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for _ in range(30):  # batch norms get over what they saw at first
            net(x.float())
    return net.double().eval()


@pytest.fixture(scope="module")
def waves():
    """Thirty images and their labels."""
    return textures(30, 1)


def context_of(model, y, **more):
    """The context of a deterministic network's attack."""
    target = more.get("target")

    def wrong(points, places):
        said = logits(model, points).argmax(1)
        return said != y[places] if target is None else said == target[places]

    return Context(keys=[f"key {n}" for n in range(len(y))], **{"wrong": wrong, **more})


def run(attack, model, x, y, norm="linf", eps=None, **more):
    """The attempt of an attack, given as an object or as typed."""
    attack = ATTACKS.make(attack) if isinstance(attack, str) else attack
    eps = STRENGTH[norm] if eps is None else eps
    return attack(model, x, y, Ball(eps, norm), context_of(model, y, **more))


def fooled(attack, model, x, y, norm="linf", eps=None, **more):
    """Which images an attack gets wrong."""
    return logits(model, run(attack, model, x, y, norm, eps, **more).x).argmax(1) != y


# Closed forms


class Binary(nn.Module):
    """Two logits +-(w x + b) / 2 on (N, 1, 4, 4): the best attack in every norm is known."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(4)
        self.w = nn.Parameter(torch.randn(16, generator=source, dtype=torch.float64))

    def forward(self, x):
        z = (x - 0.5).flatten(1) @ self.w
        return torch.stack([-z / 2, z / 2], 1)


BEST = {
    "linf": torch.sign,
    "l2": lambda w: w / w.norm(),
    "l1": lambda w: torch.where(w.abs() == w.abs().max(), w.sign(), 0.0),
}
UNJUDGED = {"wrong": None}  # nothing stops early


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
    model, x, y = resnet20
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
    with pytest.raises(ValueError, match="random start"):
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
    for attack in "apgd", "square", "deepfool", "standard", "rand":
        with pytest.raises(UsageError, match="`l1`") as caught:
            run(attack, model, x, torch.tensor([0, 1]), "l1", 0.1)
        assert "linf" in caught.value.hint


def test_the_bump_of_square_is_balanced_and_of_length_one():
    for side in (3, 5, 7, 32):
        bump = two_sided(side)
        assert bump.norm().item() == pytest.approx(1)
        assert (bump[: side // 2] > 0).all() and (bump[side // 2 :] < 0).all()
    ring = torch.tensor([1 / 4, 1 + 1 / 4, 1 / 4]).double()  # two rectangles around the middle of a row of three
    torch.testing.assert_close(two_sided(3)[0], ring / ring.norm() / 2**0.5)


def test_the_squares_of_square_shrink_as_queries_go():
    x = torch.zeros(1, 3, 32, 32)
    sides = [Square(queries=10_000).side(q, x) for q in (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert sides == [round((0.8 * 1024 / 2**k) ** 0.5) for k in range(10)]
    assert Square(queries=100).side(99, x) == sides[-1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_climbs_and_its_points_fill_the_ball(norm, trained, waves):
    x, y = waves
    few, many = (run(Square(queries=q), trained, x, y, norm, **UNJUDGED).x for q in (1, 150))
    gain = margin(logits(trained, many), Goal(y)) - margin(logits(trained, few), Goal(y))
    assert gain.min() >= 0 and gain.mean() > 0.1
    assert Ball(1, norm).length(many, x).min() > 0.9 * STRENGTH[norm]


def test_square_works_on_images_of_any_shape():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 7, 4)).double().eval()
    x = random_images(3, 2, 3, 7)
    for norm in "linf", "l2":
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
    with choose("cpu", "bf16").scope():
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
            drawn = torch.stack([look(model, x, Goal(y), margin, eot).gradient for _ in range(100)])
            spread[eot] = drawn.std(0).square().mean().sqrt().item()
    assert spread[1] / spread[4] == pytest.approx(2, rel=0.2)
    assert spread[1] / spread[16] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("estimand", ["mean", "vote"])
def test_each_estimand_is_the_loss_it_names(estimand, trained, waves):
    model, x, y = Noisy(trained, 0.05, "sample").eval(), waves[0][:4], waves[1][:4]
    point = x.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        out = twin(model).whole(point.repeat(6, 1, 1, 1)).view(6, 4, 5)
        torch.manual_seed(3)
        found = look(model, x, Goal(y), cross_entropy, 6, estimand)
        torch.manual_seed(3)
        seen = glance(model, x, Goal(y), cross_entropy, 6, estimand)
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
    look(model, waves[0][:1], Goal(waves[1][:1]), cross_entropy)
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.random.fork_rng():
        look(model, waves[0][:4], Goal(waves[1][:4]), cross_entropy, 6)
    handle.remove()
    assert seen[1:] == batches  # the first call measures memory, on one image


def test_more_draws_than_fit_are_taken_in_turns(trained, waves):
    x, y = waves
    expected = look(trained, x, Goal(y), cross_entropy)
    for estimand in "mean", "vote":
        with choose("cpu", batch_size=3).scope():
            found = look(trained, x, Goal(y), cross_entropy, 5, estimand)
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
@pytest.mark.parametrize("name", ATTACKS)
def test_a_network_that_fails_is_an_error_and_stays_as_it_was(name, raises, trained, waves):
    x, y = waves
    model, state = Broken(trained, raises).eval(), torch.get_rng_state()
    context = Context(keys=range(30), source=model)
    with pytest.raises(RuntimeError if raises else FailureError, match="no more" if raises else "not finite"):
        for _ in range(3):
            ATTACKS.make(name)(model, x, y, Ball(0.01), context)
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
        "fgsm:eot=0",
        "random:tries=0",
        "transfer:steps=0",
        "standard:queries=0",
        "rand:eot=0",
    ],
)
def test_values_that_make_no_sense_are_usage_errors(text):
    with pytest.raises(UsageError, match=text.split(":")[0]):
        ATTACKS.make(text)


def test_attacks_are_plain_data():
    assert dataclasses.replace(PGD(), steps=3) == ATTACKS.make("pgd:steps=3")
