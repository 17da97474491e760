"""Networks that no symbol can pass are recorded: the same values and gradients, for every batch size."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.nn import functional as F

from stochx.attributions import LRP, FullGrad, GradCAM, Gradient
from stochx.engine.network import fused as fusing
from stochx.engine.network.fused import fused
from stochx.engine.network.graph import UntraceableError, depending, is_recorded, node_of, trace
from stochx.engine.network.inplace import OUTSIDE
from stochx.errors import InputError

timm = pytest.importorskip("timm")

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
FAMILIES = {
    "convit_tiny": {"img_size": 64, "embed_dim": 16, "depth": 3, "num_heads": 2, "local_up_to_layer": 2},
    "crossvit_tiny_240": {"embed_dim": [16, 32], "depth": [[1, 1, 0]], "num_heads": [2, 2], "mlp_ratio": [1, 1, 1]},
    "efficientvit_b0": {},
    "efficientvit_m0": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "mvitv2_tiny": {"img_size": 64},
    "naflexvit_base_patch16_gap": TINY,
    "nest_tiny": {"img_size": 64},
    "samvit_base_patch16": {"img_size": 64, **TINY},
    "tf_efficientnet_b0": {},
    "tf_mobilenetv3_small_minimal_100": {},
    "tiny_vit_5m_224": {},
    "twins_svt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "vit_tiny_patch16_224": {"img_size": 64, "dynamic_img_size": True, **TINY},
}
SIZES = {"crossvit_tiny_240": 240, "tiny_vit_5m_224": 224}
HEAVY = {"mvitv2_tiny", "tiny_vit_5m_224", "nest_tiny", "efficientvit_m0", "efficientvit_b0", "tf_efficientnet_b0"}
HEAVY |= {"mobilevitv2_050", "twins_svt_small"}
DRAW = torch.Generator().manual_seed(0)


def redrawn(network):
    """In float64 and eval mode, with the weights drawn anew that are all equal at first, such as layer scales."""
    network = network.double().eval()
    for parameter in network.parameters():
        if parameter.max() == parameter.min():
            noise = torch.randn(parameter.shape, generator=DRAW, dtype=torch.float64)
            parameter.data.add_(0.3 * noise)
    return network


def family(name):
    torch.manual_seed(0)
    size = SIZES.get(name, 64)
    return redrawn(timm.create_model(name, num_classes=5, **FAMILIES[name])), random_images(3, 3, size, size)


def value_and_gradient(function, x):
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    (gradient,) = torch.autograd.grad(out.sin().sum(), leaf)
    assert gradient.abs().max() > 0
    return out.detach(), gradient


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in FAMILIES]
)
def test_a_network_that_asks_for_sizes_is_recorded(name):
    network, x = family(name)
    with pytest.raises(UntraceableError):
        trace(network)
    graph = trace(network, x[:1])
    assert is_recorded(graph) and fused(network, x).whole is not network
    for images in (x, x[:2]):
        for own, found in zip(*(value_and_gradient(f, images) for f in (network, graph)), strict=True):
            torch.testing.assert_close(found, own, rtol=1e-10, atol=1e-10 * float(own.abs().max()))


class Padded(nn.Module):
    """A convolution that pads to the same size, a constant position code, the batch size, in-place and reverse sums."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 5)
        self.position = None

    def forward(self, x):
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.norm(self.conv(x))
        if self.position is None or self.position.shape[-1] != x.shape[-1]:
            self.position = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype).sin()
        x += self.position
        x = self.block(1 - 0.5 * x)
        tokens = x.reshape(x.shape[0], 8, -1).transpose(1, 2)
        tokens = torch.cat([tokens.new_ones(len(x), 1, 8), tokens], 1).reshape(-1, 8)
        return self.head(tokens).reshape(len(x), -1, 5).mean(1)


@pytest.fixture
def padded():
    torch.manual_seed(0)
    network = Padded().double().eval()
    network.norm.running_var.fill_(2)
    return network


def test_a_recording_has_the_vocabulary_of_a_symbolic_trace(padded):
    graph = trace(padded, random_images(1, 3, 11, 11))
    modules = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    assert modules == {"conv", "norm", "block.0", "block.1", "head"}
    assert node_of(graph, "block").target == "block.1"
    names = {node.target if isinstance(node.target, str) else node.target.__name__ for node in graph.graph.nodes}
    assert {"pad", "iadd", "sub", "mul", "reshape", "transpose", "cat", "getattr", "getitem"} <= names
    assert "linspace" not in names


def test_a_recording_of_what_can_be_traced_is_the_symbolic_trace():
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=5).eval()
    x = random_images(1, 3, 32, 32).float()
    symbolic, recorded = trace(network), trace(network, x, symbols=False)

    def calls(graph):
        return [(node.op, OUTSIDE.get(node.target, node.target)) for node in graph.graph.nodes]

    assert calls(symbolic) == calls(recorded)


def test_constants_do_not_depend_on_the_images(padded):
    graph = trace(padded, random_images(1, 3, 11, 11)).graph
    (ones,) = (node for node in graph.nodes if node.target == "new_ones")
    assert ones not in depending(graph)


def test_recording_leaves_nothing_in_the_network(padded):
    before = {name: dict(vars(module)) for name, module in padded.named_modules()}
    buffers = list(padded.state_dict())
    trace(padded, random_images(1, 3, 11, 11))
    assert {name: dict(vars(module)) for name, module in padded.named_modules()} == before
    assert padded.position is None and list(padded.state_dict()) == buffers


def test_methods_take_recorded_networks_of_several_sizes(padded):
    for size in (11, 12, 11):
        x = random_images(2, 3, size, size)
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(padded(leaf)[:, 1].sum(), leaf)
        torch.testing.assert_close(Gradient()(padded, x, 1).map, slope)
        assert fused(padded, x).size == x.shape[1:] or size == 12
    assert GradCAM(relu=False)(padded, x, 1).map.abs().sum() > 0


def test_a_recorded_network_follows_its_weights(padded):
    x = random_images(2, 3, 11, 11)
    first = Gradient()(padded, x, 1).map
    with torch.no_grad():
        padded.head.weight.mul_(-1)
    torch.testing.assert_close(Gradient()(padded, x, 1).map, -first)
    padded.head.weight = nn.Parameter(2 * padded.head.weight.detach())
    torch.testing.assert_close(Gradient()(padded, x, 1).map, -2 * first)


def test_a_network_is_recorded_once_for_all_weights(padded, monkeypatch):
    calls = []
    monkeypatch.setattr(fusing, "trace", lambda *args, **options: calls.append(args) or trace(*args, **options))
    for _ in range(3):
        fused(padded, random_images(2, 3, 11, 11))
        with torch.no_grad():
            padded.head.weight.add_(1)
    assert len(calls) == 1


class Doing(nn.Module):
    """Asks for a size, so that it cannot be traced, and then does something."""

    def __init__(self, what):
        super().__init__()
        self.conv, self.head, self.what = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), what

    def forward(self, x):
        if x.shape[-1] > 4:
            x = self.what(self.conv(x))
        return self.head(x.mean((2, 3)))


class Straight(torch.autograd.Function):
    forward = staticmethod(lambda ctx, x: x.round())
    backward = staticmethod(lambda ctx, gradient: gradient)


class Doubling(torch.autograd.Function):
    forward = staticmethod(lambda ctx, x: x)
    backward = staticmethod(lambda ctx, gradient: 2 * gradient)


def without_gradient(x):
    with torch.no_grad():
        return x * x.sigmoid()


def overwriting(x):
    x = x.clone()
    x[:, :2].mul_(2)
    return x


FIXED = torch.ones(1, dtype=torch.float64)


@torch.jit.script
def scripted(x):
    return x * x.sigmoid()


LOST = {
    "straight-through": (Straight.apply, "a backward of its own"),
    "an identity with a backward of its own": (Doubling.apply, "a backward of its own"),
    "no_grad": (without_gradient, "without gradients"),
    "the value of the images": (lambda x: x if x.sum() > 0 else -x, "Python value of a tensor, by `__bool__`"),
    "a number of the images": (lambda x: x * x.mean().item(), "Python value of a tensor"),
    "detached data": (lambda x: x * x.data, r"uses `Tensor.data`"),
    "random numbers": (lambda x: x + torch.randn(x.shape[1:], dtype=x.dtype), "random numbers"),
    "a script": (scripted, "no function of torch"),
    "a gain that depends on the batch": (lambda x: x * (1 / len(x)), "on the batch size"),
    "a view overwritten": (overwriting, "overwrites a part of a tensor"),
    "a constant overwritten": (lambda x: FIXED.mul_(x[0, 0, 0, 0]) * x, "overwrites a constant"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_a_recording_would_lose_is_used_as_it_is_with_the_reason(case, caplog):
    what, reason = LOST[case]
    torch.manual_seed(0)
    network, x = Doing(what).double().eval(), random_images(2, 3, 8, 8)
    with pytest.raises(UntraceableError, match=reason):
        trace(network, x)
    with caplog.at_level(logging.INFO, "stochx"):
        assert fused(network, x).whole is network
    assert "is used as it is" in caplog.text


def test_an_error_of_the_network_is_a_reason():
    def fail(x):
        raise ValueError("no")

    with pytest.raises(UntraceableError, match=r"fails on random images, with: .*no"):
        trace(Doing(fail).double(), random_images(1, 3, 8, 8))


NEEDY = [LRP(), GradCAM(), GradCAM(backward="balanced"), FullGrad(), Gradient(backward="balanced")]


@pytest.mark.parametrize("method", NEEDY, ids=lambda method: f"{type(method).__name__}-{vars(method)}")
def test_methods_that_need_the_operations_say_why_they_are_not_known(method):
    network, x = Doing(without_gradient).double().eval(), random_images(1, 3, 8, 8)
    with pytest.raises(InputError, match="operations cannot be traced: a part of it has") as told:
        method(network, x, 1)
    assert ("use `backward=plain`" in told.value.hint) == isinstance(method, Gradient)
    network = Doing(torch.relu).double().eval()
    network.conv.register_forward_hook(lambda module, inputs, out: out)
    with pytest.raises(InputError, match="operations cannot be traced: it has hooks"):
        method(network, x, 1)


def test_operations_in_the_middle_of_a_recording_are_exact():
    def mixed(x):
        first, second = x.chunk(2, 1)
        top = torch.topk(first.flatten(1), 3).values.sum(1).view(-1, 1, 1, 1)
        x = torch.cat([2 - first, 1 / (2 + second.exp()), -first * top, first**2, 2**second], 1)
        x = x.mT @ x / 100
        y = torch.ones(20, 6, 6, dtype=x.dtype).add_(x[0]) * 0 + torch.zeros_like(x)
        y[:, :2] = x[:, :2]
        y[:, 2:] += x[:, 2:]
        q, k, v = y.unflatten(1, (5, 4)).split([1, 2, 2], 1)
        y = torch.einsum("nahij,nbhjk->nabik", q, k).flatten(1, 2)
        return torch.cat([y, v[:, 0], F.normalize(v[:, 1], dim=1)], 1)[:, :8]

    torch.manual_seed(0)
    network, x = Doing(mixed).double().eval(), random_images(4, 3, 8, 8)
    graph = trace(network, x[:1])
    for own, found in zip(*(value_and_gradient(f, x) for f in (network, graph)), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-14)


def test_a_symbolic_trace_that_differs_is_replaced_by_a_recording(monkeypatch):
    real = fusing.trace

    def wrong(network, x=None, symbols=True):
        graph = copy.deepcopy(real(network, x, symbols))
        if symbols:
            graph.head.weight.data.mul_(2)
        return graph

    monkeypatch.setattr(fusing, "trace", wrong)
    torch.manual_seed(0)
    network, x = nn.Sequential(), random_images(2, 3, 8, 8)
    network.conv, network.flat, network.head = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)
    found = fused(network.double().eval(), x)
    assert found.size == x.shape[1:]
    torch.testing.assert_close(found.whole(x), network(x))


def test_torchs_wrong_gradient_of_a_norm_before_tokens_does_not_count_against_a_trace():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).flatten(2).transpose(1, 2).sin()).mean(1)

    torch.manual_seed(0)
    network, x = Tokens().double().eval(), random_images(1, 3, 8, 8)
    assert fused(network, x).whole is not network
    step = 1e-6 * random_images(1, 3, 8, 8).sub(0.5)
    change = (network(x + step) - network(x - step))[0, 1]
    torch.testing.assert_close((Gradient()(network, x, 1).map * 2 * step).sum(), change, rtol=1e-5, atol=0)
