"""Backward stand-ins: exact values, the gradient of another function, in every path that the engine takes."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from attacking import run
from conftest import Linear, random_images
from support import stochx as command
from torch import nn

import stochx
from stochx.attacks import PGD, Transfer
from stochx.attributions import Gradient
from stochx.engine.ascent import loss_gradient
from stochx.engine.gradients import gradient, logits
from stochx.engine.io.data import Item
from stochx.engine.io.images import Preparation
from stochx.engine.judging import Judge
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.bpda import smooth_twin, stand_ins
from stochx.engine.network.derivative import comparable, slope_ratio
from stochx.engine.network.fused import fused
from stochx.engine.threat import Ball
from stochx.errors import InputError
from stochx.loading import open_model
from stochx.tasks.batches import Source
from stochx.tasks.checks import check_evaluation


def coarse(x):
    """Sixteen levels: constant almost everywhere."""
    return (15 * x).round() / 15


def cube(x):
    return x**3


def behind(layer, network):
    return nn.Sequential(layer, network).eval()


class Plain(nn.Module):
    def forward(self, x):
        return coarse(x)


# Values and gradients


def test_values_are_those_of_the_layer_and_the_gradient_is_that_of_the_stand_in():
    x = random_images(2, 3, 4, 4).requires_grad_()
    for backward, slope in (None, torch.ones_like(x)), (cube, 3 * x.detach() ** 2), (nn.Sigmoid(), None):
        out = stochx.bpda(coarse, backward)(x)
        assert torch.equal(out, coarse(x))
        (found,) = torch.autograd.grad(out.sum(), x)
        if slope is None:
            s = x.detach().sigmoid()
            slope = s * (1 - s)
        torch.testing.assert_close(found, slope)


def test_the_gradient_of_a_network_is_the_chain_rule_with_the_jacobian_of_the_stand_in():
    first, last, x = nn.Linear(5, 4).double(), nn.Linear(4, 3).double(), torch.rand(5, dtype=torch.float64)
    net = nn.Sequential(first, stochx.bpda(coarse, torch.tanh), nn.Tanh(), last)
    jacobian = torch.autograd.functional.jacobian
    hidden = first(x)
    expected = jacobian(lambda z: last(z.tanh()), coarse(hidden)) @ jacobian(torch.tanh, hidden) @ first.weight
    torch.testing.assert_close(jacobian(net, x), expected)


def test_without_gradients_the_stand_in_does_not_run():
    calls = []

    def backward(x):
        calls.append(1)
        return x

    layer, x = stochx.bpda(coarse, backward), random_images(1, 1, 4, 4)
    for mode in torch.no_grad, torch.inference_mode:
        with mode():
            assert torch.equal(layer(x), coarse(x))
    assert not calls
    layer(x)
    assert len(calls) == 1


def test_layers_may_work_in_place_before_in_and_after():
    x = random_images(2, 1, 4, 4).requires_grad_()
    net = nn.Sequential(nn.Tanh(), stochx.bpda(lambda z: z.mul_(15).round_().div_(15)), nn.ReLU(inplace=True))
    (slope,) = torch.autograd.grad(net(x).sum(), x)
    torch.testing.assert_close(slope, (1 - x.detach().tanh() ** 2) * (coarse(x.detach().tanh()) > 0))


def test_a_stand_in_that_works_in_place_changes_no_value():
    x, layer = random_images(2, 1, 4, 4) - 0.5, stochx.bpda(coarse, nn.ReLU(inplace=True))
    seen = x.clone().requires_grad_() * 1
    assert torch.equal(layer(seen), coarse(x)) and torch.equal(seen, x)
    (slope,) = torch.autograd.grad(layer(seen).sum(), seen)
    assert torch.equal(slope, (x > 0).float())


@pytest.mark.parametrize("backward", [lambda x: 3.0, lambda x: None, lambda x: (x, x)])
def test_a_stand_in_returns_a_tensor(backward):
    with pytest.raises(InputError, match="its backward stand-in a "):
        stochx.bpda(coarse, backward)(torch.rand(2, 3))


@pytest.mark.parametrize("parts", [(Plain,), (coarse, nn.Tanh)])
def test_a_class_is_no_layer(parts):
    with pytest.raises(InputError, match="is a class, not a layer") as caught:
        stochx.bpda(*parts)
    assert caught.value.hint == f"make one: `{parts[-1].__name__}()`"


def test_weights_of_the_stand_in_learn_and_those_of_the_layer_do_not():
    layer = stochx.bpda(nn.Linear(3, 3), nn.Linear(3, 3))
    layer(torch.rand(2, 3)).sum().backward()
    assert layer.stand_in.weight.grad is not None and layer.module.weight.grad is None


def test_half_precision_passes_through():
    x = torch.rand(2, 3).requires_grad_()
    net = nn.Sequential(nn.Linear(3, 3), stochx.bpda(lambda z: coarse(z.float()), None))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope.dtype == torch.float32 and slope.abs().min() > 0


# In the engine


def convolutional(layer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            layer,
            nn.Conv2d(8, 8, 3),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
        net[1].running_mean.normal_(), net[1].running_var.uniform_(0.5, 2)
    return net.double().eval().requires_grad_(False)


@pytest.mark.parametrize("backward", [None, cube, nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))])
def test_the_fused_network_has_the_values_and_gradients_of_the_network(backward):
    model, x = convolutional(stochx.bpda(Plain(), backward)), random_images(4, 3, 8, 8)
    fast = fused(model, x)
    assert fast.graph is not None and fast.stem is not None  # it was traced, folded and split
    assert [n.target for n in fast.graph.graph.nodes if n.op == "call_module"][:3] == ["0", "2", "3"]  # no norm
    x = x.requires_grad_()
    slopes = [torch.autograd.grad(f(x)[:, 1].sum(), x)[0] for f in (model, fast.whole)]
    torch.testing.assert_close(slopes[0], slopes[1])
    torch.testing.assert_close(model(x), fast.whole(x))
    torch.testing.assert_close(gradient(model, x.detach(), torch.ones(4).long()), slopes[0])
    assert slopes[0].abs().sum() > 0


def test_attacks_follow_the_stand_in_and_verdicts_the_layer(linear):
    x = coarse(random_images(40, 1, 4, 4))
    bare, mended = behind(Plain(), linear), behind(stochx.bpda(Plain()), linear)
    y = linear(x).argmax(1)
    found = {}
    for name, model in {"bare": bare, "mended": mended}.items():
        attempt = run(PGD(10, random_start=False), model, x, y, eps=0.15)
        found[name] = bare(attempt.x).argmax(1) != y
        judge = Judge(model, y, None, 1, 0, "batch", False)
        assert torch.equal(judge.verdict(attempt.x, "judge").right.bool(), ~found[name])
    assert not found["bare"].any() and found["mended"].double().mean() > 0.4
    crafted = run(Transfer(10), bare, x, y, eps=0.15, source=mended)
    assert (bare(crafted.x).argmax(1) != y).double().mean() > 0.4


class Shaken(nn.Module):
    """Rounding after noise, one draw for each value."""

    noise = "sample"

    def __init__(self):
        super().__init__()
        self.layer, self.linear = stochx.bpda(lambda x: coarse(x + 0.05 * torch.randn_like(x))), Linear()

    def forward(self, x):
        return self.linear(self.layer(x))


def test_an_expectation_is_over_draws_of_the_layer():
    model, x = Shaken().eval(), random_images(3, 1, 4, 4)
    goal = Goal(torch.tensor([0, 1, 2]))
    torch.manual_seed(0)
    found = loss_gradient(model, x, goal, LOSSES["ce"], 64)
    torch.manual_seed(0)
    p = model.linear(coarse(x.repeat(64, 1, 1, 1) + 0.05 * torch.randn(192, 1, 4, 4, dtype=x.dtype))).softmax(1)
    p = p.view(64, 3, 3).mean(0) - torch.eye(3)
    torch.testing.assert_close(found.gradient.flatten(1), p @ model.linear.weight)


def test_explanations_follow_the_stand_in(linear):
    x = random_images(2, 1, 4, 4)
    found = Gradient()(behind(stochx.bpda(coarse), linear), x, 1).map
    torch.testing.assert_close(found.flatten(1), linear.weight[1].expand(2, 16))


# The check of the derivative


def test_the_derivative_is_checked_on_the_network_whose_stand_ins_run_forward(linear):
    x = random_images(6, 1, 4, 4)
    for backward, ratio in ((None, 1.0), (torch.tanh, 1.0), (Reversed.apply, -1.0)):
        with comparable(model := behind(stochx.bpda(coarse, backward), linear)):
            found = slope_ratio(model, x)
        torch.testing.assert_close(found, torch.full_like(found, ratio), atol=0.05, rtol=0)
        assert torch.equal(logits(model, x), linear(coarse(x)))  # as before
    assert ((slope_ratio(model, x) - 1).abs() > 0.05).any()
    with pytest.raises(RuntimeError), smooth_twin(model):
        raise RuntimeError
    assert not any(layer.smooth for layer in stand_ins(model).values())


class Reversed(torch.autograd.Function):
    """The identity with the opposite gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return -slope


@pytest.mark.parametrize(("backward", "verdict"), [(None, "ok"), (Reversed.apply, "fail")])
def test_the_check_names_the_stand_in_and_catches_one_that_points_backwards(backward, verdict):
    net = nn.Sequential(stochx.bpda(coarse, backward), convolutional(nn.Identity()).float())
    model = stochx.Classifier(net, "abcd", Preparation(8, 8)).eval()
    x = random_images(8, 3, 8, 8).float()
    items = [Item(str(n), x[n], int(y)) for n, y in enumerate(logits(model, x).argmax(1))]
    sources = [Source(item.key, lambda item=item: item) for item in items]
    row = {"model": "m", "attack": "pgd", "robust": 0.0, "clean": 1.0, "clean_high": 1.0}
    found = {check.name: check for check in check_evaluation(model, {}, sources, Ball(0.03), [row], 0, full=False)}
    assert found["derivative"].verdict == verdict
    assert "the stand-ins of `0` run forward too" in found["derivative"].text


# From the user's own code

CODE = """
import torch
from torch import nn
import stochx
class Quantise(nn.Module):
    def forward(self, x): return (15 * x).round() / 15
class Net(nn.Module):
    image_size = 16
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"quantise": Quantise()})
        self.head = nn.Linear(3, 4)
    def forward(self, x): return self.head(self.parts["quantise"](x).mean((2, 3)))
def soft(x): return x
def wide(x): return x[:, :1]
def broken(x): return {}["key"]
def plain(): return Net()
def inside():
    net = Net()
    net.parts["quantise"] = stochx.bpda(net.parts["quantise"], soft)
    return net
def named(): return {"network": Net(), "bpda": {"parts.quantise": soft}}
def identity(): return {"network": Net(), "bpda": {"parts.quantise": None}}
def bare(): return {"network": Net()}
def typo(): return {"network": Net(), "bpda": {"parts.quantize": None}}
def shape(): return {"network": Net(), "bpda": {"parts.quantise": wide}}
def breaks(): return {"network": Net(), "bpda": {"parts.quantise": broken}}
def number(): return {"network": Net(), "bpda": {"parts.quantise": 3}}
def a_list(): return {"network": Net(), "bpda": ["parts.quantise"]}
def more(): return {"network": Net(), "bdpa": {}}
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "own_defence.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_defence", None)


@pytest.mark.parametrize(("function", "name"), [("inside", "soft"), ("named", "soft"), ("identity", "the identity")])
def test_a_function_says_which_layers_have_a_stand_in(code, function, name):
    loaded = open_model(f"own_defence:{function}")
    facts = {fact.name: fact.value for fact in loaded.facts}
    assert facts["bpda"] == f"parts.quantise: gradient of {name}"
    x = random_images(2, 3, 16, 16).float()
    assert gradient(loaded.model, x, torch.zeros(2).long()).abs().min() > 0
    for plain in "plain", "bare":
        bare = open_model(f"own_defence:{plain}")
        assert "bpda" not in {fact.name for fact in bare.facts}
        assert gradient(bare.model, x, torch.zeros(2).long()).abs().max() == 0


@pytest.mark.parametrize(
    ("function", "message", "hint"),
    [
        ("typo", "has no layer `parts.quantize`", "did you mean `parts.quantise`?"),
        ("shape", "returns (3, 3, 16, 16), its backward stand-in (3, 1, 16, 16)", "have the same shape"),
        ("breaks", "fails at own_defence.py:16: KeyError: 'key'", "mend its code"),
        ("number", "`backward` of `bpda` is of type int", "the identity stands in"),
        ("a_list", "is a list", '{"layer": backward}'),
        ("more", "returns a dict, not a network", "return a torch.nn.Module"),
    ],
)
def test_a_stand_in_that_cannot_be_used_is_one_error(code, function, message, hint):
    with pytest.raises(InputError) as caught:
        open_model(f"own_defence:{function}")
    assert message in str(caught.value) and hint in caught.value.hint


def test_a_stand_in_of_another_shape_is_bad_input_at_the_command_line_and_from_python(code):
    done = command("info", "own_defence:shape")
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and "hint:" in done.stderr
    net = behind(stochx.bpda(coarse, lambda x: x[..., 0]), Linear())
    with pytest.raises(InputError, match="backward stand-in"):
        PGD(2)(net, random_images(1, 1, 4, 4), 0)


def test_info_names_the_stand_ins(code):
    facts = json.loads(command("info", "own_defence:named", "--json").stdout)["results"]
    assert {"name": "bpda", "value": "parts.quantise: gradient of soft", "source": "given"} in facts
