"""What every entry of every family must do; a new file is tested the moment it exists."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stochx.attacks import Context
from stochx.catalog import ATTACKS, ATTRIBUTIONS, DATASETS, FAMILIES, METRICS, MODELS
from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.threat import Ball
from stochx.metrics import Evidence

CHEAP = {
    "smoothgrad": "smoothgrad:samples=6",
    "smoothtaylor": "smoothtaylor:roots=6",
    "ig": "ig:steps=6",
    "blurred-ig": "blurred-ig:steps=6",
}
RANDOM = {"smoothgrad", "smoothtaylor"}


def explain(name, model, x, y, keys=None):
    return ATTRIBUTIONS.make(CHEAP.get(name, name))(model, x, y, keys)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_is_a_frozen_dataclass_with_help(family):
    catalog = FAMILIES[family]
    assert list(catalog)
    for name in catalog:
        entry = catalog.load(name)
        assert entry.__dataclass_params__.frozen, name
        assert catalog.summary(name).endswith("."), name
        assert [f.name for f in dataclasses.fields(entry)] == [f.name for f in catalog.fields(name)]
        assert all(f.help for f in catalog.fields(name)), name


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_map_has_the_images_shape_and_repeats(name, tiny, images):
    y = tiny(images).argmax(1)
    first, second = explain(name, tiny, images, y), explain(name, tiny, images, y)
    assert torch.equal(first.map, second.map)
    assert first.map.shape in (images.shape, (len(images), 1, *images.shape[2:]))
    assert first.map.isfinite().all() and not first.map.requires_grad and first.map.dtype == images.dtype


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_map_does_not_depend_on_its_batch_neighbours(name, tiny, images):
    y = tiny(images).argmax(1)
    together = explain(name, tiny, images, y, keys=["a", "b", "c", "d", "e"]).map
    alone = explain(name, tiny, images[3:4], y[3:4], keys=["d"]).map
    torch.testing.assert_close(together[3:4], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_explaining_leaves_the_model_and_the_global_generator_alone(name, tiny, images):
    y = tiny(images).argmax(1)
    weights = {key: value.clone() for key, value in tiny.state_dict().items()}
    generator = torch.get_rng_state()
    explain(name, tiny, images, y)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, weights[key]) for key, value in tiny.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in tiny.parameters())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_maps_follow_their_keys(name, tiny, images):
    y = tiny(images).argmax(1)
    a, b = explain(name, tiny, images, y, keys=range(5)), explain(name, tiny, images, y, keys=range(1, 6))
    assert not torch.allclose(a.map, b.map)
    assert a.error is not None and a.used.tolist() == [6] * 5


def evidence(model, x, places, scale=1.0):
    """All that a metric may ask for, of the images at `places` of x."""
    some, keys = x[places], [f"key {n}" for n in places]
    mask = torch.zeros(some.shape[0], *x.shape[2:], dtype=torch.bool)
    mask[:, 3:9, 4:12] = True
    y = model(some).argmax(1)

    def make(network, pixels, target):
        return ATTRIBUTIONS.make("smoothgrad:samples=3")(network, pixels, target, keys).map * scale

    return Evidence(make(model, some, y), keys, some, y, model, make, mask)


METRIC_TEXTS = {
    "aupc": "aupc:regions=4,draws=3,kernel=2,read=probability",
    "infidelity": "infidelity:draws=5",
    "max-sensitivity": "max-sensitivity:draws=2",
    "randomisation": "randomisation:stages=2",
    "region-perturbation": "region-perturbation:regions=9,side=4",
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_a_number_an_image_and_declares_itself(name, tiny, images):
    metric = METRICS.make(METRIC_TEXTS.get(name, name))
    score = metric(evidence(tiny, images, range(5)))
    assert (
        score.value.shape == (5,) and score.value.isfinite().all() and not score.value.requires_grad and not score.why
    )
    assert metric.higher_is_better in (True, False, None) and metric.reduction
    assert metric.needs <= {"model", "explain", "mask"}
    assert bool(metric.axis) == (score.curve is not None)
    if score.curve is not None:
        assert score.curve.shape == (5, len(score.places)) and score.curve.isfinite().all()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_repeats_and_ignores_batch_neighbours(name, tiny, images):
    metric = METRICS.make(METRIC_TEXTS.get(name, name))
    together = metric(evidence(tiny, images, range(5))).value
    assert torch.equal(together, metric(evidence(tiny, images, range(5))).value)
    torch.testing.assert_close(metric(evidence(tiny, images, [3])).value, together[3:4], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted({*METRICS} - {"infidelity", "completeness"}))
def test_a_metric_does_not_see_the_scale_of_a_map(name, tiny, images):
    metric = METRICS.make(METRIC_TEXTS.get(name, name))
    one, other = (metric(evidence(tiny, images, range(5), scale)).value for scale in (1.0, 37.0))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_leaves_the_model_and_the_global_generator_alone(name, tiny, images):
    weights = {key: value.clone() for key, value in tiny.state_dict().items()}
    given = evidence(tiny, images, range(5))
    generator = torch.get_rng_state()
    METRICS.make(METRIC_TEXTS.get(name, name))(given)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, weights[key]) for key, value in tiny.state_dict().items())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


ATTACK_TEXTS = {
    "apgd": "apgd:steps=6,restarts=2",
    "pgd": "pgd:steps=5,restarts=2",
    "rand": "rand:steps=4,eot=2",
    "random": "random:tries=4",
    "square": "square:queries=120",
    "standard": "standard:steps=4,queries=20",
    "transfer": "transfer:steps=4",
}
WITHOUT_L1 = {"deepfool", "square", "standard"}
BALLS = {"linf": 0.04, "l2": 0.5, "l1": 4.0}
CASES = [(name, norm) for name in ATTACKS for norm in BALLS if norm != "l1" or name not in WITHOUT_L1]


def assault(name, model, x, places, norm="linf", **more):
    """The attempt on the images at `places` of x, by their keys."""
    some, y = x[places], model(x[places]).argmax(1)
    context = Context(
        keys=[f"key {n}" for n in places],
        wrong=lambda points, at: logits(model, points).argmax(1) != y[at],
        source=model,
    )
    context = dataclasses.replace(context, **more)
    return ATTACKS.make(ATTACK_TEXTS.get(name, name))(model, some, y, Ball(BALLS[norm], norm), context)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_attack_stays_in_the_ball_and_the_box_and_repeats(name, norm, tiny, images):
    found, again = (assault(name, tiny, images, range(5), norm) for _ in range(2))
    assert found.x.shape == images.shape and found.x.dtype == images.dtype and not found.x.requires_grad
    assert Ball(0, norm).length(found.x, images).max() <= BALLS[norm] + 1e-12
    assert found.x.min() >= 0 and found.x.max() <= 1 and not torch.equal(found.x, images)
    for part in ("step", "restart", "forwards"):
        value = getattr(found, part)
        assert value.shape == (5,) and value.dtype == torch.long and value.min() >= 0
        assert torch.equal(value, getattr(again, part))
    assert torch.equal(found.x, again.x) and found.forwards.min() > 0


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_an_attack_does_not_depend_on_its_batch_neighbours(name, norm, tiny, images):
    together, alone = (assault(name, tiny, images, places, norm) for places in (range(5), [3]))
    torch.testing.assert_close(together.x[3:4], alone.x, rtol=1e-9, atol=1e-12)
    for part in ("step", "restart", "forwards"):
        assert torch.equal(getattr(together, part)[3:4], getattr(alone, part))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_leaves_the_images_the_model_and_the_global_generator_alone(name, tiny, images):
    weights = {key: value.clone() for key, value in tiny.state_dict().items()}
    before, generator = images.clone(), torch.get_rng_state()
    assault(name, tiny, images, range(5))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, weights[key]) for key, value in tiny.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in tiny.parameters())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_works_with_a_target_and_for_the_last_point_alone(name, tiny, images):
    target = (tiny(images).argmax(1) + 1) % 5
    for more in {"target": target}, {"judge_any": False}, {"wrong": None, "pick": lambda x: x.flatten(1).mean(1)}:
        found = assault(name, tiny, images, range(5), **more)
        assert Ball(0).length(found.x, images).max() <= BALLS["linf"] + 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_a_model_speaks_pixels_and_rebuilds_from_its_text(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = "wide-resnet:depth=10,width=1" if name == "wide-resnet" else name
        model = MODELS.make(text)(7).eval()
    assert isinstance(model, Classifier)
    x = torch.rand(2, 3, model.input_size, model.input_size)
    with torch.inference_mode():
        assert model(x).shape == (2, 7)
        assert model.features(x).shape[0] == 2
        assert not torch.allclose(model.normalise(x), x)
    again = MODELS.make(model.arch)(7)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_recognises_its_own_weights(name):
    text = "wide-resnet:depth=10,width=1" if name == "wide-resnet" else name
    model = MODELS.make(text)(7)
    shapes = {key: tuple(value.shape) for key, value in model.network.state_dict().items()}
    assert model.arch in [entry(7).arch for entry in MODELS.load(name).fits(shapes)]


def test_shapes_fits_the_contract_of_a_data_set():
    data = DATASETS.make("shapes:size=32,classes=4,count=12")("train")
    item = data.item(3)
    assert len(data) == 12 and len(data.classes) == 4
    assert item.image.shape == (3, 32, 32) and item.image.min() >= 0 and item.image.max() <= 1
    assert item.mask.shape == (32, 32) and 0.02 < item.mask.float().mean() < 0.6
    assert torch.equal(item.image, DATASETS.make("shapes:size=32,classes=4,count=12")("train").item(3).image)
    assert not torch.equal(item.image, DATASETS.make("shapes:size=32,classes=4,count=12")("test").item(0).image)
