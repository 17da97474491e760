"""LRP: its rules as matrix algebra, conservation, and zennit as the oracle on whole networks."""

from __future__ import annotations

import pytest
import torch
from conftest import random_images
from torch import nn
from torchvision import models
from zennit import composites
from zennit.attribution import Gradient as Zennit
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from stochx.attributions import LRP
from stochx.engine import relevance as rules
from stochx.engine.relevance import Layer, stabilise
from stochx.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Layer.of(nn.Linear(6, 4).double())


@pytest.fixture
def x():
    return torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def r():
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def shares(numerators, z, r):
    """R_j = sum_k n_jk / z_k R_k for numerators (N, K, J)."""
    return torch.einsum("nkj,nk->nj", numerators, r / stabilise(z))


def test_epsilon_is_its_matrix_form(layer, x, r):
    contributions = x[:, None] * layer.weight
    z = contributions.sum(2) + layer.bias
    torch.testing.assert_close(rules.epsilon(layer, x, r), shares(contributions, z, r))


def test_alpha_beta_is_its_matrix_form(layer, x, r):
    contributions = x[:, None] * layer.weight
    up, down = contributions.clamp(min=0), contributions.clamp(max=0)
    z_up, z_down = up.sum(2) + layer.bias.clamp(min=0), down.sum(2) + layer.bias.clamp(max=0)
    expected = 2 * shares(up, z_up, r) - shares(down, z_down, r)
    torch.testing.assert_close(rules.alpha_beta(layer, x, r, 2, 1), expected)


def test_flat_spreads_evenly(layer, x, r):
    torch.testing.assert_close(rules.flat(layer, x, r), (r.sum(1, keepdim=True) / 6).expand(3, 6), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "gamma", "flat", "box"])
def test_rules_conserve_relevance_without_biases(name, r):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        linear = nn.Linear(6, 4, bias=False).double()
        nn.init.uniform_(linear.weight[:, :3], 0.1, 1.0)  # z+ has nobody to give to where all weights are negative
        layer = Layer.of(linear)
    x = random_images(3, 6)
    zero, one = torch.zeros(1, 6, dtype=torch.float64), torch.ones(1, 6, dtype=torch.float64)
    more = {"gamma": (0.25,), "box": (zero, one)}.get(name, ())
    sent = getattr(rules, name)(layer, x, r, *more)
    torch.testing.assert_close(sent.sum(1), r.sum(1), rtol=1e-3, atol=1e-3)


def test_sums_share_by_contribution():
    a, b = torch.tensor([1.0, 3.0]), torch.tensor([1.0, -1.0])
    first, second = rules.share(torch.tensor([4.0, 4.0]), [a, b], a + b)
    torch.testing.assert_close(first, torch.tensor([2.0, 6.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(second, torch.tensor([2.0, -2.0]), rtol=1e-5, atol=0)


def calibrated(name):
    """A network of torchvision whose norms have seen data; eps = 0, as zennit's merging leaves one in place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.get_model(name, weights=None).double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
        with torch.no_grad():
            for _ in range(3):
                net(torch.rand(8, 3, 64, 64, dtype=torch.float64))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return net.eval()


def zennit_map(net, make, canonizers, x, y):
    one_hot = torch.eye(1000, dtype=torch.float64)[y]
    with Zennit(net, make(canonizers)) as attributor:
        return attributor(x, lambda out: one_hot * out)[1]


BOX = {"low": torch.zeros(1, 3, 64, 64).double(), "high": torch.ones(1, 3, 64, 64).double()}
THEIRS = {
    "epsilon-plus": lambda c: composites.EpsilonPlus(canonizers=c),
    "epsilon-plus-flat": lambda c: composites.EpsilonPlusFlat(canonizers=c),
    "epsilon-alpha2-beta1": lambda c: composites.EpsilonAlpha2Beta1(canonizers=c),
    "epsilon-alpha2-beta1-flat": lambda c: composites.EpsilonAlpha2Beta1Flat(canonizers=c),
    "epsilon-gamma-box": lambda c: composites.EpsilonGammaBox(canonizers=c, **BOX),
}


@pytest.mark.parametrize("composite", THEIRS)
@pytest.mark.parametrize(
    ("name", "canonizers"),
    [
        ("squeezenet1_1", []),
        pytest.param("resnet18", [ResNetCanonizer()], marks=pytest.mark.slow),
        pytest.param("vgg11_bn", [VGGCanonizer()], marks=pytest.mark.slow),
    ],
)
def test_whole_networks_agree_with_zennit(name, canonizers, composite):
    net = calibrated(name)
    x = random_images(2, 3, 64, 64)
    y = net(x).argmax(1)
    ours = LRP(composite)(net, x, y).map
    theirs = zennit_map(net, THEIRS[composite], canonizers, x, y)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-6


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "googlenet"])
@pytest.mark.slow
def test_other_wirings_need_no_code_of_their_own(name):
    net = calibrated(name)
    x = random_images(1, 3, 64, 64)
    found = LRP()(net, x, net(x).argmax(1))
    assert found.map.isfinite().all() and found.map.abs().sum() > 0


def test_relevance_sums_to_the_logit_in_a_network_without_biases(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 4, bias=False)
        )
    found = LRP("epsilon")(net.double().eval(), images, torch.tensor([0, 1, 2, 3, 0]))
    assert found.gap.abs().max() < 1e-4


def test_an_operation_without_a_rule_is_named(images):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x.mean((2, 3)), 1)

    with pytest.raises(InputError, match="cumsum"):
        LRP()(Odd().eval(), images, torch.zeros(5, dtype=torch.long))
