"""Networks that torch has wrapped or parametrised have their own maps."""

from __future__ import annotations

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from stochx.attributions import LRP, GradCAM, Gradient
from stochx.models import Classifier, Preparation
from stochx.testing.samples import tiny_network

WRAPPERS = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(torch.compile(model)),
    "a compiled part": lambda model: nn.Sequential(torch.compile(model)),
    "compiled in place": lambda model: model.compile() or model,
    "in a Classifier": lambda model: (
        Classifier(torch.compile(model), list("abcde"), Preparation(16, 16)).double().eval()
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", [Gradient(), LRP(), GradCAM()], ids=lambda method: type(method).__name__)
def test_a_wrapped_network_has_the_maps_of_the_network(method, wrapper, images):
    wrapped = WRAPPERS[wrapper](tiny_network())
    torch.testing.assert_close(method(wrapped, images, 1).map, method(tiny_network(), images, 1).map)


class Doubled(nn.Module):
    """A user's own parametrisation."""

    def forward(self, weight):
        return 2 * weight


PARAMETRISED = {
    "weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral norm": parametrizations.spectral_norm,
    "one's own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "weight norm by hooks": nn.utils.weight_norm,
    "spectral norm by hooks": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("kind", PARAMETRISED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_gradient_of_a_parametrised_layer_is_autograds(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), PARAMETRISED[kind](nn.Conv2d(4, 4, 3))]
        network = nn.Sequential(*layers, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        network(torch.rand(8, 3, 12, 12))
    network.eval()
    x = random_images(2, 3, 12, 12).float()
    points = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(points)[:, 1].sum(), points)
    torch.testing.assert_close(Gradient()(network, x, 1).map, expected, rtol=1e-6, atol=1e-8)
