"""Adversarial weight perturbation, against its formula written out tensor by tensor."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import TinyNet, random_images
from torch.nn import functional as F

from stochx.attacks import PGD, Context
from stochx.engine.device import select_runtime
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import calibrate, noise_layers
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.engine.training.awp import at_worst_weights
from stochx.engine.training.fit import Plan, Step, TrainingBatch, fit
from stochx.engine.training.items import Images
from stochx.errors import UsageError
from stochx.network_files import install_noise
from stochx.tasks.objectives import Adversarial, objective

BALL, ATTACK = Ball(0.03), PGD(steps=3)
Y = torch.tensor([0, 1, 2, 3, 4, 0])


def network():
    with seeded(1, "net"):
        net = TinyNet().double()
        for _ in range(5):
            net(torch.rand(32, 3, 16, 16, dtype=torch.float64))
    return Classifier(net, list("abcde"), Preparation(16, 16), (0.5,) * 3, (0.2,) * 3).double().train()


@pytest.fixture
def model():
    return network()


@pytest.fixture
def batch():
    return TrainingBatch(random_images(6, 3, 16, 16), Y, torch.arange(6), epoch=2, step=0)


def gradients(model, step):
    model.zero_grad()
    step.loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def crafted(model, batch):
    still = copy.deepcopy(model).eval().requires_grad_(False)
    return ATTACK(still, batch.x, batch.y, BALL, Context([f"0/2/{image}" for image in range(6)])).x


def moved_by_hand(model, loss, gamma):
    """A copy of the network at w + v: every kernel goes gamma of its length up the loss."""
    there, slope = copy.deepcopy(model), copy.deepcopy(model)
    loss(slope).backward()
    for w, d in zip(there.parameters(), slope.parameters(), strict=True):
        if w.dim() > 1:
            length, of_d = (math.sqrt(sum(value**2 for value in part.flatten().tolist())) for part in (w, d.grad))
            w.data += gamma * length * d.grad / of_d
    return there


@pytest.mark.parametrize("recipe", ["madry", "trades"])
def test_the_step_is_that_of_the_weights_that_went_up_the_loss(recipe, model, batch):
    adversarial = Adversarial(ATTACK, BALL, recipe, awp=0.05)
    adv = adversarial.craft(copy.deepcopy(model), batch, batch.y, 0)  # at w, not at w + v

    def loss(net):
        if recipe == "madry":
            return F.cross_entropy(net(adv), batch.y)
        clean = net(batch.x)
        apart = F.kl_div(net(adv).log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
        return F.cross_entropy(clean, batch.y) + 6 * apart

    there, plain = moved_by_hand(model, loss, 0.05), loss(copy.deepcopy(model))
    wanted = loss(there)
    wanted.backward()
    step = objective(adversarial=adversarial)(model, batch)
    assert step.loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    assert step.loss.item() > plain.item() + 0.01
    found = gradients(model, step)
    for name, p in there.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=0, atol=1e-12)
    for name, buffer in there.named_buffers():  # batch norms saw the images once, at w + v
        torch.testing.assert_close(model.get_buffer(name), buffer, rtol=0, atol=1e-12)


def test_a_gamma_of_0_is_plain_adversarial_training(model, batch):
    other = copy.deepcopy(model)
    plain = gradients(other, objective(adversarial=Adversarial(ATTACK, BALL))(other, batch))
    adv = crafted(model, batch)
    step = at_worst_weights(model, 0.0, lambda: lossy(model, adv))
    found = gradients(model, step)
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


def lossy(model, x):
    logits = model(x)
    return Step(F.cross_entropy(logits, Y), logits)


def test_weights_stay_what_they_were(model, batch):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    objective(adversarial=Adversarial(ATTACK, BALL, awp=0.5))(model, batch).loss.backward()
    assert all(torch.equal(before[name], p) and p.is_leaf for name, p in model.named_parameters())


def test_a_training_step_starts_at_w_with_the_slope_at_w_plus_v(model):
    pixels = (random_images(6, 3, 16, 16) * 255).to(torch.uint8)
    start, x = copy.deepcopy(model), (pixels.double() / 255).contiguous(memory_format=torch.channels_last)
    there = moved_by_hand(start, lambda net: F.cross_entropy(net(x), Y), 0.1)
    F.cross_entropy(there(x), Y).backward()

    def lowered(net, batch):
        return at_worst_weights(net, 0.1, lambda: Step(F.cross_entropy(net(batch.x), batch.y), net(batch.x)))

    plan = Plan(epochs=1, batch=6, rate=0.2, schedule="constant", momentum=0.0, decay=0.0)
    list(fit(model, Images(pixels, Y), plan, 0, objective=lowered))
    for w, before, at in zip(model.parameters(), start.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(w, before - 0.2 * at.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("delay", "moves"), [(3, False), (2, True)])
def test_it_sets_in_after_its_delay(delay, moves, model, batch):
    plain = objective(adversarial=Adversarial(ATTACK, BALL))(copy.deepcopy(model), batch).loss
    later = objective(adversarial=Adversarial(ATTACK, BALL, awp=0.05, awp_delay=delay))(model, batch).loss
    assert (later.item() != plain.item()) == moves


def test_the_noise_does_not_move_and_its_statistics_see_one_pass(batch):
    student = network()
    install_noise(student, "adaptive:beta=0.3,learn=element,stat=unit")
    calibrate(student, [batch.x])
    assert any(p.dim() > 1 and p.requires_grad for layer in noise_layers(student) for p in layer.noise.parameters())
    student.train()
    seen = []

    def watched():
        seen.append({name: p.detach().clone() for name, p in student.named_parameters()})
        return lossy(student, batch.x)

    first, tracked = noise_layers(student)[0], student.network.get_buffer("norm.num_batches_tracked").item()
    running = first.noise.spread.running.clone()
    with seeded(0, "noise"):
        at_worst_weights(student, 0.05, watched)
    at_w, at_worst = seen
    moved = {name for name, value in at_w.items() if not torch.equal(value, at_worst[name])}
    assert moved == {name for name, w in student.named_parameters() if w.dim() > 1 and ".noise." not in name}
    assert student.network.get_buffer("norm.num_batches_tracked").item() == tracked + 1
    kernel = next(value for name, value in at_worst.items() if name.endswith("layer.weight"))
    z = first.layer._conv_forward((batch.x - 0.5) / 0.2, kernel, first.layer.bias)
    once = 0.9 * running + 0.1 * (z.var(0, correction=0) + 1e-5).sqrt().float()
    torch.testing.assert_close(first.noise.spread.running, once.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate": 2, "average": 0.9}, {"optimizer": "adamw", "rate": 1e-3}],
    ids=["sgd", "parts", "adamw"],
)
def test_a_training_that_was_killed_goes_on_with_the_same_bytes(settings, tmp_path):
    items = Images((random_images(24, 3, 16, 16) * 255).to(torch.uint8), torch.arange(24) % 5)
    plan = Plan(**{"epochs": 3, "batch": 12, "rate": 0.05, "augment": True, **settings})
    lowered, state = objective(adversarial=Adversarial(ATTACK, BALL, awp=0.02, awp_delay=1)), tmp_path / "s.safetensors"
    whole, killed, resumed = network(), network(), network()
    losses = [epoch.loss for epoch in fit(whole, items, plan, 0, objective=lowered)]
    next(iter(fit(killed, items, plan, 0, state, objective=lowered)))
    again = [epoch.loss for epoch in fit(resumed, items, plan, 0, state, resume=True, objective=lowered)]
    assert again == losses and all(map(math.isfinite, losses))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_in_bf16_the_gradients_are_near(model, batch):
    lowered = objective(adversarial=Adversarial(ATTACK, BALL, awp=0.02))
    single = TrainingBatch(batch.x.float(), batch.y, batch.index, 2, 0)
    found = {}
    for precision in ("fp32", "bf16"):
        net = copy.deepcopy(model).float()
        with select_runtime("cpu", precision).scope():
            found[precision] = torch.cat([g.flatten() for g in gradients(net, lowered(net, single)).values()])
    assert found["bf16"].dtype == torch.float32
    assert F.cosine_similarity(found["fp32"], found["bf16"], dim=0) > 0.98
    assert not torch.equal(found["fp32"], found["bf16"])


def test_a_negative_gamma_is_refused():
    with pytest.raises(UsageError, match="must not be negative"):
        Adversarial(ATTACK, BALL, awp=-0.01)
