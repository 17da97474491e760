"""Every noise in transformers and their kin: the plain network at degree 0, fused, trained, stored, and by channel."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from safetensors.torch import load_file
from small_networks import NETWORKS, small

from stochx.catalog import NOISES
from stochx.engine.gradients import logits
from stochx.engine.network import weights
from stochx.engine.network.classifier import measure_noise
from stochx.engine.network.fused import fused
from stochx.engine.network.input_noise import input_noise
from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import at_scale, calibrate, noise_layers, penalty
from stochx.engine.seeds import seeded
from stochx.errors import InputError
from stochx.loading import load_model
from stochx.network_files import install_noise
from stochx.testing.cases import specs
from stochx.testing.samples import random_images

X = random_images(4, 3, 32, 32)
SPECS = [text.replace("layers=0+3", "layers=*") for text in specs("noises") if text != "rna"]  # which needs batch norms


def noisy(name, text):
    """A small network in float64 with the noise of `text`, its statistics measured, in use."""
    model = install_noise(small(name).double(), text)
    with seeded(0):
        calibrate(model, [X])
    return model


def under(seed, model, batch=X):
    with seeded(seed), torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("name", ["torchvision ViT", "timm Swin", "torchvision ConvNeXt"])
def test_a_noise_is_zero_at_degree_zero_and_its_kind_is_measured(name, text):
    plain, model = small(name).double(), noisy(name, text)
    if all(layer.replaces for layer in noise_layers(model)):
        assert measure_noise(model, X[:1]) == "forward"
        return
    with at_scale(model, 0.0), torch.no_grad():
        torch.testing.assert_close(model(X), plain(X), rtol=0, atol=1e-9)
    shared = noise_layers(model)[0].place == "weight" or "share=batch" in text
    assert measure_noise(model, X[:1]) == ("forward" if shared else "sample")
    assert not torch.allclose(under(1, model), under(2, model), atol=1e-4)


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("name", ["torch's encoder", "torchvision Swin", "timm ConvNeXt"])
def test_the_fused_network_draws_the_noise_of_the_network(name, text):
    model = noisy(name, text)
    fast = fused(model)
    assert fast.graph is not None
    torch.testing.assert_close(under(3, fast.whole), under(3, model), rtol=0, atol=1e-8)


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("name", ["torchvision ViT", "timm DeiT, distilled", "timm MLP-Mixer"])
def test_a_step_of_training_reaches_the_noise_and_the_weights(name, text):
    model = noisy(name, text).train().requires_grad_(True)
    with seeded(1):
        (model.eval()(X).square().mean() + penalty(model)).backward()
    learnt = [p for layer in noise_layers(model) for p in layer.noise.parameters()]
    fixed = text.startswith("adaptive") and "learn" not in text
    assert fixed or all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in learnt)
    own = [p for layer in noise_layers(model) for p in layer.layer.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own)


CODE = """
from small_networks import NETWORKS

def network():
    return NETWORKS["{name}"]()
"""


@pytest.mark.parametrize(
    "text", ["adaptive:learn=channel", "pni", "learn2perturb", "lowrank:site=block", "bayes", "wca"]
)
@pytest.mark.parametrize("name", ["torchvision ViT", "torchvision Swin v2", "torch's encoder", "timm DeiT, distilled"])
def test_the_file_of_a_student_has_the_plain_names_and_brings_it_back(name, text, tmp_path, monkeypatch):
    code = f"noisy_student_{sorted(NETWORKS).index(name)}"
    (tmp_path / f"{code}.py").write_text(CODE.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    model = noisy(name, text).float()
    model.arch = f"{code}:network"
    weights.save(tmp_path / "student.safetensors", model)
    stored = load_file(tmp_path / "student.safetensors")
    plain = {key: value for key, value in stored.items() if ".noise." not in key}
    NETWORKS[name]().load_state_dict(plain, strict=True)
    again = load_model(str(tmp_path / "student.safetensors"), arch=f"{code}:network")
    sys.modules.pop(code, None)
    assert torch.equal(under(5, again, X.float()), under(5, model, X.float()))
    with at_scale(again, 0.0):
        torch.testing.assert_close(logits(again, X.float()), small(name)(X.float()), rtol=1e-4, atol=1e-5)


def test_noise_of_batch_norms_is_refused_where_there_are_none():
    with pytest.raises(InputError, match="matches site `norms`"):
        install_noise(small("timm ViT"), "rna")


@pytest.mark.parametrize("name", ["torchvision ViT", "timm ViT", "timm Swin"])
def test_noise_on_all_that_a_transformer_sees_can_be_certified(name):
    """torchvision's ViT also reads the shape of its input, which no noise changes."""
    found = input_noise(install_noise(small(name), "gaussian:first=0.5"))
    assert found is not None
    torch.testing.assert_close(found[1], 0.5 * small(name).std.flatten())


# By channel


def layer(text, shape, axis):
    return NOISES.make(text)(Site("layer", "output", shape, 1, axis)).eval().requires_grad_(False)


def draws(module, z):
    with seeded(0):
        return module(z)


SHAPES = [((5, 3), 1), ((4, 5, 3), 2), ((3, 4, 5), 0)]  # tokens, channels-last maps, maps


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("source", ["batch", "running", "teacher"])
def test_the_spread_of_a_channel_is_over_images_and_places(shape, axis, source):
    z = torch.randn(500, *shape, dtype=torch.float64).movedim(axis + 1, -1) * torch.tensor([0.5, 1.0, 3.0]).double()
    z = z.movedim(-1, axis + 1)
    module = layer(f"adaptive:beta=1,source={source}", shape, axis)
    if source != "batch":
        module.spread.training, module.spread.rate = True, 1.0
        module.spread(z)
        module.spread.training = False
    spread = module.spread(z).flatten()
    by_hand = z.movedim(axis + 1, 0).flatten(1).var(1, correction=0).add(1e-5).sqrt()
    torch.testing.assert_close(spread.double(), by_hand, rtol=1e-6, atol=0)
    drawn = draws(module, z).movedim(axis + 1, 0).flatten(1).std(1)
    torch.testing.assert_close(drawn, by_hand, rtol=5 / math.sqrt(2 * 500 * 5), atol=0)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_number_for_each_channel_is_as_long_as_its_axis(shape, axis):
    for text in ("adaptive:learn=channel", "pni:on=activation,granularity=channel", "lowrank"):
        module = layer(text, shape, axis)
        learnt = {"adaptive": "beta", "pni": "alpha", "lowrank": "diagonal"}[text.partition(":")[0]]
        assert list(getattr(module, learnt).shape) == [3 if k == axis else 1 for k in range(len(shape))]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_an_image_has_a_spread_of_each_of_its_channels(shape, axis):
    z = torch.randn(2, *shape, dtype=torch.float64)
    spread = layer("adaptive:source=instance", shape, axis).spread(z)
    by_hand = z.movedim(axis + 1, 1).flatten(2).var(2, correction=0).add(1e-5).sqrt()
    torch.testing.assert_close(spread.flatten(), by_hand.flatten())
    assert list(spread.shape) == [2, *(3 if k == axis else 1 for k in range(len(shape)))]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_dropout_drops_a_channel_at_all_places_of_an_image(shape, axis):
    z = torch.rand(2000, *shape, dtype=torch.float64) + 0.5
    kept = ((z + draws(layer("dropout:p=0.3,channels=true", shape, axis), z)) != 0).movedim(axis + 1, 1).flatten(2)
    assert torch.equal(kept.all(2), kept.any(2))
    assert float((~kept[:, :, 0]).double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 6000))


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_feature_wise_shift_is_one_number_for_each_channel_of_an_image(shape, axis):
    found = draws(layer("feature-wise:scale=0,shift=0.5", shape, axis), torch.rand(2000, *shape, dtype=torch.float64))
    found = found.movedim(axis + 1, 1).flatten(2)
    assert torch.equal(found, found[:, :, :1].expand_as(found))
    assert float(found[:, :, 0].std()) == pytest.approx(0.5, rel=5 / math.sqrt(2 * 6000))
    assert not torch.allclose(found[:, 0], found[:, 1])


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_coloured_noise_has_its_covariance_between_channels_at_every_place(shape, axis):
    module = layer("lowrank:rank=1", shape, axis)
    module.diagonal.fill_(0.5)
    module.factor.copy_(torch.tensor([[1.0], [-2.0], [0.0]]))
    module.spread.running.fill_(3.0)
    found = draws(module, torch.zeros(1000, *shape, dtype=torch.float64)).movedim(axis + 1, -1)
    rows = found.reshape(-1, 3)
    wanted = 9 * (0.25 * torch.eye(3) + module.factor @ module.factor.T).double()
    error = ((wanted.diagonal()[:, None] * wanted.diagonal() + wanted.square()) / len(rows)).sqrt()
    assert ((rows.T @ rows / len(rows) - wanted).abs() < 5 * error + 1e-12).all()
    one, other = found.flatten(1, -2)[:, 0], found.flatten(1, -2)[:, 1]
    assert (one.T @ other / len(one)).abs().max() < 5 * float(wanted.max()) / math.sqrt(len(one))
