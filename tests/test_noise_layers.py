"""Noise layers: every entry keeps the contract, and is what its formula says."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import random_images
from torch import nn
from torchvision import models as torchvision_models

from stochx.catalog import NOISES
from stochx.engine.ascent import loss_gradient
from stochx.engine.gradients import logits
from stochx.engine.io.images import Preparation
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.sites import Site, sites
from stochx.engine.network.stochastic import Noisy, at_scale, calibrate, noise_layers, parameter_groups, penalty
from stochx.engine.seeds import seeded
from stochx.errors import InputError, UsageError
from stochx.models.convnet import ConvNet
from stochx.models.resnet_cifar import ResNetCIFAR
from stochx.network_files import install_noise
from stochx.testing.cases import specs

N = 200_000  # draws of the statistical tests: a standard deviation is known to 1 / sqrt(2 N) = 0.16 %


def net(arch="convnet:width=4"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(5) if arch.startswith("conv") else ResNetCIFAR()(10)
    return model.eval().requires_grad_(False)


def noise(text, shape=(3, 4, 4), index=1, place="output"):
    """The noise layer of a site, in use and not in training."""
    return NOISES.make(text)(Site("layer", place, shape, index)).eval().requires_grad_(False)


def drawn(module, z, count=4000, seed=0):
    """Many deviations of one value z (1, ...), (count, ...)."""
    with seeded(seed):
        return module(z.expand(count, *z.shape[1:]))


x = random_images(6, 3, 32, 32).float()


@pytest.mark.parametrize("name", specs("noises"))
def test_the_fast_twin_draws_what_the_network_draws(name):
    model = install_noise(net(), name)
    with seeded(3):
        slow = model(x)
    with seeded(3):
        fast = logits(model, x)
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4)


# Adaptive noise


@pytest.mark.parametrize(("stat", "dims"), [("channel", (0, 2, 3)), ("layer", (0, 1, 2, 3)), ("unit", (0,))])
@pytest.mark.parametrize("measure", ["std", "mean-abs"])
def test_adaptive_noise_is_beta_times_the_batchs_spread(stat, dims, measure):
    z = torch.randn(4000, 3, 2, 2, dtype=torch.float64) * torch.tensor([0.5, 1.0, 3.0]).view(1, 3, 1, 1) + 2
    module = noise(f"adaptive:beta=0.4,stat={stat},measure={measure},source=batch", (3, 2, 2))
    strength = z.abs().mean(dims, True) if measure == "mean-abs" else z.std(dims, correction=0, keepdim=True)
    with seeded(0):
        ratio = module(z) / (0.4 * strength)
    assert abs(float(ratio.std()) - 1) < 5 / math.sqrt(2 * ratio.numel())
    assert abs(float(ratio.mean())) < 5 / math.sqrt(ratio.numel())


def test_instance_noise_follows_each_image():
    z = torch.randn(2, 3, 40, 40, dtype=torch.float64) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    with seeded(0):
        small, large = noise("adaptive:beta=1,source=instance", (3, 40, 40))(z)
    assert 8 < float(large.std() / small.std()) < 12


def test_running_statistics_make_a_prediction_independent_of_its_neighbours():
    model = install_noise(net(), "adaptive:share=batch")
    calibrate(model, [x])

    def first(batch):
        with seeded(0):
            return model(batch)[0]

    assert torch.allclose(first(x), first(torch.cat([x[:1], 1 - x[1:]])), atol=1e-5)
    points = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(first(points).sum(), points)
    assert slope[0].abs().sum() > 0 and slope[1:].abs().sum() == 0
    transductive = install_noise(net(), "adaptive:share=batch,source=batch")
    with seeded(0):
        one = transductive(x)[0]
    with seeded(0):
        assert not torch.allclose(one, transductive(torch.cat([x[:1], 0.2 * x[1:]]))[0], atol=1e-4)


def test_running_statistics_move_in_training_and_the_teachers_do_not():
    for source, moves in (("running", True), ("teacher", False)):
        module = noise(f"adaptive:source={source}", (3, 4, 4)).train()
        before = module.spread.running.clone()
        module(5 * torch.randn(16, 3, 4, 4))
        assert torch.equal(module.spread.running, before) is not moves


def test_calibration_measures_the_spread_and_what_noise_adds_to_a_norms_variance():
    quiet, loud = net(), install_noise(net(), "adaptive:beta=1")
    batches = list(random_images(96, 3, 32, 32, seed=4).float().split(32))
    calibrate(quiet, batches)
    calibrate(loud, batches)
    ratio = loud.network[1].running_var / quiet.network[1].running_var
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0), rtol=0.02, atol=0)
    z = quiet.network[0](quiet.normalise(batches[0]))
    spread = loud.network[0].noise.spread.running.flatten()
    torch.testing.assert_close(spread, loud.network[1].running_var.div(2).sqrt(), rtol=0.05, atol=0)
    assert spread.shape == (z.shape[1],)


def test_adaptive_noise_with_a_learned_beta_for_the_layer_is_pni_on_activations():
    z, same = torch.randn(8, 3, 4, 4), []
    for text in ("adaptive:beta=0.25,stat=layer,learn=layer,source=batch", "pni:on=activation,source=batch"):
        with seeded(1):
            same.append(noise(text)(z))
    torch.testing.assert_close(*same)


# The others, against their formulas


def test_gaussian_noise_is_stronger_before_the_first_layer():
    z = torch.zeros(N // 48, 3, 4, 4)
    for index, sigma in ((0, 0.2), (1, 0.1)):
        with seeded(0):
            assert float(noise("gaussian", index=index)(z).std()) == pytest.approx(sigma, rel=5 / math.sqrt(2 * N))


def test_pni_noise_on_weights_is_alpha_times_their_spread():
    w = torch.randn(64, 32, 3, 3) * 0.3 + 1
    with seeded(0):
        found = noise("pni:granularity=channel,alpha=0.5", tuple(w.shape), place="weight")(w)
    assert float(found.std()) == pytest.approx(0.5 * float(w.std()), rel=5 / math.sqrt(2 * w.numel()))


def test_learn2perturb_has_a_strength_for_each_unit_and_asks_for_more():
    module = noise("learn2perturb:init=0.25,gamma=0.001", (2, 1, 1))
    module.theta.copy_(torch.tensor([0.49, -3.0]).view(2, 1, 1))
    spread = drawn(module, torch.zeros(1, 2, 1, 1), N).std(0).flatten()
    torch.testing.assert_close(spread, torch.tensor([0.49, 0.01]), rtol=0.01, atol=0)
    assert float(module.penalty(nn.Identity())) == pytest.approx(-0.001 * (0.7 + 0.1))


def test_wca_noise_has_the_covariance_of_its_factor_and_its_penalty_aligns_it_with_the_weights():
    module, layer = noise("wca:weight=2", (3,)), nn.Linear(3, 4)
    module.factor.copy_(torch.tensor([[1.0, 9.0, 9.0], [0.5, 2.0, 9.0], [-1.0, 0.3, 0.7]]))
    lower = module.factor.tril()
    found = drawn(module, torch.zeros(1, 3), N)
    torch.testing.assert_close(torch.cov(found.T), lower @ lower.T, rtol=0.02, atol=0.03)
    by_hand = sum(float(w @ lower @ lower.T @ w) for w in layer.weight.detach())
    assert float(module.penalty(layer).detach()) == pytest.approx(-2 * math.log(by_hand), rel=1e-5)
    with pytest.raises(InputError, match="needs a linear last layer"):
        noise("wca", (3, 4, 4))


def test_bayes_asks_for_the_divergence_of_all_layers():
    model = install_noise(net(), "bayes:init=0.02,sigma=0.1,alpha=0.5,images=100")
    prior = torch.distributions.Normal(0.0, 0.1)
    by_hand = sum(
        torch.distributions.kl_divergence(torch.distributions.Normal(p.layer.weight, 0.02), prior).sum()
        for p in noise_layers(model)
    )
    assert len(noise_layers(model)) == 5
    torch.testing.assert_close(penalty(model), 0.5 / 100 * by_hand, rtol=1e-4, atol=0)


def test_coloured_noise_has_a_covariance_of_low_rank_and_a_diagonal():
    module = noise("lowrank:rank=2,source=batch", (3, 1, 1))
    module.diagonal.copy_(torch.tensor([0.5, 1.0, 0.2]).view(3, 1, 1))
    module.factor.copy_(torch.tensor([[1.0, 0.0], [0.5, 1.0], [-1.0, 2.0]]))
    z = torch.randn(N, 3, 1, 1) * 2
    with seeded(0):
        found = module(z).flatten(1)
    wanted = module.diagonal.flatten().square().diag() + module.factor @ module.factor.T
    torch.testing.assert_close(torch.cov(found.T) / z.var(), wanted, rtol=0.03, atol=0.05)


def test_multiplicative_noise_and_dropout_follow_the_values():
    z = torch.tensor([[[[1.0]], [[-4.0]], [[0.0]]]])
    spread = drawn(noise("multiplicative:beta=0.5"), z, N).std(0).flatten()
    torch.testing.assert_close(spread, torch.tensor([0.5, 2.0, 0.0]), rtol=0.01, atol=1e-6)
    shaken = z.expand(N, -1, -1, -1) + drawn(noise("dropout:p=0.2"), z, N)
    assert sorted({round(v, 4) for v in shaken[:, 0].flatten().tolist()}) == [0.0, 1.25]
    assert float((shaken[:, 0] == 0).double().mean()) == pytest.approx(0.2, abs=5 * 0.4 / math.sqrt(N))
    whole = drawn(noise("dropout:channels=true"), torch.ones(1, 3, 4, 4), 50)
    assert (whole.flatten(2).std(2) == 0).all()


# Where noise goes


@pytest.mark.parametrize(
    ("site", "count"),
    [
        ("before-bn", 19),
        ("after-bn", 19),
        ("block", 9),
        ("block-end", 9),
        ("stem-and-blocks", 10),
        ("input", 1),
        ("conv-input", 19),
        ("layer-input", 20),
        ("penultimate", 1),
        ("weight", 20),
    ],
)
def test_the_sites_of_a_resnet_20(site, count):
    found = sites(net("resnet20"), site)
    assert len(found) == count and [one.index for one in found] == list(range(count))
    if site in ("input", "conv-input", "weight", "before-bn"):
        assert found[0].name == "conv1"


def test_a_pattern_chooses_among_sites():
    found = sites(net("resnet20"), "before-bn", "layer1.*+layer3.0.*")
    assert {one.name.split(".")[0] for one in found} == {"layer1", "layer3"} and len(found) == 8


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "vgg11", "vit_b_16"])
def test_noise_goes_into_torchvisions_networks(arch):
    with torch.random.fork_rng():
        network = torchvision_models.get_model(arch, weights=None, num_classes=7).eval()
    side = 224 if arch == "vit_b_16" else 64
    model = Classifier(network, [str(i) for i in range(7)], Preparation(side, side)).eval()
    count = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    install_noise(model, "adaptive")
    projections = 12 if arch == "vit_b_16" else 0  # to queries, keys and values, which are no layers of their own
    assert len(noise_layers(model)) == count - 1 + projections
    with torch.inference_mode():
        assert model(torch.rand(2, 3, side, side)).shape == (2, 7)


def test_a_network_takes_noise_once_and_only_where_it_has_a_place():
    model = install_noise(net(), "adaptive")
    with pytest.raises(InputError, match="already stochastic"):
        install_noise(model, "adaptive")
    with pytest.raises(InputError, match="matches site `block`") as error:
        install_noise(net(), "adaptive:site=block")
    assert "before-bn" in error.value.hint and " block," not in error.value.hint


def test_every_parameter_is_in_one_group_and_noise_does_not_decay():
    model = install_noise(net(), "learn2perturb:site=after-bn").requires_grad_(True)
    weight, noises = parameter_groups(model)
    assert len(noises["params"]) == 4 and noises["weight_decay"] == 0
    assert len(weight["params"]) + 4 == len(list(model.parameters()))
    assert float(penalty(net())) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("adaptive:beta=-1", "adaptive:source=instance,stat=unit", "gaussian:sigma=-1", "dropout:p=1", "bayes:init=0"),
        *("pni:alpha=-1", "lowrank:rank=0", "wca:init=0", "multiplicative:beta=-1", "learn2perturb:init=0"),
    ],
)
def test_values_that_make_no_sense_are_usage_errors(text):
    with pytest.raises(UsageError):
        NOISES.make(text)


def test_statistics_over_a_batch_of_one_are_refused():
    with pytest.raises(InputError, match="more than one image"):
        noise("adaptive:stat=unit,source=batch", (3, 4, 4)).train()(torch.randn(1, 3, 4, 4))


def test_the_spread_of_a_students_gradient_falls_with_the_root_of_its_draws():
    model = install_noise(net(), "adaptive:beta=0.5")
    model.noise = "sample"
    calibrate(model, [x])
    y, spread = torch.zeros(1, dtype=torch.long), []
    for eot in (1, 4, 16):
        with seeded(0):
            slopes = [loss_gradient(model, x[:1], Goal(y), LOSSES["margin"], eot).gradient for _ in range(60)]
        spread.append(float(torch.stack(slopes).var(0).sum().sqrt()))
    assert 1.6 < spread[0] / spread[1] < 2.5 and 1.6 < spread[1] / spread[2] < 2.5


def test_random_projection_filters_are_normal_and_the_others_normalised():
    weight = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = noise("rpf:random=0.75", (8, 3, 5, 5), place="weight")
    draws = torch.stack([module(weight) for _ in range(400)])
    assert torch.equal(draws[0, 6:], draws[1, 6:])
    expected = weight[6:] / ((weight[6:].flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5) * 5)
    torch.testing.assert_close(draws[0, 6:], expected)
    assert float(draws[:, :6].std()) == pytest.approx(1 / 5, rel=0.01)
    assert float(draws[:, :6].mean()) == pytest.approx(0, abs=0.003)


def test_a_random_norm_is_the_batch_norm_or_that_of_each_channel_of_an_image():
    layer = nn.BatchNorm2d(3).double().eval()
    layer.weight.data, layer.bias.data = torch.tensor([1.0, 2, -3]).double(), torch.tensor([0.5, 0, 1]).double()
    layer.running_mean.fill_(0.3)
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
    alone = (x - mean) / (var + 1e-5).sqrt() * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
    noisy = Noisy(layer, noise("rna", place="norm"), "norm")
    torch.manual_seed(0)
    draws = [noisy(x) for _ in range(200)]
    chosen = [torch.allclose(draw, alone) for draw in draws]
    assert all(torch.equal(draw, layer(x)) for draw, single in zip(draws, chosen, strict=True) if not single)
    assert 75 <= sum(chosen) <= 125


@pytest.mark.parametrize("factor, mean", [(1.0, 0.3), (0.1, 0.2), (10.0, 1.0)])
def test_trainable_random_weights_keep_the_sum_of_sigma_within_bounds(factor, mean):
    mu = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = noise("ctrw:init=0.3,low=0.2,high=1", tuple(mu.shape), place="weight")
    module.rho.data += math.log(factor)
    draws = torch.stack([module(mu) for _ in range(300)])
    assert float(draws.std()) == pytest.approx(mean * float(mu.std()), rel=0.02)


def test_noise_without_a_mean_network_has_no_degree_and_its_copies_in_a_batch_agree():
    for text in ("rpf", "rna"):
        model, x = install_noise(net(), text).eval(), torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1)
        outs = [model(x) for _ in range(20)]
        assert all(torch.allclose(out, out[:1].expand_as(out), atol=1e-5) for out in outs)
        assert any(not torch.allclose(out, outs[0], atol=1e-3) for out in outs)
        for factor in (0.0, 2.0):
            with pytest.raises(UsageError, match="no degree"), at_scale(model, factor):
                pass
        with at_scale(model, 1.0):
            pass
