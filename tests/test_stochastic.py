"""Where noise goes in real architectures, what it does to a network around it, and how its statistics are measured."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.nn import functional as F
from torchvision import models as torchvision_models

from stochx.catalog import NOISES
from stochx.engine.ascent import loss_gradient
from stochx.engine.io.images import Preparation
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.fused import fused
from stochx.engine.network.sites import SITES, sites
from stochx.engine.network.stochastic import at_scale, calibrate, noise_layers, parameter_groups, penalty
from stochx.engine.seeds import seeded
from stochx.errors import InputError, UsageError
from stochx.models.convnet import ConvNet
from stochx.network_files import install_noise

x = random_images(4, 3, 16, 16).float()


def classifier(network, side=16, classes=5):
    return Classifier(network.eval(), [str(i) for i in range(classes)], Preparation(side, side), arch="net").eval()


def net(text=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(5).eval()
    return model if text is None else install_noise(model, text)


def torchvision(arch, side, **options):
    with torch.random.fork_rng():
        return classifier(torchvision_models.get_model(arch, weights=None, num_classes=7, **options), side, 7)


def under(seed, model, batch=x):
    with seeded(seed):
        return model(batch)


# Sites


@pytest.mark.parametrize(
    ("arch", "side", "convolutions", "linear", "norms", "blocks", "ends"),
    [
        ("resnet18", 32, 20, 1, 20, 8, 11),  # 17 on the way, 3 shortcuts
        ("mobilenet_v2", 32, 52, 1, 52, 17, 17),  # inverted residuals
        ("squeezenet1_1", 32, 26, 0, 0, 8, 0),  # fire modules; the last convolution gives the logits
        ("densenet121", 32, 120, 1, 121, 58, 58),  # 6 + 12 + 24 + 16 dense layers; a norm at the end
        ("vgg11", 32, 8, 3, 0, 0, 0),
    ],
)
def test_the_sites_of_an_architecture_are_its_layers(arch, side, convolutions, linear, norms, blocks, ends):
    model = torchvision(arch, side, **({"image_size": side} if arch == "vit_b_16" else {}))
    layers = convolutions + linear
    wanted = {
        "before-bn": layers - 1,
        "after-bn": norms,
        "block": blocks,
        "block-end": ends,
        "stem-and-blocks": blocks + (norms > 0),
        "input": 1,
        "conv-input": convolutions,
        "layer-input": layers,
        "penultimate": 1,
        "weight": layers,
        "first-weight": 1,
        "norms": norms,
    }
    assert {site: len(sites(model, site)) for site in SITES} == wanted


def test_sites_come_in_the_order_of_the_forward_with_the_shapes_of_one_image():
    model = torchvision("resnet18", 64)
    assert [(one.name, one.shape) for one in sites(model, "stem-and-blocks")] == [
        ("bn1", (64, 32, 32)),
        *((f"layer{k}.{i}", (32 * 2**k, 32 // 2**k, 32 // 2**k)) for k in range(1, 5) for i in range(2)),
    ]
    assert [(one.name, one.shape) for one in sites(model, "penultimate")] == [("fc", (512,))]
    assert [one.shape for one in sites(model, "weight", "conv1+fc")] == [(64, 3, 7, 7), (7, 512)]
    assert [one.shape for one in sites(model, "input")] == [(3, 64, 64)]


def test_a_pattern_joins_parts_and_counts_the_sites_anew():
    found = sites(torchvision("resnet18", 32), "before-bn", "layer1.*+layer2.*")
    assert [one.name for one in found] == [
        *(f"layer1.{i}.conv{k}" for i in range(2) for k in (1, 2)),
        *("layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv1", "layer2.1.conv2"),
    ]
    assert [one.index for one in found] == list(range(9))


def test_a_site_that_a_network_lacks_is_refused_with_those_it_has():
    model = torchvision("squeezenet1_1", 32)
    with pytest.raises(InputError, match="matches site `after-bn`") as error:
        install_noise(model, "learn2perturb:site=after-bn")
    there = "before-bn, block, stem-and-blocks, input, conv-input, layer-input, penultimate, weight, first-weight"
    assert error.value.hint == f"the network has: {there}" and not noise_layers(model)
    with pytest.raises(InputError, match=r"layers `features\.99`"):
        install_noise(model, "adaptive:layers=features.99")
    with pytest.raises(InputError) as error:
        install_noise(classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), "adaptive")
    assert error.value.hint == "it has no convolutions and no linear layers"
    with pytest.raises(UsageError, match="unknown site `after-relu`"):
        sites(model, "after-relu")


def test_noise_on_noise_is_refused():
    with pytest.raises(InputError, match="already stochastic") as error:
        install_noise(net("gaussian"), "adaptive")
    assert error.value.hint == "start from the network without noise"


def test_looking_for_sites_moves_nothing_in_a_network_in_training():
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert len(sites(model, "before-bn")) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())


# In a network


class Standardised(nn.Conv2d):
    """A convolution that does something of its own with its weight, as in many of timm's networks."""

    def forward(self, z):
        return F.conv2d(z, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


@pytest.mark.parametrize("text", ["pni", "bayes"])
def test_noise_on_weights_keeps_what_a_layer_of_ones_own_does_with_them(text):
    model = classifier(nn.Sequential(Standardised(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)))
    plain = model(x)
    install_noise(model, text)
    with at_scale(model, 0.0):
        assert torch.equal(model(x), plain)
    said = under(1, model)
    assert not torch.allclose(said, plain)
    torch.testing.assert_close(under(1, fused(model).whole), said, rtol=0, atol=1e-5)
    model.network[0].noise, model.network[3].scale = nn.Identity(), 0.0  # the first weight twice, the last as it is
    first, last = model.network[0].layer, model.network[3].layer
    hidden = F.conv2d(x, 2 * (first.weight - first.weight.mean()), first.bias)
    torch.testing.assert_close(model(x), last(hidden.mean((2, 3))))


def test_degrees_multiply_and_come_back_after_an_error():
    model = net("adaptive")
    model.noise = "sample"
    with pytest.raises(ValueError, match="inside"), at_scale(model, 2.0):
        with at_scale(model, 3.0):
            assert [layer.scale for layer in noise_layers(model)] == [6.0] * 4 and model.noise == "sample"
        with at_scale(model, 0.0):
            assert model.noise == "none"
        raise ValueError("inside")
    assert [layer.scale for layer in noise_layers(model)] == [1.0] * 4 and model.noise == "sample"


@pytest.mark.parametrize("name", NOISES)
def test_an_optimiser_is_given_every_parameter_once(name):
    model = net("dropout:site=before-bn" if name == "dropout" else name)
    groups = parameter_groups(model)
    given = [id(p) for group in groups for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert "weight_decay" not in groups[0] and all(group["weight_decay"] == 0 for group in groups[1:])
    inside = {id(p) for layer in noise_layers(model) for p in layer.noise.parameters() if p.requires_grad}
    assert {id(p) for group in groups[1:] for p in group["params"]} == inside


def test_only_noises_that_ask_add_to_the_loss():
    asking = {name for name in NOISES if penalty(net("dropout:site=before-bn" if name == "dropout" else name))}
    assert asking == {"learn2perturb", "wca", "bayes"}
    assert penalty(net()).shape == () and float(penalty(net())) == 0


# Statistics


def test_calibrated_batch_norms_hold_plain_means_over_the_batches():
    batches, model = [x, 1 - x, x**2], net("multiplicative:beta=0")
    calibrate(model, batches)
    z = [net().network[0](net().normalise(batch)).detach() for batch in batches]
    norm = model.network[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([one.mean((0, 2, 3)) for one in z]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([one.var((0, 2, 3)) for one in z]).mean(0))


def test_noise_as_strong_as_its_values_doubles_what_a_batch_norm_sees_and_is_measured_without_that():
    images = list(random_images(512, 3, 16, 16, seed=4).float().split(128))
    quiet, loud = net("adaptive:beta=0"), net("adaptive:beta=1")
    for model in (quiet, loud):
        with seeded(0):
            calibrate(model, images)
    n = 512 * 32 * 32 // 4  # values of a channel
    ratio = loud.network[1].running_var / quiet.network[1].running_var
    assert ((ratio - 2).abs() < 5 * math.sqrt(6 / n)).all()  # var of mean((z + eps)^2) = 2 + 4
    torch.testing.assert_close(loud.network[0].noise.spread.running, quiet.network[0].noise.spread.running)


# Many draws


def test_the_variance_of_a_mean_gradient_falls_with_the_number_of_draws():
    model, n, variance = net("adaptive:beta=0.3"), 1000, {}
    model.noise = "sample"
    calibrate(model, [x])
    points, goal = x[:1].expand(n, -1, -1, -1), Goal(torch.zeros(n, dtype=torch.long))  # each with draws of its own
    for draws in (1, 4, 16):
        with seeded(draws):
            slopes = loss_gradient(model, points, goal, LOSSES["ce"], draws).gradient
        variance[draws] = float(slopes.double().var(0).sum())
    bound = 5 * 2 / math.sqrt(n)  # of the ratio of two variances, were all pixels one
    assert variance[1] / variance[4] == pytest.approx(4, rel=bound)
    assert variance[4] / variance[16] == pytest.approx(4, rel=bound)


@pytest.mark.parametrize("noise", ["gaussian:share=batch", "bayes", "pni"])
def test_draws_that_a_batch_shares_are_taken_one_after_the_other(noise):
    model, goal = net(noise), Goal(torch.arange(4))
    model.noise = "forward"
    with seeded(0):
        together = loss_gradient(model, x, goal, LOSSES["ce"], 4)
    with seeded(0):
        singles = [loss_gradient(model, x, goal, LOSSES["ce"]) for _ in range(4)]
    torch.testing.assert_close(together.gradient, torch.stack([one.gradient for one in singles]).mean(0))
    torch.testing.assert_close(together.loss, torch.stack([one.loss for one in singles]).mean(0))
    assert not torch.allclose(singles[0].gradient, singles[1].gradient, rtol=0.01)
