"""What people give to methods, attacks and metrics from Python: it works, or is one error that says what to mend."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from support import refused
from torch import nn

import stochx
from stochx.attacks import FGSM, PGD, Transfer
from stochx.attributions import Gradient, IntegratedGradients, SmoothTaylor
from stochx.errors import StochxError
from stochx.metrics import AUPC, MaxSensitivity, PointingGame, Sparseness
from stochx.models import Classifier, Preparation
from stochx.noises import Gaussian
from stochx.testing.samples import tiny_network


@pytest.mark.parametrize(
    "target",
    [1, (1, 1, 1), torch.tensor(1), torch.tensor([1]), torch.tensor([1, 1, 1], dtype=torch.int16), np.array([1, 1, 1])],
    ids=repr,
)
def test_a_target_is_one_class_for_all_or_one_for_each(target, tiny, images):
    x = images[:3]
    expected = Gradient()(tiny, x, torch.tensor([1, 1, 1])).map
    assert torch.equal(Gradient()(tiny, x, target).map, expected) and expected.abs().flatten(1).sum(1).min() > 0


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        (420, "`target` holds class 420, the model has 5", "use 0 to 4"),
        (-1, "`target` holds class -1", "use 0 to 4"),
        ([0, 1], "`target` has 2 classes for 3 images", "one for all, or one each"),
        (torch.eye(5)[:3], "`target` is (3, 5), one-hot", "`target.argmax(1)`"),
        (torch.ones(3), "`target` is float32", "`.long()`"),
        (torch.ones(3, dtype=torch.bool), "`target` is bool", "`.long()`"),
        (torch.zeros(3, 1).long(), "`target` is (3, 1)", "(N,)"),
        ("cat", "`target` is `'cat'`", "a class index"),
        (1.0, "`target` is `1.0`", "a class index"),
        ([], "`target` is empty", "a class index"),
    ],
)
def test_what_is_no_class_is_refused_by_every_family(target, message, hint, tiny, images):
    x = images[:3]
    refused(lambda: Gradient()(tiny, x, target), message, hint)
    refused(lambda: stochx.gradient(tiny, x, target), message, hint)
    refused(lambda: Sparseness()(tiny, x, x, target), message, hint)
    refused(lambda: FGSM()(tiny, x, 0, target=target), message, hint)
    refused(lambda: FGSM()(tiny, x, target), message.replace("target", "y"), hint.replace("target", "y"))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda x: x * 255, "divide by 255", "read_image"),
        (lambda x: (x * 255).byte(), "`x` is uint8, not floats in [0, 1]: divide by 255", "x / 255"),
        (lambda x: x.numpy(), "`x` is a ndarray", "torch.as_tensor"),
        (lambda x: "img.jpg", "`x` is a str", "stochx.read_image"),
        (lambda x: x[0, 0], "`x` is (16, 16)", "(C, H, W)"),
        (lambda x: x[:0], "`x` is (0, 3, 16, 16), without an image", "one image"),
        (lambda x: x.movedim(1, -1), "cannot take images (16, 16, 3)", "`x.movedim(-1, -3)`"),
        (lambda x: x[:, :1], "cannot take images (1, 16, 16)", "channels"),
        (lambda x: x / 0, "`x` holds NaN or infinity", "check"),
        (lambda x: x.to("meta"), "`x` is on `meta`, the model on `cpu`", '`x.to("cpu")`'),
    ],
)
def test_images_that_cannot_be_used_are_one_error_in_every_family(change, message, hint, tiny, images):
    x = change(images)
    refused(lambda: Gradient()(tiny, x, 1), message, hint)
    refused(lambda: FGSM()(tiny, x, 1), message, hint)
    refused(lambda: Sparseness()(tiny, x, images, 1), message, hint)


def test_pixels_of_a_classifier_lie_in_0_to_1_as_it_normalises_them(tiny, images):
    model = Classifier(tiny, list("abcde"), Preparation(16, 16)).eval()
    refused(lambda: Gradient()(model, 4 * images - 2, 1), "not 0 to 1", "the model normalises them itself")
    assert Gradient()(tiny, 4 * images - 2, 1).map.shape == images.shape  # the network's own, normalised outside
    refused(lambda: FGSM()(tiny, 4 * images - 2, 1), "not 0 to 1", "`stochx.models.Classifier`")


def test_a_single_channel_is_not_repeated_by_the_normalisation(tiny, images):
    model = Classifier(tiny, list("abcde"), Preparation(16, 16)).eval()
    refused(lambda: Gradient()(model, images[:, :1], 1), "`x` has 1 channel, the model takes 3", "repeat")
    refused(lambda: FGSM()(model, images[0, :1], 1), "`x` has 1 channel, the model takes 3", "repeat")
    assert Gradient()(model, images[:, :1].repeat_interleave(3, -3), 1).map.shape == images.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_any_float_type_are_taken_in_that_of_the_network(dtype, tiny, images):
    x = images.to(dtype)
    assert torch.equal(Gradient()(tiny, x, 1).map, Gradient()(tiny, x.double(), 1).map)
    assert Gradient()(tiny.float(), x, 1).map.dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "message", "hint"),
    [
        (lambda: tiny_network().train(), "the model is in train mode", "`model.eval()`"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(), nn.LazyLinear(3)), "in train mode", "`model.eval()`"),
        (lambda: "resnet18", "`model` is the text `resnet18`", "load_model"),
        (lambda: nn.Linear, "`model` is a type", "torch.nn.Module"),
        (lambda: nn.Conv2d(3, 2, 3).double(), "the model returns (1, 2, 14, 14) for one image", "logits (N, K)"),
        (lambda: lambda x: (x, x), "the model returns a tuple", "logits (N, K)"),
    ],
)
def test_a_network_that_cannot_be_used_is_one_error(model, message, hint, images):
    network = model()
    refused(lambda: Gradient()(network, images, 1), message, hint)


def test_a_refused_network_in_train_mode_is_left_as_it_was(images):
    network = tiny_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    refused(lambda: PGD(steps=2)(network, images, 1), "train mode")
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_dropout_that_is_switched_on_by_itself_is_noise(images):
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 3)).double().eval()
    network[1].train()
    assert not torch.equal(Gradient()(network, images, 1).map, Gradient()(network, images, 1).map)


def test_weights_that_were_made_in_inference_mode_are_named(images):
    with torch.inference_mode():
        network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).double()
    refused(lambda: Gradient()(network, images, 1), "`torch.inference_mode`", "outside")


def test_a_map_of_an_image_that_requires_gradients_carries_none(tiny, images):
    expected = IntegratedGradients(steps=3)(tiny, images, 1).map
    found = IntegratedGradients(steps=3)(tiny, images.clone().requires_grad_(), 1).map
    assert torch.equal(found, expected) and not found.requires_grad


def test_numbers_and_parts_of_a_single_image_have_no_batch_axis(tiny, images):
    explanation = IntegratedGradients(steps=3)(tiny, images[0], 1, keys="a")
    assert explanation.map.shape == (3, 16, 16) and explanation.gap.shape == () and explanation.used == 3
    attempt = FGSM()(tiny, images[0], 1)
    assert attempt.x.shape == (3, 16, 16) and attempt.forwards == 1
    assert stochx.gradient(tiny, images[0], 1).shape == (3, 16, 16) and stochx.logits(tiny, images[0]).shape == (5,)


def test_keys_are_one_for_each_image(tiny, images):
    method = SmoothTaylor(roots=3)
    refused(lambda: method(tiny, images, 1, keys="abcde"), "`keys` is `abcde`", "one key for each image")
    refused(lambda: method(tiny, images, 1, keys=["a"]), "1 `keys` for 5 images", "one for each")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"eps": 8}, "`eps` is 8, but pixels lie in [0, 1]", "8 / 255"),
        ({"eps": -0.1}, "`eps` is `-0.1`", "8 / 255"),
        ({"eps": float("nan")}, "`eps` is `nan`", "8 / 255"),
        ({"eps": "8/255"}, "`eps` is `'8/255'`", "8 / 255"),
        ({"norm": "l3"}, "unknown norm `'l3'`", "linf, l2, l1"),
    ],
)
def test_a_ball_that_cannot_be_used_is_one_error(options, message, hint, tiny, images):
    refused(lambda: FGSM()(tiny, images, 1, **options), message, hint)


def test_an_attack_with_defaults_breaks_what_it_breaks_with_a_ball_and_a_judge(trained, waves):
    x, y = waves
    adversarial = PGD(steps=10)(trained, x, y, eps=0.03).x
    right = (trained(adversarial).argmax(1) == y).double().mean()
    assert (adversarial - x).abs().max() <= 0.03 + 1e-12 and right < (trained(x).argmax(1) == y).double().mean()
    targeted = PGD(steps=10)(trained, x, y, 0.1, target=2).x
    assert (trained(targeted).argmax(1) == 2).double().mean() > (trained(x).argmax(1) == 2).double().mean()


def test_an_attack_on_a_stochastic_network_runs_to_its_end(images):
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(768, 3)).double().eval()
    network[1].train()
    assert PGD(steps=3, eot=1)(network, images, 1).forwards.tolist() == [3] * 5
    assert PGD(steps=3)(network, images, 1).forwards.min() >= 3 * 2, "as many draws as its gradient needs"


def test_transfer_takes_its_source(tiny, images):
    refused(lambda: Transfer(steps=2)(tiny, images, 1), "needs a network to craft on", "`source=`")
    assert Transfer(steps=2)(tiny, images, 1, source=tiny_network(3)).x.shape == images.shape


FORMS = {
    "an explanation": lambda e: e,
    "channels": lambda e: e.map,
    "a channel": lambda e: e.map.sum(1, keepdim=True),
    "no channels": lambda e: e.map.sum(1),
    "an array": lambda e: e.map.numpy(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_metric_takes_maps_in_any_form(form, tiny, images):
    explanation = IntegratedGradients(steps=3)(tiny, images, 1)
    metric = AUPC(regions=3, draws=3, kernel=2, read="probability")
    expected, found = (
        metric(tiny, images, explanation, 1).value,
        metric(tiny, images, FORMS[form](explanation), 1).value,
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(Sparseness()(map=FORMS[form](explanation)).value, Sparseness()(map=explanation).value)


def test_the_map_of_one_image_has_one_score(tiny, images):
    one = IntegratedGradients(steps=3)(tiny, images[0], 1)
    metric = AUPC(regions=3, draws=3, kernel=2, read="probability")
    score = metric(tiny, images[0], one, 1)
    assert score.value.shape == () and score.curve.shape == score.places.shape == (4,)
    for form in (one.map, one.map.sum(0), one.map.sum(0).numpy()):
        torch.testing.assert_close(metric(tiny, images[0], form, 1).value, score.value, rtol=1e-9, atol=0)
    assert Sparseness()(map=one).value.shape == Sparseness()(map=one.map.sum(0)).value.shape == ()


def test_a_metric_says_what_it_lacks(tiny, images):
    maps = images
    refused(lambda: AUPC()(map=maps), "`AUPC` needs the network and the images", "metric(model, x, map)")
    refused(lambda: AUPC()(tiny, images), "`AUPC` needs maps", "explain=method")
    refused(lambda: MaxSensitivity()(tiny, images, maps), "`MaxSensitivity` needs `explain`", "explain=method")
    refused(lambda: PointingGame()(map=maps), "`PointingGame` needs `mask`", "(N, H, W)")
    refused(lambda: PointingGame()(map=maps, mask=maps[0, 0]), "`mask` is (16, 16)", "(N, H, W)")
    refused(lambda: AUPC()(tiny, images, maps[:2]), "`map` is (2, 3, 16, 16) for images (5, 3, 16, 16)", "one map")
    refused(lambda: Sparseness()(map=maps / 0), "`map` holds NaN", "leave")
    refused(lambda: Sparseness()(map="a.npz"), "`map` is a str", "a tensor or an array")


def test_a_metric_makes_the_map_again_with_the_same_draws(tiny, images):
    method, metric = SmoothTaylor(roots=3), MaxSensitivity(draws=2)
    given = metric(tiny, images, method(tiny, images, 1, keys=list("abcde")), 1, explain=method, keys=list("abcde"))
    made = metric(tiny, images, target=1, explain=method, keys=list("abcde"))
    assert torch.equal(given.value, made.value)


def test_hints_stand_in_a_traceback():
    error = stochx.InputError("no such file: `x`", "check the path")
    assert error.__notes__ == ["hint: check the path"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(baseline="x"), "does not accept `x`"),
        (lambda: PGD(steps=2.5), r"`PGD\(steps=...\)` expects a whole number, got `2.5`"),
        (lambda: PGD(steps=True), "expects a whole number"),
        (lambda: PGD(steps=10**400), "expects a whole number, got `1000"),
        (lambda: PGD(step=math.nan), "expects a number"),
        (lambda: PGD(0), "steps and restarts must be at least 1"),
        (lambda: Gaussian(sigma="a"), "expects a number"),
        (lambda: dataclasses.replace(PGD(), steps="3"), "expects a whole number"),
    ],
)
def test_values_of_entries_are_checked_from_python(make, message):
    with pytest.raises(StochxError, match=message):
        make()


def test_entries_take_numbers_of_numpy():
    assert PGD(steps=np.int64(3), step=np.float32(0.5)).steps == 3
