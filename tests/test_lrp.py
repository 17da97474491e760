"""LRP on whole networks: zennit as the oracle, the method's own promises, trained weights."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from conftest import random_images, shared
from torch import nn
from torchvision import models
from torchvision.models.mobilenetv2 import InvertedResidual
from zennit import composites
from zennit.attribution import Gradient as Zennit
from zennit.canonizers import AttributeCanonizer, NamedMergeBatchNorm, SequentialMergeBatchNorm
from zennit.layer import Sum
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Linear

from stochx import load_model
from stochx.attributions import LRP
from stochx.engine.device import Runtime
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

BOX = {"low": torch.zeros(1, 3, 64, 64).double(), "high": torch.ones(1, 3, 64, 64).double()}
THEIRS = {
    "epsilon-plus-flat": composites.EpsilonPlusFlat,
    "epsilon-plus": composites.EpsilonPlus,
    "epsilon-alpha2-beta1": composites.EpsilonAlpha2Beta1,
    "epsilon-alpha2-beta1-flat": composites.EpsilonAlpha2Beta1Flat,
    "epsilon-gamma-box": lambda canonizers: composites.EpsilonGammaBox(canonizers=canonizers, **BOX),
    "epsilon": lambda canonizers: composites.LayerMapComposite(
        [*composites.layer_map_base(), (Linear, Epsilon())], canonizers=canonizers
    ),
}


def residual_sum(self, x):
    return self.canonizer_sum(torch.stack([x, self.conv(x)], -1)) if self.use_res_connect else self.conv(x)


def pooled_by_a_module(self, x):
    features = self.features(x)
    features = features.relu() if isinstance(self, models.DenseNet) else features
    return self.classifier(self.canonizer_pool(features).flatten(1))


def as_modules(name, module):
    """Zennit gives rules to modules only: sums and pools that are functions become modules."""
    if isinstance(module, InvertedResidual):
        return {"forward": residual_sum.__get__(module), "canonizer_sum": Sum()}
    if isinstance(module, models.MobileNetV2 | models.DenseNet):
        return {"forward": pooled_by_a_module.__get__(module), "canonizer_pool": nn.AdaptiveAvgPool2d(1)}
    return None


class DenseNetNorms(NamedMergeBatchNorm):
    """Merges the norms that follow a convolution; by the order of modules, as zennit does, it would be others too."""

    def __init__(self):
        super().__init__([])

    def copy(self):
        return DenseNetNorms()

    def apply(self, root_module):
        found = dict(root_module.named_modules())
        pairs = {name: name.replace("norm2", "conv1") for name in found if name.endswith("norm2")}
        instances = []
        for norm, conv in ({"features.norm0": "features.conv0"} | pairs).items():
            instances.append(self.copy())
            instances[-1].register((found[conv],), found[norm])
        return instances


CANONIZERS = {
    "squeezenet1_1": list,
    "resnet18": lambda: [ResNetCanonizer()],
    "vgg11_bn": lambda: [VGGCanonizer()],
    "mobilenet_v2": lambda: [SequentialMergeBatchNorm(), AttributeCanonizer(as_modules)],
    "densenet121": lambda: [DenseNetNorms(), AttributeCanonizer(as_modules)],
    "googlenet": lambda: [SequentialMergeBatchNorm()],
}


@cache
def calibrate_student(name):
    """A network of torchvision whose norms have seen data; eps = 0, as zennit's merging leaves one in place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.get_model(name, weights=None, num_classes=10)
        if name.startswith("vgg"):  # its own has a hundred million weights
            net.classifier = nn.Sequential(nn.Linear(25088, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
        net = net.double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
                module.momentum = None
        with torch.no_grad():
            for _ in range(2):
                net(torch.rand(6, 3, 64, 64, dtype=torch.float64))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return net.eval()


def zennits(net, composite, canonizers, x, y):
    with Zennit(net, THEIRS[composite](canonizers=canonizers)) as attributor:
        return attributor(x, lambda out: torch.eye(out.shape[1]).to(out)[y] * out)[1]


def difference(a, b):
    """Relative L2."""
    return ((a - b).norm() / b.norm()).item()


QUICK = {(name, "epsilon-plus-flat") for name in CANONIZERS} | {("squeezenet1_1", name) for name in THEIRS}


@pytest.mark.parametrize(
    ("name", "composite"),
    [
        pytest.param(name, composite, marks=[] if (name, composite) in QUICK else pytest.mark.slow)
        for name in CANONIZERS
        for composite in THEIRS
    ],
)
def test_whole_networks_agree_with_zennit(name, composite):
    net, x = calibrate_student(name), random_images(2, 3, 64, 64)
    y = net(x).argmax(1)
    theirs = zennits(net, composite, CANONIZERS[name](), x, y)
    assert difference(LRP(composite)(net, x, y).map, theirs) < 1e-6


def test_trained_weights_agree_with_zennit():
    net = load_model(str(shared("weights_imagenet/squeezenet1_1.safetensors"))).double()
    x = random_images(1, 3, 96, 96)
    y = net(x).argmax(1)
    theirs = zennits(net.network, "epsilon-plus-flat", [], net.normalise(x), y)
    assert difference(LRP()(net, x, y).map, theirs) < 1e-6


def test_the_box_of_a_classifier_is_its_normalised_pixels():
    network, x, y = calibrate_student("squeezenet1_1"), random_images(1, 3, 64, 64), torch.tensor([3])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = Classifier(network, [str(k) for k in range(10)], Preparation(64, 64), mean, std).double().eval()
    low, high = model.normalise(BOX["low"]), model.normalise(BOX["high"])
    theirs = composites.EpsilonGammaBox(low=low, high=high)
    with Zennit(network, theirs) as attributor:
        expected = attributor(model.normalise(x), lambda out: torch.eye(10).to(out)[y] * out)[1]
    assert difference(LRP("epsilon-gamma-box")(model, x, y).map, expected) < 1e-6


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"])
@pytest.mark.slow
def test_other_wirings_need_no_code_of_their_own(name):
    net, x = calibrate_student(name), random_images(1, 3, 80, 80)
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


@pytest.mark.parametrize("composite", THEIRS)
def test_the_gap_is_the_maps_sum_minus_the_logit(tiny, images, composite):
    y = torch.tensor([0, 1, 2, 3, 4])
    found = LRP(composite)(tiny, images, y)
    logit = tiny(images).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(found.map.sum((1, 2, 3)) - found.gap, logit)


def test_epsilon_on_a_linear_model_is_weight_times_input(linear):
    x = random_images(3, 1, 4, 4)
    y = torch.tensor([0, 1, 2])
    found = LRP("epsilon", epsilon=1e-12)(linear, x, y)
    torch.testing.assert_close(found.map, x * linear.weight[y].view(3, 1, 4, 4))


@pytest.mark.parametrize("composite", THEIRS)
def test_batches_do_not_matter(tiny, images, composite):
    y = torch.tensor([0, 1, 2, 3, 4])
    whole = LRP(composite)(tiny, images, y).map
    with Runtime(torch.device("cpu"), batch_size=2).scope():
        torch.testing.assert_close(LRP(composite)(tiny, images, y).map, whole)


def test_single_precision_is_close_to_double(tiny, images):
    y = torch.tensor([0, 1, 2, 3, 4])
    single = LRP()(copy.deepcopy(tiny).float(), images.float(), y).map
    assert single.dtype == torch.float32 and difference(single, LRP()(tiny, images, y).map.float()) < 1e-4


def test_an_operation_without_a_rule_is_named(images):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x.mean((2, 3)), 1)

    with pytest.raises(InputError, match="cumsum"):
        LRP()(Odd().eval(), images, torch.zeros(5, dtype=torch.long))


def test_a_network_that_cannot_be_traced_is_refused(images):
    class Branching(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(InputError, match="cannot be traced"):
        LRP()(Branching().eval(), images, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("values", [{"epsilon": 0.0}, {"epsilon": -1.0}, {"gamma": -0.1}, {"composite": "epsilonplus"}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        LRP(**values)
