"""Single noises: the corners of their formulas that `test_noise_layers.py` leaves open, each against a sum by hand."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_images
from torch import nn
from torchvision import models as torchvision_models

from stochx.catalog import NOISES
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import calibrate, noise_layers, penalty
from stochx.engine.seeds import seeded
from stochx.errors import InputError, UsageError
from stochx.models.convnet import ConvNet
from stochx.network_files import install_noise

x = random_images(6, 3, 16, 16)


def net(text=None):
    """A small network in float64, in use, with the noise of `text`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(5).double().eval()
    model.preparation = Preparation(16, 16)
    return model if text is None else install_noise(model, text)


def layer(text, shape=(3, 4, 4), place="output", index=1):
    return NOISES.make(text)(Site("layer", place, shape, index)).eval()


def under(seed, module, value):
    with seeded(seed):
        return module(value)


def assert_covariance(found, wanted):
    """Of draws (n, D) with mean zero; five standard errors of a normal sample's covariance."""
    n = len(found)
    variances = wanted.diagonal()
    error = ((variances[:, None] * variances + wanted.square()) / n).sqrt()
    assert ((found.T @ found / n - wanted).abs() < 5 * error + 1e-12).all()


# Adaptive


@pytest.mark.parametrize("training", [False, True])
def test_adaptive_noise_of_degree_zero_is_exactly_none(training):
    plain, model = net().train(training), net("adaptive:beta=0").train(training)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(
    ("stat", "wanted"),
    [("channel", [[[2.0]], [[6.0]]]), ("layer", [[[20**0.5]]]), ("unit", [[[2.0, 2.0]], [[6.0, 6.0]]])],
)
def test_running_statistics_are_a_tenth_of_a_new_batch(stat, wanted):
    z = torch.tensor([[[-2.0, -2.0]], [[-6.0, -6.0]]]).double()
    z = torch.stack([z, -z]).view(2, 2, 1, 2)  # means of zero; standard deviations of 2 and 6
    module = layer(f"adaptive:stat={stat}", (2, 1, 2)).train()
    for step in range(1, 4):
        module(z)
        wanted_now = 1 + (torch.tensor(wanted).square().add(1e-5).sqrt() - 1) * (1 - 0.9**step)
        torch.testing.assert_close(module.spread.running, wanted_now)


def test_the_mean_of_absolute_values_is_not_the_standard_deviation():
    z = torch.tensor([[[[3.0, -1.0]]], [[[3.0, -1.0]]]]).double()
    for measure, wanted in (("mean-abs", 2.0), ("std", math.sqrt(4 + 1e-5))):
        module = layer(f"adaptive:beta=0.5,source=batch,measure={measure}", (1, 1, 2))
        eps = under(0, layer("gaussian:sigma=1", (1, 1, 2)), z)
        torch.testing.assert_close(under(0, module, z), 0.5 * wanted * eps, rtol=1e-12, atol=0)


@pytest.mark.parametrize("source", ["running", "teacher", "instance"])
def test_a_prediction_in_use_is_the_images_own(source):
    model = net(f"adaptive:share=batch,source={source}")
    calibrate(model, [x])
    other = torch.cat([x[:1], random_images(5, 3, 16, 16, seed=9) ** 3])
    torch.testing.assert_close(under(0, model, other)[0], under(0, model, x)[0], rtol=0, atol=1e-12)
    points = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(under(0, model, points)[0].sum(), points)
    assert slope[0].abs().sum() > 0 and torch.equal(slope[1:], torch.zeros_like(slope[1:]))


@pytest.mark.parametrize("differentiable", [False, True])
def test_the_batchs_own_statistics_tie_images_together_and_gradients_only_if_asked(differentiable):
    model = net(f"adaptive:share=batch,source=batch,differentiable={str(differentiable).lower()}")
    other = torch.cat([x[:1], x[1:] ** 3])
    assert (under(0, model, other)[0] - under(0, model, x)[0]).abs().max() > 1e-3
    points = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(under(0, model, points)[0].sum(), points)
    assert bool(slope[1:].abs().sum() > 0) is differentiable


def test_statistics_of_the_teacher_are_measured_once_without_noise_and_stay():
    model = net("adaptive:beta=2,source=teacher")
    calibrate(model, [x, 1 - x])
    kept = [part.noise.spread.running.clone() for part in noise_layers(model)]
    clean = [net().network[0](net().normalise(batch)) for batch in (x, 1 - x)]
    by_hand = torch.stack([z.transpose(0, 1).flatten(1).var(1, correction=0).add(1e-5).sqrt() for z in clean]).mean(0)
    torch.testing.assert_close(kept[0].flatten(), by_hand.detach().float(), rtol=1e-6, atol=0)
    model.train()(x)
    assert all(torch.equal(part.noise.spread.running, k) for part, k in zip(noise_layers(model), kept, strict=True))


def test_in_training_one_image_has_no_statistics_of_its_units():
    for source in ("batch", "running"):
        model = net(f"adaptive:stat=unit,source={source}").train()
        with pytest.raises(InputError, match="more than one image"):
            model(x[:1])
    assert model.eval()(x[:1]).shape == (1, 5)  # in use the running ones do


@pytest.mark.parametrize(("learn", "count"), [("layer", 1), ("channel", 3), ("element", 48)])
def test_a_learned_beta_is_one_number_for_each_part(learn, count):
    module = layer(f"adaptive:learn={learn},beta=0.7")
    assert module.beta.numel() == count and module.beta.requires_grad and bool((module.beta == 0.7).all())
    assert not layer("adaptive").beta.requires_grad


def test_a_beta_of_a_channel_is_that_channels():
    module = layer("adaptive:learn=channel,source=instance", (2, 40, 40))
    module.beta.data.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1))
    one, two = under(0, module, random_images(1, 2, 40, 40))[0]
    assert one.std() > 0.05 and torch.equal(two, torch.zeros_like(two))


def test_a_whole_student_with_a_beta_a_layer_is_a_student_with_pni_on_activations():
    said = []
    for text in ("adaptive:stat=layer,learn=layer,beta=0.25", "pni:on=activation"):
        model = net(text)
        with seeded(1):
            calibrate(model, [x])
        said.append(under(2, model, x))
    torch.testing.assert_close(*said, rtol=0, atol=1e-12)


# The others


def test_gaussian_noise_is_before_all_convolutions_and_stronger_before_the_first():
    model = net("gaussian:sigma=0.05,first=0.3")
    deviations, n = [], 500
    for part in noise_layers(model):
        part.noise.register_forward_hook(lambda _, values, out: deviations.append(out))
    under(0, model, x[:1].expand(n, -1, -1, -1))
    assert [part.place for part in noise_layers(model)] == ["input"] * 4
    for found, sigma in zip(deviations, (0.3, 0.05, 0.05, 0.05), strict=True):
        assert float(found.std()) == pytest.approx(sigma, rel=5 / math.sqrt(2 * found.numel()))


@pytest.mark.parametrize(("granularity", "count"), [("layer", 1), ("channel", 8), ("element", 8 * 4 * 9)])
def test_pni_learns_a_strength_for_each_part_of_a_weight(granularity, count):
    module = layer(f"pni:granularity={granularity}", (8, 4, 3, 3), "weight")
    assert module.alpha.numel() == count and bool((module.alpha == 0.25).all())


@pytest.mark.parametrize("share", ["none", "batch"])
def test_the_filters_of_a_weight_never_share_their_noise(share):
    found = under(
        0, layer(f"pni:share={share}", (8, 4, 3, 3), "weight"), torch.ones(8, 4, 3, 3) + random_images(8, 4, 3, 3)
    )
    assert len({tuple(one.flatten().tolist()) for one in found}) == 8


def test_no_gradient_goes_through_the_spread_that_pni_uses():
    weight = random_images(4, 2, 3, 3).requires_grad_()
    noise = under(0, layer("pni", (4, 2, 3, 3), "weight"), weight)
    assert noise.requires_grad  # of alpha
    assert torch.autograd.grad(noise.sum(), weight, allow_unused=True) == (None,)


def test_a_strength_that_a_step_brought_below_the_least_can_grow_again():
    module = layer("learn2perturb:gamma=0.001", (2, 1, 1)).train()
    module.theta.data.copy_(torch.tensor([-3.0, 0.25]).view(2, 1, 1))
    module(torch.zeros(4, 2, 1, 1))
    torch.testing.assert_close(module.theta.flatten(), torch.tensor([0.01, 0.25]), check_stride=False)
    module.penalty(nn.Identity()).backward()
    torch.testing.assert_close(module.theta.grad.flatten(), torch.tensor([-0.005, -0.001]))


def test_the_penalties_of_learn2perturb_add_up_over_layers():
    model = net("learn2perturb:site=before-bn,init=0.25,gamma=0.01")
    units = [4 * 16 * 16, 8 * 8 * 8, 16 * 4 * 4, 16 * 4 * 4]
    assert [part.noise.theta.numel() for part in noise_layers(model)] == units
    assert float(penalty(model).detach()) == pytest.approx(-0.01 * 0.5 * sum(units), rel=1e-5)


def test_wca_noise_has_the_covariance_of_its_factors_lower_half():
    module = layer("wca", (3,))
    module.factor.data.copy_(torch.tensor([[1.0, 9.0, 9.0], [0.5, 2.0, 9.0], [-1.0, 0.3, 0.7]]))
    lower = module.factor.detach().tril().double()
    found = under(0, module, torch.zeros(20_000, 3, dtype=torch.float64)).detach()
    assert_covariance(found, lower @ lower.T)


def test_wca_refuses_a_network_that_ends_in_a_convolution():
    network = torchvision_models.squeezenet1_1(num_classes=5).eval()
    model = Classifier(network, list("abcde"), Preparation(64, 64)).eval()
    with pytest.raises(InputError, match=r"`wca` needs a linear last layer, and `classifier.1` is not linear"):
        install_noise(model, "wca")
    assert not noise_layers(model)


def test_coloured_noise_is_correlated_between_channels_at_a_place_and_not_between_places():
    module = layer("lowrank:rank=1", (2, 1, 2))
    module.diagonal.data.copy_(torch.tensor([0.5, 1.0]).view(2, 1, 1))
    module.factor.data.copy_(torch.tensor([[1.0], [-2.0]]))
    module.spread.running.fill_(3.0)
    found = under(0, module, torch.zeros(20_000, 2, 1, 2, dtype=torch.float64)).detach().flatten(1)
    at_a_place = 9 * torch.tensor([[0.25 + 1, -2.0], [-2.0, 1 + 4]]).double()
    assert_covariance(found, torch.kron(at_a_place, torch.eye(2).double()))


def test_coloured_noise_starts_differently_at_every_place():
    starts = [part.noise.factor.detach() for part in noise_layers(net("lowrank"))]
    assert starts[2].shape == starts[3].shape == (16, 5) and not torch.equal(starts[2], starts[3])
    assert float(starts[3].std()) == pytest.approx(0.025, rel=5 / math.sqrt(2 * 80))


def test_weights_of_a_bayesian_network_are_normal_around_its_own():
    module = layer("bayes:init=0.03", (40, 40, 5, 5), "weight")
    found = under(0, module, torch.zeros(40, 40, 5, 5)).detach()
    assert float(found.std()) == pytest.approx(0.03, rel=5 / math.sqrt(2 * found.numel()))
    assert float(found.mean()) == pytest.approx(0, abs=5 * 0.03 / math.sqrt(found.numel()))


def test_a_divergence_is_least_where_the_weights_are_the_prior():
    module = layer("bayes:init=0.1,sigma=0.1,alpha=1,images=1", (3, 2), "weight")
    linear = nn.Linear(2, 3)
    nn.init.zeros_(linear.weight)
    value = module.penalty(linear)
    value.backward()
    assert abs(float(value.detach())) < 1e-5
    assert module.rho.grad.abs().max() < 1e-5 and linear.weight.grad.abs().max() < 1e-5


def test_dropout_keeps_or_drops_whole_channels_with_its_probability():
    n, p = 4000, 0.3
    z = random_images(1, 5, 3, 3).expand(n, -1, -1, -1)
    shaken = z + under(0, layer(f"dropout:p={p},channels=true", (5, 3, 3)), z)
    kept = (shaken != 0).flatten(2)
    assert torch.equal(kept.all(2), kept.any(2))
    torch.testing.assert_close(shaken, kept.view_as(z) * z / (1 - p), rtol=1e-12, atol=0)
    assert float((~kept[:, :, 0]).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / (5 * n)))


def test_dropout_of_nothing_changes_nothing():
    assert torch.equal(net("dropout:p=0,site=before-bn")(x), net()(x))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adaptive:beta=-1", "beta must not be negative"),
        ("adaptive:beta=inf", "expects a number"),
        ("adaptive:stat=pixel", "does not accept `pixel`"),
        ("adaptive:site=weight", "does not accept `weight`"),
        ("gaussian:first=-0.1", "must not be negative"),
        ("learn2perturb:init=0.001", "init must be at least 0.01"),
        ("bayes:images=0", "images must be at least 1"),
        ("lowrank:rank=1.5", "a whole number"),
        ("dropout:p=-0.1", r"p must lie in \[0, 1\)"),
        ("wca:site=block", "no key `site`"),
        ("pni:on=bias", "does not accept `bias`"),
        ("adaptve", "unknown noise"),
    ],
)
def test_a_wrong_value_is_named(text, said):
    with pytest.raises(UsageError, match=said):
        NOISES.make(text)


@pytest.mark.parametrize(
    ("text", "learns"),
    [(name, True) for name in ("adaptive:learn=layer", "pni", "bayes", "wca", "lowrank", "learn2perturb")]
    + [(name, False) for name in ("adaptive", "gaussian", "multiplicative", "dropout:site=before-bn")],
)
def test_noises_with_parameters_learn_and_others_do_not(text, learns):
    model = install_noise(ConvNet(width=4)(5), text)
    assert any(p.requires_grad for layer in noise_layers(model) for p in layer.noise.parameters()) is learns
