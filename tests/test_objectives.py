"""What a training lowers, against formulas written out image by image; and what crafting leaves as it was."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from conftest import TinyNet, random_images
from torch import nn
from torch.nn import functional as F

from stochx.attacks import APGD, FGSM, PGD, Attempt, Context
from stochx.engine.device import select_runtime
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.engine.training.fit import TrainingBatch
from stochx.errors import UsageError
from stochx.lessons import Features, Logits, SoftLabels, SoftRandomisation
from stochx.network_files import install_noise
from stochx.tasks.objectives import Adversarial, CrossEntropy, Teaching, frozen, objective
from stochx.tasks.train import validation

BALL = Ball(0.03)


def classifier(seed):
    with seeded(seed, "net"):
        net = TinyNet().double()
        for _ in range(5):
            net(torch.rand(32, 3, 16, 16, dtype=torch.float64))
    return Classifier(net, list("abcde"), Preparation(16, 16), (0.5,) * 3, (0.2,) * 3).double()


@pytest.fixture
def student():
    return classifier(1).train()


@pytest.fixture
def teacher():
    return classifier(2).eval().requires_grad_(False)


@pytest.fixture
def batch():
    return TrainingBatch(
        random_images(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([7, 3, 9, 1, 0, 5]), 2, 11
    )


def softmax(row, tau=1.0):
    weights = [math.exp(value / tau) for value in row.tolist()]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values):
    return sum(values) / len(values)


def ce(logits, y):
    return mean([-math.log(softmax(row)[label]) for row, label in zip(logits, y.tolist(), strict=True)])


def mse(a, b):
    return mean([(u - v) ** 2 for u, v in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)])


def test_distillation_is_its_formula(student, teacher, batch):
    step = objective(Teaching(teacher, SoftLabels(tau=3.0, weight=0.7)))(student, batch)
    t, s = teacher(batch.x), step.logits.detach()
    apart = mean([kl(softmax(a, 3.0), softmax(b, 3.0)) for a, b in zip(t, s, strict=True)])
    assert step.loss.item() == pytest.approx(0.3 * ce(s, batch.y) + 0.7 * 9 * apart, abs=1e-12)


def test_distillation_without_weight_is_cross_entropy(student, teacher, batch):
    found = objective(Teaching(teacher, SoftLabels(weight=0.0)))(student, batch).loss.item()
    assert found == pytest.approx(objective(CrossEntropy())(student, batch).loss.item(), abs=1e-12)


def test_matching_is_its_formula(student, teacher, batch):
    student.eval()
    s, t = student(batch.x).detach(), teacher(batch.x)
    logits = objective(Teaching(teacher, Logits(0.6)))(student, batch).loss.item()
    assert logits == pytest.approx(0.4 * ce(s, batch.y) + 0.6 * mse(s, t), abs=1e-12)
    apart = mse(student.features(batch.x).detach(), teacher.features(batch.x))
    features = objective(Teaching(teacher, Features(0.6)))(student, batch).loss.item()
    assert features == pytest.approx(0.4 * ce(s, batch.y) + 0.6 * apart, abs=1e-12)


def test_features_of_other_widths_are_refused(student, teacher, batch):
    teacher.network.linear = nn.Linear(8, 5).double()
    teacher.network.forward = lambda x: teacher.network.linear(x.new_zeros(len(x), 8))
    with pytest.raises(UsageError, match="the student's features"):
        objective(Teaching(teacher, Features()))(student, batch)


def test_smoothed_labels_are_shared_with_all_classes(student, batch):
    step = objective(CrossEntropy(0.2))(student, batch)
    logs = [[math.log(p) for p in softmax(row)] for row in step.logits.detach()]
    wanted = mean([-0.8 * row[label] - 0.2 * mean(row) for row, label in zip(logs, batch.y.tolist(), strict=True)])
    assert step.loss.item() == pytest.approx(wanted, abs=1e-12)


def test_trades_without_weight_is_clean_cross_entropy(student, batch):
    found = objective(adversarial=Adversarial(PGD(steps=2), BALL, "trades", trades=0.0))(student, batch)
    assert found.loss.item() == pytest.approx(ce(found.logits.detach(), batch.y), abs=1e-12)


def test_validation_climbs_the_margin_where_labels_were_smoothed():
    """Logits hundreds apart have no gradient of cross-entropy in single precision; the margin's leads over the edge."""
    weights = 5 * torch.cat([torch.ones(1, 192), -torch.ones(1, 192)])
    linear = nn.Linear(192, 2)
    linear.weight.data, linear.bias.data = weights, torch.tensor([-390.0, 390.0])
    model = Classifier(
        nn.Sequential(nn.Flatten(), linear), ["a", "b"], Preparation(8, 8), (0.0,) * 3, (1.0,) * 3
    ).eval()
    pixels, y = torch.full((4, 3, 8, 8), 224, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    robust = {
        loss: validation(pixels, y, Adversarial(PGD(), Ball(0.5)), loss=loss)(model)["robust"]
        for loss in ("ce", "margin")
    }
    assert robust == {"ce": 1.0, "margin": 0.0}


def test_soft_randomisation_shows_the_student_noise_and_the_teacher_none(student, teacher, batch):
    student.eval()
    with seeded(0, "x"):
        found = objective(Teaching(teacher, SoftRandomisation(sigma=0.2, tau=2.0, weight=0.5)))(student, batch)
    with seeded(0, "x"):
        s = student(batch.x + 0.2 * torch.randn_like(batch.x)).detach()
    torch.testing.assert_close(found.logits.detach(), s)
    apart = mean([kl(softmax(a, 2.0), softmax(b, 2.0)) for a, b in zip(teacher(batch.x), s, strict=True)])
    assert found.loss.item() == pytest.approx(0.5 * ce(s, batch.y) + 0.5 * 4 * apart, abs=1e-12)


def crafted(model, batch, attack, y, seed=0):
    """x' of the attack itself, on the network in eval mode."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    keys = [f"{seed}/2/{image}" for image in (7, 3, 9, 1, 0, 5)]
    return attack(model, batch.x, y, BALL, Context(keys)).x


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=3), APGD(steps=3)], ids=lambda a: type(a).__name__)
def test_madry_learns_what_the_attack_itself_makes_and_ard_what_the_teacher_says_of_the_clean_image(
    attack, student, teacher, batch
):
    adv = crafted(student, batch, attack, batch.y, seed=4)
    assert 0.029 < (adv - batch.x).abs().max() <= 0.03 + 1e-12
    s = copy.deepcopy(student)(adv).detach()
    found = objective(Teaching(teacher, SoftLabels(1.0, 1.0)), Adversarial(attack, BALL), seed=4)(student, batch)
    torch.testing.assert_close(found.logits.detach(), s)
    apart = mean([kl(softmax(a), softmax(b)) for a, b in zip(teacher(batch.x), s, strict=True)])
    assert found.loss.item() == pytest.approx(apart, abs=1e-12)


@pytest.mark.parametrize("lesson", [SoftLabels(3.0, 0.7), SoftRandomisation(0.0, 3.0, 0.7)], ids=["soft", "random"])
def test_ard_is_its_formula(lesson, student, teacher, batch):
    """(1 - alpha) CE(net(x), y) + alpha tau^2 KL(teacher(x) || net(x')): the plain term is that of the clean image."""
    adv = crafted(student, batch, PGD(steps=3), batch.y)
    clean, attacked = (copy.deepcopy(student)(x).detach() for x in (batch.x, adv))
    apart = mean([kl(softmax(t, 3.0), softmax(s, 3.0)) for t, s in zip(teacher(batch.x), attacked, strict=True)])
    found = objective(Teaching(teacher, lesson), Adversarial(PGD(steps=3), BALL, "ard"))(student, batch)
    assert found.loss.item() == pytest.approx(0.3 * ce(clean, batch.y) + 0.7 * 9 * apart, abs=1e-12)
    madry = objective(Teaching(teacher, lesson), Adversarial(PGD(steps=3), BALL))(student, batch)
    assert madry.loss.item() == pytest.approx(0.3 * ce(attacked, batch.y) + 0.7 * 9 * apart, abs=0.05)
    assert abs(madry.loss.item() - found.loss.item()) > 1e-4


def test_ard_needs_a_lesson():
    with pytest.raises(UsageError, match="needs a teacher"):
        objective(adversarial=Adversarial(PGD(steps=3), BALL, "ard"))


def test_mixed_leaves_the_clean_prediction_and_learns_both(student, batch):
    said = copy.deepcopy(student).eval()(batch.x).argmax(1)
    assert not torch.equal(said, batch.y)
    adv = crafted(student, batch, PGD(steps=3), said)
    clean, attacked = (copy.deepcopy(student)(x).detach() for x in (batch.x, adv))
    found = objective(adversarial=Adversarial(PGD(steps=3), BALL, "mixed"))(student, batch)
    assert found.loss.item() == pytest.approx(0.5 * ce(clean, batch.y) + 0.5 * ce(attacked, batch.y), abs=1e-12)


def test_trades_is_its_formula(student, batch):
    adv = crafted(student, batch, PGD(steps=3, loss="kl"), batch.y)
    clean, attacked = (copy.deepcopy(student)(x).detach() for x in (batch.x, adv))
    apart = mean([kl(softmax(a), softmax(b)) for a, b in zip(clean, attacked, strict=True)])
    found = objective(adversarial=Adversarial(PGD(steps=3), BALL, "trades", trades=2.0))(student, batch)
    assert apart > 1e-4
    assert found.loss.item() == pytest.approx(ce(clean, batch.y) + 2 * apart, abs=1e-12)


def test_trades_at_the_image_itself_is_the_criterion_alone(student, batch):
    plain = objective()(copy.deepcopy(student), batch).loss.item()
    found = objective(adversarial=Adversarial(PGD(steps=2), Ball(0.0), "trades"))(student, batch).loss.item()
    assert found == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("attack", [FGSM(), PGD(random_start=True), PGD(random_start=False)], ids=str)
def test_trades_needs_an_attack_on_the_divergence(attack):
    if getattr(attack, "random_start", False):
        assert Adversarial(attack, BALL, "trades").attack.loss == "kl"
    else:
        with pytest.raises(UsageError, match="trades"):
            Adversarial(attack, BALL, "trades")


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="unknown recipe `trade`"):
        Adversarial(PGD(), BALL, "trade")  # type: ignore[arg-type]


@pytest.mark.parametrize("fails", [False, True])
def test_crafting_returns_every_mode_and_flag(student, batch, fails):
    @dataclass(frozen=True)
    class Looking:
        def __call__(self, model, x, y, ball, context):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            if fails:
                raise ZeroDivisionError
            return Attempt(x, y, y, y)

    student.network.norm.eval()
    student.network.linear.requires_grad_(False)
    modes = [m.training for m in student.modules()]
    flags = [p.requires_grad for p in student.parameters()]
    adversarial = Adversarial(Looking(), BALL)
    if fails:
        with pytest.raises(ZeroDivisionError):
            adversarial.craft(student, batch, batch.y, 0)
    else:
        adversarial.craft(student, batch, batch.y, 0)
    assert modes == [m.training for m in student.modules()]
    assert flags == [p.requires_grad for p in student.parameters()]


def test_crafting_keeps_the_noise_on_and_reads_no_batch_statistics(batch):
    model = install_noise(classifier(1).eval(), "adaptive:beta=0.5").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adversarial = Adversarial(PGD(steps=3), BALL)
    with seeded(0, "a"):
        one = adversarial.craft(model, batch, batch.y, 0)
    with seeded(0, "b"):
        other = adversarial.craft(model, batch, batch.y, 0)
    assert not torch.equal(one, other), "two draws of the noise lead elsewhere"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_starts_follow_image_and_epoch_and_not_the_batch(student, batch):
    adversarial = Adversarial(PGD(steps=1, step=1e-9), BALL)
    with frozen(student):
        whole = adversarial.craft(student, batch, batch.y, 0)
        later = TrainingBatch(batch.x, batch.y, batch.index, 3, 11)
        assert not torch.equal(whole, adversarial.craft(student, later, batch.y, 0))
        part = TrainingBatch(batch.x[2:4], batch.y[2:4], batch.index[2:4], 2, 99)
        torch.testing.assert_close(whole[2:4], adversarial.craft(student, part, part.y, 0))


def test_a_delay_is_plain_training(student, batch):
    plain = objective()(copy.deepcopy(student), batch).loss.item()
    for delay, same in ((3, True), (2, False)):
        found = objective(adversarial=Adversarial(PGD(steps=2), BALL, delay=delay))(copy.deepcopy(student), batch)
        assert (found.loss.item() == plain) == same


def test_a_penalty_is_added(student, batch):
    plain = objective()(copy.deepcopy(student), batch).loss
    found = objective(penalty=lambda model: 3 * model.network.linear.weight.sum())(student, batch).loss
    torch.testing.assert_close(found - plain, 3 * student.network.linear.weight.sum())


def test_bf16_crafting_stays_in_the_ball_and_near(student, batch):
    student, batch = student.float(), TrainingBatch(batch.x.float(), batch.y, batch.index, 2, 11)
    adversarial = Adversarial(PGD(steps=3), BALL)
    full = adversarial.craft(student, batch, batch.y, 0)
    with select_runtime("cpu", "bf16").scope():
        low = adversarial.craft(student, batch, batch.y, 0)
    assert low.dtype == torch.float32 and (low - batch.x).abs().max() <= 0.03 + 1e-6
    losses = [F.cross_entropy(copy.deepcopy(student).eval()(x), batch.y).item() for x in (batch.x, full, low)]
    assert losses[2] > losses[0] + 0.8 * (losses[1] - losses[0])
