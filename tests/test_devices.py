"""Entries on a device that is not the CPU: a stand-in for one, see `devices`, where none is at hand."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from devices import DEVICE, device, to_device
from torch import nn

from stochx.catalog import ATTACKS, ATTRIBUTIONS, GUIDES, HEADS, LESSONS, METRICS, MODELS, NOISES
from stochx.engine.device import as_float64
from stochx.engine.expectation import needed_draws
from stochx.engine.fewshot.head import guided_loss
from stochx.engine.gradients import logits
from stochx.engine.io.images import Preparation
from stochx.engine.network.stochastic import penalty
from stochx.engine.seeds import generator
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Plan, fit
from stochx.engine.training.items import Images
from stochx.network_files import install_noise
from stochx.tasks.objectives import Adversarial, objective
from stochx.testing.samples import features, make_head, sample_parts

KEYS = ["a", "b", "c"]
SIZES = {"linf": 0.02, "l2": 0.5, "l1": 3.0}


@pytest.fixture
def there(monkeypatch):
    """Return a function that calls another one on the device, and returns its result with the block of the device."""

    def run(work):
        with device(monkeypatch) as block:
            return work(), block

    return run


class Small(nn.Module):
    """A network whose batch norm has seen data, with a stem, for images of 12 x 12."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten()
        )
        self.last = nn.Linear(54, 4)

    def forward(self, x):
        return self.last(self.layers(x))


@pytest.fixture(scope="module")
def data():
    """Return a network on the CPU, three images and what it predicts."""
    torch.manual_seed(0)
    net, x = Small().eval(), torch.rand(3, 3, 12, 12)
    return net, x, net(x).argmax(1)


def moved(data):
    net, x, y = data
    return to_device(copy.deepcopy(net)), to_device(x), to_device(y)


def near(found, expected):
    """Check that a tensor is on the device, and has the values that it has on the CPU."""
    assert found.device == DEVICE and found.dtype == torch.float32
    torch.testing.assert_close(found.inside.detach(), expected.detach(), rtol=1e-4, atol=1e-5)


def shortened(attack):
    """Return the attack with few steps."""
    return replace(attack, **{k: n for k, n in {"steps": 3, "queries": 4, "tries": 2}.items() if hasattr(attack, k)})


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_map_is_computed_on_the_device(name, data, there):
    method, (net, x, y) = ATTRIBUTIONS.make(name), data
    expected = method(net, x, y, KEYS).map
    near(there(lambda: method(*moved(data), KEYS).map)[0], expected)


MADE_OF_OTHERS = {"autoattack", "autoattack-rand", "malt", "multitargeted", "rand", "standard"}
ON_NORMS = [
    (name, norm)
    for name in ATTACKS
    for norm in list(ATTACKS.declares(name, "norms") or SIZES)[: 1 if name in MADE_OF_OTHERS else None]
    if not ATTACKS.declares(name, "needs_ensemble")
]


@pytest.mark.parametrize(("name", "norm"), ON_NORMS)
def test_an_attack_steps_on_the_device(name, norm, data, there):
    def work():
        model, x, y = moved(data)
        source = model if ATTACKS.declares(name, "needs_source") else None
        return shortened(ATTACKS.make(name))(model, x, y, SIZES[norm], norm, keys=KEYS, source=source).x

    assert there(work)[0].device == DEVICE


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_measures_on_the_device(name, data, there):
    (first, *_), method = METRICS.declares(name, "examples") or ("",), ATTRIBUTIONS.make("gradient")
    metric, mask = METRICS.make(f"{name}:{first}" if first else name), torch.zeros(3, 12, 12, dtype=torch.bool)
    mask[:, 3:8, 3:8] = True
    parts = sample_parts(data[1], data[2].tolist())

    def measured(model, x, y, mask):
        maps = method(model, x, y, KEYS).map
        return metric(model, x, maps, y, explain=method, mask=mask, parts=parts, keys=KEYS).value

    expected = measured(*data, mask)
    near(there(lambda: measured(*moved(data), to_device(mask)))[0], expected)


def small_classifier(noise=""):
    """Return a small network with the noise, which may need residual blocks."""
    blocks = noise and "block" in NOISES.make(noise).site
    model = MODELS.make("resnet-cifar:depth=8" if blocks else "convnet:width=2")(4)
    model.preparation = Preparation(12, 12)
    return (install_noise(model, noise) if noise else model).eval()


def train(model, steps, adversarial=None, size=4, **plan):
    """Train for some steps of `size` images."""
    count = steps * size
    pixels = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8)
    images, plan = Images(pixels, torch.arange(count) % 4), Plan(1, batch=size, augment=True, average=0.9, **plan)
    (epoch,) = fit(model, images, plan, 0, objective=objective(adversarial=adversarial, penalty=penalty))
    return epoch.loss


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_drawn_and_trained_on_the_device(name, data, there):
    model, x = small_classifier(name), data[1]

    def work():
        net = to_device(model)
        return logits(net, to_device(x)), train(net, 1)

    (out, loss), _ = there(work)
    assert out.device == DEVICE and math.isfinite(loss)


def test_adversarial_training_with_a_draw_of_noise_a_step_runs_on_the_device(data, there):
    model, attack = small_classifier("gaussian"), Adversarial(ATTACKS.make("pgd:steps=2"), Ball(0.02))
    assert math.isfinite(there(lambda: train(to_device(model), 1, attack, optimizer="adamw"))[0])


def test_the_draws_that_a_gradient_needs_are_measured_on_the_device(data, there):
    model, (_, x, y) = small_classifier("gaussian"), data
    found, _ = there(lambda: needed_draws(to_device(model), to_device(x), to_device(y), Ball(0.02), 0))
    assert 2 <= found.draws <= 50


@pytest.mark.parametrize("head", HEADS)
def test_a_head_and_its_guides_are_trained_on_the_device(head, there):
    made, maps, y = make_head(head).float(), [part.float() for part in features()], torch.arange(6).expand(2, -1) // 2

    def losses(module, place):
        return [guided_loss(module, GUIDES.make(guide), *map(place, maps), place(y), ("key",))[0] for guide in guides]

    guides = [guide for guide in GUIDES if (head, guide) != ("gnn", "gradcam")]  # which compares vectors
    expected = losses(copy.deepcopy(made), lambda part: part.clone())
    found, _ = there(lambda: losses(to_device(made), to_device))
    for one, other in zip(found, expected, strict=True):
        near(one, other)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_taught_on_the_device(name, data, there):
    lesson, x, y = LESSONS.make(name), data[1], data[2]
    models = [small_classifier(noise) for noise in ("", "gaussian")]

    def work():
        teacher, student = map(to_device, models)
        return lesson(teacher, student, student(to_device(x)), to_device(x), to_device(y))

    loss, _ = there(work)
    assert loss.device == DEVICE and loss.inside.isfinite()


# Waits ------------------------------------------------------------------------------------------------------------


def waits(there, work):
    """Return how often the CPU waits for the device, or copies from it."""
    _, block = there(work)
    return sum(block.waits.values()) + block.copies["from the device"]


PER_STEP = {  # the check for values that are not finite, and the look for images that are misclassified
    "pgd": 2,
    "pgd:momentum=0.5": 2,
    "apgd": 2,
    "pma": 4,  # two passes
    "square": 2,
}


@pytest.mark.parametrize("text", PER_STEP)
def test_a_step_of_an_attack_waits_for_the_device_as_often_for_any_number_of_images(text, data, there):
    def count(steps, images):
        attack = ATTACKS.make(text)
        attack = replace(attack, **{"queries" if text == "square" else "steps": steps})

        def work():
            model, x, y = moved(data)
            attack(model, x[:images], y[:images], 1e-6, "linf", keys=KEYS[:images])

        return waits(there, work)

    few = count(2, 1)
    assert count(2, 3) == few and count(6, 3) == few + 4 * PER_STEP[text]


@pytest.mark.parametrize(
    ("few", "many"),
    [
        ("ig:steps=8", "ig:steps=16"),
        ("smoothgrad:samples=8", "smoothgrad:samples=16"),
        ("smoothtaylor:roots=8", "smoothtaylor:roots=16"),
        ("occlusion:window=6,stride=6", "occlusion:window=6,stride=3"),
    ],
)
def test_a_map_waits_for_the_device_as_often_for_any_number_of_points(few, many, data, there):
    def count(text, images):
        def work():
            model, x, y = moved(data)
            ATTRIBUTIONS.make(text)(model, x[:images], y[:images], KEYS[:images])

        return waits(there, work)

    assert count(few, 3) == count(many, 3) == count(few, 1)


def test_a_step_of_training_waits_for_its_loss_its_gradient_and_what_is_right(there):
    def count(steps, size):
        return waits(there, lambda: train(to_device(small_classifier()), steps, size=size))

    assert count(4, 4) - count(2, 4) == 2 * 3
    assert count(2, 8) == count(2, 4)


# The device itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda x: x + torch.ones(3), "two devices"),
        (lambda x: x.double(), "no float64"),
        (lambda x: torch.rand(3, generator=generator("key"), device=x.device), "another device"),
        (lambda x: torch.rand(3, generator=generator("key", device=x.device)), "another device"),
    ],
)
def test_the_device_refuses_what_accelerators_refuse(work, message, there):
    with pytest.raises((RuntimeError, TypeError), match=message):
        there(lambda: work(to_device(torch.ones(3))))


def test_the_device_counts_waits_and_computes(there):
    def work():
        x = to_device(torch.arange(3.0))
        values = float(x.sum()), x[x > 0.5].cpu().tolist(), as_float64(x).tolist(), (x + torch.tensor(1.0)).tolist()
        return values, x.new_tensor([1.0]).device, torch.tensor(2.0, device=x.device).device

    (values, *devices), block = there(work)
    assert values == (3.0, [1.0, 2.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]) and devices == [DEVICE, DEVICE]
    assert block.waits == {"_local_scalar_dense": 1, "index": 1} and block.copies["from the device"] == 3
