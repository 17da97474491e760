"""The fused form of a network is the same function with the same gradient, or the network is used as it is."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from stochx.attacks import Ball, Context
from stochx.attributions import LRP, Gradient
from stochx.catalog import ATTACKS, MODELS, NOISES
from stochx.engine.ascent import loss_gradient
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.derivative import slope_ratio
from stochx.engine.network.fused import fused
from stochx.errors import InputError, RunError
from stochx.network_files import install_noise

TARGET = torch.tensor([1, 2])


class Quantise(torch.autograd.Function):
    """Rounds; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, x):
        return (x * 16).round() / 16

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Reverse(torch.autograd.Function):
    """The identity with the opposite gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Unseen(torch.autograd.Function):
    """Does nothing that a trace could see, and doubles the gradient."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Wrapped(nn.Module):
    """A small network whose input goes through `before`, and whose maps go through `after`."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.after(self.norm(self.conv(self.before(x))).relu()).mean((2, 3)))


class Does(nn.Module):
    """Calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def without_gradient(x):
    with torch.no_grad():
        weight = torch.sigmoid(x)
    return x * weight


def detached(x):
    return x * torch.sigmoid(x).detach()


def checkpointed(x):
    return checkpoint(torch.tanh, x, use_reentrant=False)


def in_bf16(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.conv2d(x, torch.ones(8, 8, 1, 1)).float()


def hooked():
    net = Wrapped()
    net.conv.register_full_backward_pre_hook(lambda module, gradient: (2 * gradient[0],))
    return net


def spectral():
    net = Wrapped()
    net.conv = parametrizations.spectral_norm(net.conv)
    return net


def weight_normed():
    net = Wrapped()
    net.conv = parametrizations.weight_norm(net.conv)
    return net


def shadowed():
    """A convolution whose forward was replaced on the object."""
    net = Wrapped()
    net.conv.forward = lambda x, own=net.conv: F.conv2d(x, own.weight).tanh()
    return net


NETWORKS = {
    "plain": Wrapped,
    "straight-through": lambda: Wrapped(Does(Quantise.apply)),
    "straight-through, late": lambda: Wrapped(after=Does(Quantise.apply)),
    "reversed": lambda: Wrapped(Does(Reverse.apply)),
    "unseen": lambda: Wrapped(after=Does(Unseen.apply)),
    "no_grad": lambda: Wrapped(after=Does(without_gradient)),
    "detach": lambda: Wrapped(after=Does(detached)),
    "checkpoint": lambda: Wrapped(after=Does(checkpointed)),
    "autocast": lambda: Wrapped(after=Does(in_bf16)),
    "backward hook": hooked,
    "spectral norm": spectral,
    "weight norm": weight_normed,
    "replaced forward": shadowed,
}
AS_IT_IS = {
    "straight-through": "a backward of its own",
    "straight-through, late": "a backward of its own",
    "reversed": "a backward of its own",
    "no_grad": "without gradients",
    "autocast": "under autocast",
    "backward hook": "hooks",
    "spectral norm": "parametrised weights",
    "weight norm": "parametrised weights",
}


@pytest.fixture
def network(request):
    torch.manual_seed(0)
    net = NETWORKS[request.param]()
    net(random_images(8, 3, 12, 12).float().requires_grad_())  # statistics of batch norms, vectors of spectral norms
    return net.eval()


def autograd(net, x):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf).gather(1, TARGET[:, None]).sum(), leaf)
    return gradient


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_gradients_are_those_of_autograd(network):
    x = random_images(2, 3, 12, 12).float()
    expected = autograd(network, x)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(Gradient()(network, x, TARGET).map, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_pgd_is_what_it_is_by_hand(network):
    x = random_images(2, 3, 12, 12).float()
    eps, steps = 8 / 255, 5
    by_hand = x.clone()
    for _ in range(steps):
        leaf = by_hand.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(leaf), TARGET, reduction="sum"), leaf)
        by_hand = (by_hand + eps / 4 * slope.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    pgd = ATTACKS.make(f"pgd:steps={steps},step=0.25,random_start=false")
    context = Context(keys=(0, 1), judge_any=False)
    loss, found = (
        F.cross_entropy(network(images), TARGET, reduction="none")
        for images in (by_hand, pgd(network, x, TARGET, Ball(eps), context).x)
    )
    assert (found >= loss - 1e-3 * loss.abs()).all()


@pytest.mark.parametrize(("network", "reason"), AS_IT_IS.items(), indirect=["network"], ids=list(AS_IT_IS))
def test_the_log_says_why_a_network_is_used_as_it_is(network, reason, caplog):
    with caplog.at_level(logging.INFO, "stochx"):
        assert fused(network, random_images(1, 3, 12, 12).float()).whole is network
    assert reason in caplog.text


def test_a_network_that_can_be_fused_is():
    assert fused(Wrapped().eval(), random_images(1, 3, 12, 12).float()).graph is not None


@pytest.mark.parametrize("noise", list(NOISES))
def test_a_stochastic_network_can_be_fused(noise):
    torch.manual_seed(0)
    model = install_noise(MODELS.make("resnet-cifar:depth=8")(3), noise).eval().requires_grad_(False)
    x = random_images(2, 3, 32, 32).float()
    torch.manual_seed(3)
    own = model(x)
    graph = fused(model, x).whole
    assert graph is not model
    torch.manual_seed(3)
    torch.testing.assert_close(graph(x), own, rtol=1e-3, atol=1e-3)


def test_a_trace_with_another_value_or_gradient_is_not_used(monkeypatch, caplog):
    from stochx.engine.network import fused as module

    x = random_images(2, 3, 12, 12).float()
    for name, change in (
        ("values", lambda out: 1.01 * out),
        ("gradients", lambda out: out.detach() + 0.5 * (out - out.detach())),
    ):
        net = Wrapped().eval()

        def wrong(graph, change=change):
            graph = copy.deepcopy(graph)
            last = next(node for node in graph.graph.nodes if node.op == "output")
            with graph.graph.inserting_before(last):
                last.args = (graph.graph.call_function(change, (last.args[0],)),)
            graph.recompile()
            return graph

        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "stochx"):
            patch.setattr(module, "folded", lambda graph, x: wrong(graph))
            assert module.fused(net, x).whole is net
        assert f"the {name} of its trace differ" in caplog.text


def test_a_network_is_compared_once_for_all_weights(monkeypatch):
    from stochx.engine.network import fused as module

    calls = []
    monkeypatch.setattr(module, "_check_same", lambda *args: calls.append(args))
    net, x = Wrapped().eval(), random_images(2, 3, 12, 12).float()
    for _ in range(3):
        module.fused(net, x)
        with torch.no_grad():
            net.conv.weight.add_(1)
    assert len(calls) == 1
    net.norm.eps = 0.1
    module.fused(net, x)
    assert len(calls) == 2


def test_a_hook_that_comes_later_is_honoured():
    net, x = Wrapped().eval(), random_images(2, 3, 12, 12).float()
    plain = Gradient()(net, x, TARGET).map
    handle = net.conv.register_full_backward_pre_hook(lambda module, gradient: (2 * gradient[0],))
    torch.testing.assert_close(Gradient()(net, x, TARGET).map, 2 * plain, rtol=1e-4, atol=1e-6)
    handle.remove()
    torch.testing.assert_close(Gradient()(net, x, TARGET).map, plain)


@pytest.mark.parametrize(("network", "ratio"), {"plain": 1, "reversed": -1}.items(), indirect=["network"])
def test_finite_differences_tell_a_reversed_gradient(network, ratio):
    x = random_images(4, 3, 12, 12).float()
    torch.testing.assert_close(slope_ratio(network, x), torch.full((4,), float(ratio)), atol=0.05, rtol=0)


def test_a_curved_function_is_judged_by_short_steps():
    """100 + s - 200 s^3 falls along its gradient at s = 0 for a step of h = .19, and rises for a quarter of it."""
    x = random_images(2, 3, 4, 4)
    summed = x.sum((1, 2, 3))

    def curved(points):
        s = points.sum((1, 2, 3)) - summed
        return (100 + s - 200 * s**3)[:, None]

    step = 1 / 255 * 48**0.5 / 4 * 48**0.5  # a quarter of the longest step, as a change of the sum
    torch.testing.assert_close(slope_ratio(curved, x), torch.full((2,), 1 - 200 * step**2).double())


def test_a_gradient_that_no_step_can_resolve_has_no_ratio():
    x = random_images(2, 3, 4, 4)
    assert slope_ratio(lambda x: x.sum((1, 2, 3))[:, None] * 1e-8 + 1, x).isnan().all()
    assert slope_ratio(lambda x: x.detach().sum((2, 3)), x).isnan().all()


@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_only_a_reversed_gradient_is_warned_about_once(network, request, caplog):
    x = random_images(2, 3, 12, 12).float()
    for _ in range(2):
        Gradient()(network, x, TARGET)
    assert caplog.text.count("points backwards") == (request.node.callspec.params["network"] == "reversed")


class Optional(nn.Module):
    """Has an argument with a default, and activations in place behind an identity."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Identity(), nn.ReLU(inplace=True))

    def forward(self, x, mask=None, *, scale=2.0):
        out = self.body(x).mean((2, 3)) * scale
        return out if mask is None else out * mask


def test_arguments_with_defaults_and_activations_behind_identities_are_fused():
    net, x = Optional().eval().requires_grad_(False), random_images(2, 3, 12, 12).float().requires_grad_()
    assert fused(net, x).stem is not None
    (slope,) = torch.autograd.grad(net(x).gather(1, TARGET[:, None]).sum(), x)
    torch.testing.assert_close(Gradient()(net, x, TARGET).map, slope)
    explanation = LRP(composite="epsilon")(net, x, TARGET)
    torch.testing.assert_close(explanation.map.sum((1, 2, 3)), net(x.detach()).gather(1, TARGET[:, None])[:, 0])


class CutOff(nn.Module):
    """A network whose pixels are rounded without a gradient."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        with torch.no_grad():
            x = (x * 8).round() / 8
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_network_without_a_gradient_has_no_gradient_map_and_can_be_attacked(frozen):
    net, x = CutOff().eval().requires_grad_(not frozen), random_images(2, 3, 12, 12).float()
    with pytest.raises(InputError, match="cuts its outputs off from the pixels"):
        Gradient()(net, x, TARGET)
    assert loss_gradient(net, x, Goal(TARGET), LOSSES["ce"]).gradient.eq(0).all()


def test_a_gradient_of_nan_ends_an_attack():
    class Undefined(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, gradient: gradient * torch.nan)

    net = Wrapped(Does(Undefined.apply)).eval()
    with pytest.raises(RunError, match="loss gradients are not finite"):
        ATTACKS.make("pgd")(net, random_images(2, 3, 12, 12).float(), TARGET, Ball(8 / 255), Context(keys=(0, 1)))
