"""Stochastic students: what they inherit, what is refused, what their file says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import shared
from safetensors.torch import load_file
from support import cifar_test_images, stochx

from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.io.data import from_arrays
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import at_scale, noise_layers, parameter_groups
from stochx.engine.network.weights import save
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Plan, TrainingBatch, fit
from stochx.engine.training.items import Images
from stochx.engine.world import World
from stochx.errors import InputError
from stochx.lessons import SoftLabels
from stochx.loading import load_model
from stochx.models.convnet import ConvNet
from stochx.network_files import install_noise
from stochx.tasks.distill import calibrate_student, check_teacher, make_criterion, make_student, measure
from stochx.tasks.objectives import Adversarial, objective
from stochx.tasks.reading import stack
from stochx.tasks.train import build, split_for_training

NAMES = ("red", "green", "blue")


def images(count):
    """Noise in which one colour is a little stronger, (N, 16, 16, 3) uint8, and which one, (N,)."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = rng.normal(120, 40, (count, 16, 16, 3))
    pixels[np.arange(count), :, :, labels] += 25
    return pixels.clip(0, 255).astype(np.uint8), labels


DATA = from_arrays(*images(192), NAMES, "colours")


@pytest.fixture(scope="module")
def teacher():
    """A small network that knows three colours."""
    model = build(ConvNet(width=8), NAMES, seed=0)
    model.preparation = Preparation(16, 16)
    learnt = split_for_training(DATA, model.preparation)
    for _ in fit(model, Images(learnt.pixels, learnt.labels), Plan(4, batch=32), seed=0):
        pass
    return model.requires_grad_(False)


def pixels():
    return split_for_training(DATA, Preparation(16, 16)).pixels


def test_a_student_without_noise_is_its_teacher(teacher):
    student = install_noise(make_student(teacher, None, 0), "adaptive:beta=0")
    x = pixels()[:16].float() / 255
    assert torch.equal(student(x), teacher(x))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for name, p in student.named_parameters() if ".noise." not in name)


def test_a_new_student_sees_images_as_the_teacher_does_and_follows_the_seed(teacher):
    first, again, other = (make_student(teacher, lambda: ConvNet(width=4)(3), seed) for seed in (1, 1, 2))
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert first.classes == teacher.classes and torch.equal(first.mean, teacher.mean)


def test_calibration_gives_batch_norms_the_variance_of_noisy_values(teacher):
    student = install_noise(make_student(teacher, None, 0), "adaptive:beta=1")
    calibrate_student(student, pixels(), seed=0)
    norm, was = student.network[1], teacher.network[1]
    torch.testing.assert_close(
        norm.running_var / was.running_var, torch.full_like(was.running_var, 2), rtol=0.35, atol=0
    )
    with at_scale(student, 0.0):
        calibrate_student(student, pixels(), seed=0)
    quiet = (norm.running_var / was.running_var).mean()
    assert 0.7 < quiet < 1.3


def test_accuracy_is_that_of_a_random_draw(teacher):
    student = install_noise(make_student(teacher, None, 0), "adaptive:beta=3")
    student.noise = "sample"
    noisy, quiet = measure(student, stack(DATA, student.preparation), draws=4, seed=0, world=World())
    assert noisy.mean < quiet.mean and noisy.n == 192
    assert 192 * 4 * noisy.mean == pytest.approx(round(192 * 4 * noisy.mean))
    assert measure(student, stack(DATA, student.preparation), draws=4, seed=0, world=World())[0] == noisy


class Unfit(torch.nn.Module):
    def forward(self, x):
        return x


def test_a_teacher_must_be_a_plain_classifier_of_these_classes(teacher):
    with pytest.raises(InputError, match="the teacher returns"):
        check_teacher(Classifier(Unfit(), ["a"], Preparation(16, 16)), DATA)
    with pytest.raises(InputError, match="has 3 classes, but the data set has 4"):
        check_teacher(teacher, from_arrays(*images(8), (*NAMES, "grey"), "colours"))
    noisy = install_noise(make_student(teacher, None, 0), "adaptive")
    noisy.noise = "sample"
    with pytest.raises(InputError, match="already stochastic"):
        check_teacher(noisy, DATA)


def test_learning_from_the_teacher_brings_a_new_student_to_it(teacher):
    train = split_for_training(DATA, teacher.preparation)
    student = make_student(teacher, lambda: ConvNet(width=8)(3), 5)
    x = train.pixels.float() / 255

    def apart():
        return float((logits(student, x).softmax(1) - logits(teacher, x).softmax(1)).abs().mean())

    before = apart()
    lowered = objective(make_criterion(teacher, SoftLabels(tau=2.0, weight=1.0)))
    for _ in fit(student, Images(train.pixels, train.labels), Plan(4, batch=32), seed=0, objective=lowered):
        pass
    assert apart() < before / 2


def test_a_student_without_adversarial_training_falls_with_its_noise_off():
    """The acceptance test of the method's honesty: noise alone hides, it does not protect."""
    student = install_noise(load_model(str(shared("weights_cifar10/resnet20.safetensors"))), "adaptive:beta=0.2")
    x, y = cifar_test_images(64)
    calibrate_student(student, (x * 255).round().to(torch.uint8), seed=0)
    attack = Adversarial(ATTACKS.make("pgd:steps=10"), Ball(8 / 255, "linf"))
    with at_scale(student, 0.0):
        changed = attack.craft(student, TrainingBatch(x, y, torch.arange(64), 0, 0), y, 0)
        assert (logits(student, x).argmax(1) == y).float().mean() > 0.6
        assert (logits(student, changed).argmax(1) == y).float().mean() < 0.05


def test_the_noise_learns_without_decay(teacher):
    student = install_noise(make_student(teacher, None, 0), "adaptive:learn=layer")
    weights, noise = parameter_groups(student)
    assert len(noise["params"]) == len(noise_layers(student)) == 4 and noise["weight_decay"] == 0
    assert len(weights["params"]) == len(list(teacher.parameters()))


@pytest.fixture(scope="module")
def place(teacher, tmp_path_factory):
    """A folder with the teacher and its data."""
    folder = tmp_path_factory.mktemp("teacher")
    save(folder / "teacher.safetensors", teacher)
    pixels, labels = images(96)
    np.savez(folder / "colours.npz", images=pixels, labels=labels, classes=np.array(NAMES))
    return folder


WORDS = ["--teacher", "teacher.safetensors", "--data", "colours.npz", "--batch-size", "32", "--draws", "3"]


def test_the_command_writes_a_student_that_describes_itself(place, tmp_path):
    out = tmp_path / "student"
    done = stochx("distill", *WORDS, "--epochs", 1, "--adversarial", "pgd:steps=2", "-o", out, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["noise"] == "adaptive" and row["kind"] == "sample" and len(row["teacher sha256"]) == 64
    assert 0 <= row["accuracy"] <= 1 and 0 <= row["accuracy_off"] <= 1 and row["accuracy_teacher"] > 0.8
    model = load_model(str(out / "student.safetensors"))
    assert model.noise == "sample" and model.noises == "adaptive" and model.classes == NAMES
    plain = ConvNet(width=8)(3).network
    stored = load_file(out / "student.safetensors")
    plain.load_state_dict({name: value for name, value in stored.items() if ".noise." not in name})
    x = torch.rand(2, 3, 16, 16)
    with at_scale(model, 0.0):
        torch.testing.assert_close(model(x), plain.eval()(model.normalise(x)))


ZERO = """
import torch
from torch import nn


def make():
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(network[4].weight)
    return network
"""


def test_noise_is_measured_after_training_too_as_a_head_that_starts_at_zero_hides_it(place, tmp_path):
    (tmp_path / "zero.py").write_text(ZERO)
    words = ["distill", *WORDS, "--init", "random", "--arch", "zero:make", "--adversarial", "none", "--epochs", 1]
    words = [str(place / word) if word in ("teacher.safetensors", "colours.npz") else word for word in words]
    done = stochx(*words, "-o", tmp_path / "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["kind"] == "sample"


def test_a_run_that_goes_on_ends_with_the_same_student(place, tmp_path):
    words = ["distill", *WORDS, "--adversarial", "none", "--schedule", "constant"]
    assert stochx(*words, "--epochs", 2, "-o", tmp_path / "whole", cwd=place).returncode == 0
    assert stochx(*words, "--epochs", 1, "-o", tmp_path / "parts", cwd=place).returncode == 0
    assert stochx(*words, "--epochs", 2, "-o", tmp_path / "parts", "--resume", cwd=place).returncode == 0
    whole, parts = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_students_file_goes_into_other_commands(place, tmp_path):
    out = tmp_path / "student"
    assert (
        stochx("distill", *WORDS, "--epochs", 1, "--noise", "adaptive:beta=0.5", "-o", out, cwd=place).returncode == 0
    )
    model = out / "student.safetensors"
    assert "adaptive:beta=0.5" in stochx("info", model).stdout
    attack = ["attack", model, *WORDS[2:4], "-a", "pgd:steps=2,eot=2", "--limit", 8, "--checks", "none", "--draws", 4]
    done = stochx(*attack, "-o", tmp_path / "attack", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["noise"] == "sample"
    again = stochx("distill", "--teacher", model, *WORDS[2:], "-o", tmp_path / "again", cwd=place)
    assert again.returncode == 2 and "already stochastic" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--noise", "adaptiv"], "did you mean `adaptive`?"),
        (["--noise", "adaptive:beta=-1"], "beta must not be negative"),
        (["--kd", "tau=hot"], "expects a number"),
        (["--kd", "weight=2"], "weight in [0, 1]"),
        (["--kd", "logit"], "did you mean `logits`?"),
        (["--init", "teachers"], "did you mean `teacher`?"),
        (["--adversarial", "none", "--eps", "8/255"], "needs adversarial training"),
        (["--noise", "adaptive:layers=nowhere.*"], "matches site"),
    ],
)
def test_what_is_refused(place, tmp_path, words, said):
    done = stochx("distill", *WORDS, "--epochs", 1, *words, "-o", tmp_path / "out", cwd=place)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "out").exists()


def test_hints_name_the_teachers_own_options(tmp_path):
    torch.save({"x.weight": torch.zeros(3, 5), "y.weight": torch.zeros(7, 2)}, tmp_path / "odd.pt")
    done = stochx("distill", "--teacher", tmp_path / "odd.pt", "--data", "shapes", "-o", tmp_path / "out")
    assert done.returncode == 2 and "is unknown" in done.stderr
    assert "`--teacher-arch timm:NAME`" in done.stderr and "--arch" not in done.stderr.replace("--teacher-arch", "")


def test_seeds_decide_the_students_noise(teacher):
    student = install_noise(make_student(teacher, None, 0), "adaptive")
    x = pixels()[:4].float() / 255
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed):
            drawn.append(logits(student, x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
