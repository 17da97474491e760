"""What every noise must do in any setting, beyond `test_noise_layers.py`: a new file is tested the moment it exists."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_images
from safetensors.torch import load_file
from torch import nn

from stochx.catalog import NOISES
from stochx.engine.io.images import Preparation
from stochx.engine.network import weights
from stochx.engine.network.classifier import measure_noise
from stochx.engine.network.fused import fused
from stochx.engine.network.stochastic import Noisy, Site, at_scale, calibrate, noise_layers, penalty
from stochx.engine.seeds import seeded
from stochx.loading import install_noise, load_model
from stochx.models.convnet import ConvNet

FITTING = {"dropout": "dropout:site=before-bn"}  # the small network has no blocks
EVERY = [FITTING.get(name, name) for name in NOISES]
SHARING = [name for name in NOISES if "share" in {field.key for field in NOISES.fields(name)}]
VARIANTS = [
    *EVERY,
    "adaptive:stat=unit,source=teacher,learn=element,site=after-bn",
    "adaptive:stat=layer,source=instance,measure=mean-abs,learn=channel,layers=0+3",
    "dropout:channels=true,site=layer-input",
    "gaussian:site=before-bn,share=batch",
    "learn2perturb:site=after-bn",
    "lowrank:rank=2,site=penultimate",
    "pni:on=activation,granularity=element",
    "pni:on=input,granularity=channel,source=batch",
]
x = random_images(8, 3, 16, 16).float()


def net():
    """A small network in float32 whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(5).train()
        model.preparation = Preparation(16, 16)
        for _ in range(10):
            model(torch.rand(16, 3, 16, 16))
    return model.eval()


def with_(text, key_value):
    return f"{text}{',' if ':' in text else ':'}{key_value}"


def under(seed, model, batch=x):
    with seeded(seed), torch.no_grad():
        return model(batch)


def settings(model):
    """All that a measurement could leave behind in a network."""
    parts = [
        (m.training, len(m._forward_hooks), getattr(m, "rate", 0), getattr(m, "momentum", 0)) for m in model.modules()
    ]
    return parts, [layer.scale for layer in noise_layers(model)], model.noise


def in_mixed_modes(model):
    """In training, but with the batch norms frozen, as in fine-tuning."""
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("name", SHARING)
def test_images_of_a_batch_share_a_draw_where_they_are_asked_to(name):
    model = install_noise(net(), with_(FITTING.get(name, name), "share=batch"))
    assert measure_noise(model, x[:1]) == "forward"
    twins = under(0, model, x[:1].expand(8, -1, -1, -1))
    torch.testing.assert_close(twins, twins[:1].expand_as(twins), rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", VARIANTS)
def test_a_networks_own_modes_stay_when_noise_goes_in_and_is_measured(text):
    plain, model = in_mixed_modes(net()), in_mixed_modes(net())
    state, weight = torch.get_rng_state(), plain.state_dict()
    modes = {module: module.training for module in model.modules()}
    install_noise(model, text)
    assert all(module.training == training for module, training in modes.items())
    assert all(layer.noise.training for layer in noise_layers(model))
    named = {name.replace(".layer.", "."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, named[name]) for name, value in weight.items())
    before = settings(model)
    calibrate(model, [x])
    assert settings(model) == before and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("text", VARIANTS)
@pytest.mark.parametrize("good", [0, 1, 3])  # broken in the first pass, at its second batch, and in the second pass
def test_a_forward_that_breaks_down_leaves_a_network_as_it_was(text, good):
    model = in_mixed_modes(install_noise(net(), text))
    model.noise = "sample"
    forward, left = model.network[13].forward, [good]

    def broken(value):
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("no memory")
        return forward(value)

    model.network[13].forward = broken
    before, state = settings(model), torch.get_rng_state()
    with pytest.raises(ValueError, match="no memory"):
        calibrate(model, [x, x])
    assert settings(model) == before and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("text", VARIANTS)
def test_the_traced_twin_is_the_network_to_the_last_digits(text):
    model = install_noise(net(), text)
    calibrate(model, [x])
    model.double()
    fast = fused(model)
    assert fast.graph is not None
    torch.testing.assert_close(under(3, fast.whole, x.double()), under(3, model, x.double()), rtol=0, atol=1e-9)
    noisy = under(3, fast.whole, x.double())
    with at_scale(model, 0.0), torch.no_grad():  # another setting, another twin
        quiet = fused(model).whole(x.double())
        torch.testing.assert_close(quiet, model(x.double()), rtol=0, atol=1e-9)
    assert (noisy - quiet).abs().max() > 1e-3


@pytest.mark.parametrize("text", VARIANTS)
def test_the_file_of_a_student_in_any_setting_brings_it_back(text, tmp_path):
    model = install_noise(net(), text)
    calibrate(model, [x, 1 - x])
    with torch.no_grad():
        for layer in noise_layers(model):
            for parameter in layer.noise.parameters():
                parameter.mul_(1.25)
    weights.save(tmp_path / "net.safetensors", model)
    again = load_model(str(tmp_path / "net.safetensors"))
    assert torch.equal(under(5, again), under(5, model)) and again.noises == text
    plain, stored = ConvNet(width=4)(5).network, load_file(tmp_path / "net.safetensors")
    plain.load_state_dict({name: value for name, value in stored.items() if ".noise." not in name}, strict=True)


@pytest.mark.parametrize("text", VARIANTS)
@pytest.mark.parametrize("half", [False, True], ids=["float64", "autocast"])
@pytest.mark.parametrize("training", [False, True])
def test_noise_has_the_type_of_its_value(text, half, training):
    model = install_noise(net(), text).train(training)
    model = model if half else model.double()
    types = []
    for layer in noise_layers(model):
        layer.noise.register_forward_hook(
            lambda _, values, out: types.append((values[0].dtype, torch.result_type(values[0], out)))
        )
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = under(0, model, x if half else x.double())
    assert out.isfinite().all() and out.dtype == (torch.bfloat16 if half else torch.float64)
    assert len(types) == len(noise_layers(model)) and all(value == shaken for value, shaken in types)


@pytest.mark.parametrize("text", VARIANTS)
def test_a_training_step_reaches_all_that_a_noise_learns(text):
    model = install_noise(net(), text).train()
    with seeded(1):
        loss = model(x).square().mean() + penalty(model)
    loss.backward()
    learnt = [p for layer in noise_layers(model) for p in layer.noise.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in learnt)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert bool(learnt) == (
        text.partition(":")[0] not in ("dropout", "feature-wise", "gaussian", "multiplicative") and text != "adaptive"
    )


@pytest.mark.parametrize("text", EVERY)
def test_twice_the_degree_is_twice_the_deviation(text):
    noise = NOISES.make(text)
    place = "weight" if noise.site == "weight" else "output"
    shape = (6, 4, 3, 3) if place == "weight" else (6,)
    layer = nn.Conv2d(4, 6, 3).double() if place == "weight" else nn.Identity()
    z = random_images(8, 4, 5, 5) if place == "weight" else random_images(8, 6)
    noisy = Noisy(layer, noise(Site("layer", place, shape, 0)), place).eval()
    said = []
    for scale in (0.0, 1.0, 2.0):
        noisy.scale = scale
        said.append(under(0, noisy, z))
    torch.testing.assert_close(said[2] - said[0], 2 * (said[1] - said[0]), rtol=0, atol=1e-12)
    assert torch.equal(said[0], layer(z)) and not torch.allclose(said[1], said[0], atol=1e-3)


@pytest.mark.parametrize("name", ["pni", "bayes"])
def test_the_deviation_of_weights_has_mean_zero(name):
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    module = NOISES.make(name)(Site("layer", "weight", tuple(weight.shape), 0)).eval()
    with seeded(0), torch.no_grad():
        found = torch.stack([module(weight) for _ in range(4000)])
    assert (found.mean(0).abs() < 5 * found.std(0) / math.sqrt(4000)).all() and (found.std(0) > 0).all()
