"""Balanced gradients by their theorem, and what the network is made of by definition."""

from __future__ import annotations

import pytest
import torch
from conftest import random_images
from families import FAMILIES, network
from torch import nn
from torch.nn import functional as F

from stochx.attributions import FullGrad, GradCAM, Gradient, GradientTimesInput, IntegratedGradients, SmoothGrad
from stochx.engine.gradients import gradient, scores
from stochx.engine.network.balanced import balanced
from stochx.engine.network.constants import decomposed
from stochx.engine.network.fused import fused
from stochx.engine.network.inplace import out_of_place
from stochx.engine.network.linearised import Secant, group_norm, instance_norm, layer_norm, normalize, rms_norm, share
from stochx.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
TARGET = torch.tensor([1, 0])
# Piecewise linear, so that gradients need no balance.
LINEAR = {"ResNet", "DenseNet", "HRNet"}


def slope(function, x, gradient):
    """The gradient of x for one of the value of `function`."""
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(x), x, gradient)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_and_the_constants_make_up_the_logit(family):
    model, size = network(family)
    x = random_images(2, 3, size, size)
    graph = out_of_place(fused(model, x).graph)
    parts = decomposed(balanced(graph), x, TARGET)
    logit = scores(model, x, TARGET)
    torch.testing.assert_close(parts.logit, logit, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(parts.total(), logit, rtol=1e-10, atol=1e-10)
    plain = decomposed(graph, x, TARGET)
    lost = (plain.total() - logit).abs().max()
    assert (lost < 1e-10 * logit.abs().max()) if family in LINEAR else (lost > 1e-5 * logit.abs().max())


@pytest.mark.parametrize("family", ["ResNet"])
def test_networks_of_batch_norms_and_relu_keep_their_gradients_bit_for_bit(family, tiny, images):
    model, size = network(family)
    for net, x in ((model, random_images(2, 3, size, size)), (tiny, images[:2])):
        assert torch.equal(gradient(net, x, TARGET, "balanced"), gradient(net, x, TARGET))


NORMS = {
    "layer": (layer_norm, F.layer_norm, ((4, 3),)),
    "group": (group_norm, F.group_norm, (2,)),
    "instance": (instance_norm, F.instance_norm, ()),
    "root mean square": (rms_norm, F.rms_norm, ((4, 3),)),
    "length": (normalize, F.normalize, ()),
}


def scale(name, x):
    """What a norm divides by, written out."""
    if name == "length":
        return x.square().sum(1, keepdim=True).sqrt()
    if name == "root mean square":
        return (x.square().mean((-2, -1), keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
    groups = x.reshape(len(x), {"layer": 6, "group": 2, "instance": 6}[name], -1)
    spread = (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    return spread.expand(groups.shape).reshape(x.shape)


def centred(name, x):
    if name in ("length", "root mean square"):
        return x
    groups = x.reshape(len(x), {"layer": 6, "group": 2, "instance": 6}[name], -1)
    return (groups - groups.mean(2, keepdim=True)).reshape(x.shape)


@pytest.mark.parametrize("name", NORMS)
def test_norms_divide_by_a_constant(name):
    ours, theirs, args = NORMS[name]
    x, g = random_images(2, 6, 4, 3), random_images(2, 6, 4, 3) - 0.5
    assert torch.equal(ours(x, *args), theirs(x, *args))
    divisor = scale(name, x)
    torch.testing.assert_close(slope(lambda z: ours(z, *args), x, g), slope(lambda z: centred(name, z) / divisor, x, g))


@pytest.mark.parametrize(
    ("activation", "gate"),
    [
        (nn.GELU(), lambda x: 0.5 * (1 + torch.erf(x / 2**0.5))),
        (nn.SiLU(), torch.sigmoid),
        (nn.Hardswish(), lambda x: F.relu6(x + 3) / 6),
        (nn.ReLU(), lambda x: (x > 0).double()),
        (nn.Mish(), lambda x: torch.tanh(F.softplus(x))),
        (nn.Softplus(), lambda x: (F.softplus(x) - F.softplus(torch.zeros_like(x))) / x),
        (nn.ReLU6(), lambda x: F.relu6(x) / x),
        (nn.ELU(), lambda x: F.elu(x) / x),
    ],
    ids=lambda value: type(value).__name__,
)
def test_activations_send_back_their_gate(activation, gate):
    x = 16 * random_images(1, 2, 5, 5) - 8
    assert torch.equal(Secant(activation)(x), activation(x))
    torch.testing.assert_close(slope(Secant(activation), x, torch.ones_like(x)), gate(x))


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Sigmoid(), nn.Tanh()])
@pytest.mark.parametrize("x", [0.0, 1e-30, -1e-12])
def test_next_to_zero_the_secant_is_the_tangent(activation, x):
    x = torch.tensor([x], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(slope(Secant(activation), x, one), slope(activation, x, one), rtol=1e-6, atol=1e-7)


def test_each_of_two_factors_gets_half():
    x = random_images(1, 1, 2, 2)
    torch.testing.assert_close(slope(lambda z: share(z, 0.5) * share(z, 0.5), x, torch.ones_like(x)), x)


class Gated(nn.Module):
    """A convolution whose channels or products are weighed by `kind`."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.other, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        a, b = self.conv(x), self.other(x)
        if self.kind == "excitation":
            a = a * b.mean((2, 3), keepdim=True).sigmoid()
        elif self.kind == "hard excitation":
            a = F.relu6(b + 3) / 6 * a
        elif self.kind == "attention":
            a = torch.softmax(a.flatten(2) @ b.flatten(2).mT, -1) @ b.flatten(2)
            a = a[..., None]
        elif self.kind == "global response":
            size = a.norm(p=2, dim=(2, 3), keepdim=True)
            a = a * (size / (size.mean(1, keepdim=True) + 1e-6))
        else:
            a = a * b
        return self.head(a.mean((2, 3)))

    def constant(self, x):
        """The gradients with the factor written as a constant."""
        x = x.clone().requires_grad_()
        a, b = self.conv(x), self.other(x)
        if self.kind == "excitation":
            a = a * b.mean((2, 3), keepdim=True).sigmoid().detach()
        elif self.kind == "hard excitation":
            a = (F.relu6(b + 3) / 6).detach() * a
        elif self.kind == "attention":
            a = (torch.softmax(a.flatten(2) @ b.flatten(2).mT, -1).detach() @ b.flatten(2))[..., None]
        elif self.kind == "global response":
            size = a.norm(p=2, dim=(2, 3), keepdim=True)
            a = a * (size / (size.mean(1, keepdim=True) + 1e-6)).detach()
        else:
            a = (a * b.detach() + a.detach() * b) / 2
        logits = self.head(a.mean((2, 3)))
        return torch.autograd.grad(logits[:, 1].sum(), x)[0]


@pytest.mark.parametrize("kind", ["excitation", "hard excitation", "attention", "global response", "product"])
def test_factors_count_as_constants(kind):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Gated(kind).double().eval()
    x = random_images(2, 3, 6, 6)
    torch.testing.assert_close(gradient(model, x, torch.tensor([1, 1]), "balanced"), model.constant(x))
    assert not torch.allclose(gradient(model, x, torch.tensor([1, 1])), model.constant(x))


def test_a_softmax_at_the_end_is_no_attention():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Softmax(1)).double().eval()
    x, y = random_images(2, 3, 2, 2), torch.tensor([1, 3])
    assert torch.equal(gradient(model, x, y, "balanced"), gradient(model, x, y))


def test_fused_attention_sends_gradients_through_values_alone():
    class Attention(nn.Module):
        def forward(self, x):
            q, k, v = x.flatten(2).chunk(3, 1)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7).mean(1)

    x, y = random_images(2, 12, 2, 2), torch.tensor([1, 3])
    q, k, _ = (part.detach() for part in x.flatten(2).chunk(3, 1))
    mask = torch.ones(4, 4).tril().bool()
    weights = torch.softmax((0.7 * q @ k.mT).masked_fill(~mask, -torch.inf), -1)
    expected = torch.zeros(2, 12, 4, dtype=torch.float64)
    for n in range(2):
        expected[n, 8:, y[n]] = weights[n].sum(0) / 4
    torch.testing.assert_close(gradient(Attention(), x, y, "balanced"), expected.view_as(x))


def test_the_balanced_form_is_made_once_and_again_for_other_weights():
    model, size = network("ViT")
    x = random_images(2, 3, size, size)
    first = fused(model, x).balanced
    assert fused(model, x).balanced is first and first.stem is not None
    before = gradient(model, x, TARGET, "balanced")
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight *= 2
    assert fused(model, x).balanced is not first
    assert not torch.allclose(gradient(model, x, TARGET, "balanced"), before)


def test_averages_over_points_are_those_of_balanced_gradients():
    model, size = network("ConvNeXt")
    x = random_images(2, 3, size, size)
    nodes = [(k + 0.5) / 4 for k in range(4)]
    mean = sum(gradient(model, node * x, TARGET, "balanced") for node in nodes) / 4
    found = IntegratedGradients(steps=4, backward="balanced")(model, x, TARGET)
    torch.testing.assert_close(found.map, x * mean)
    assert found.gap is None, "path integrals of balanced gradients are no differences of logits"


@pytest.mark.parametrize("method", [Gradient, GradientTimesInput, IntegratedGradients, SmoothGrad, GradCAM])
def test_methods_take_balanced_gradients(method):
    model, size = network("ViT, mean of tokens")
    x = random_images(2, 3, size, size)
    plain, other = (method(backward=kind)(model, x, TARGET).map for kind in ("plain", "balanced"))
    assert other.isfinite().all() and not torch.allclose(plain, other)


def test_a_network_that_cannot_be_traced_has_no_balanced_gradients():
    with pytest.raises(InputError, match="operations"):
        Gradient(backward="balanced")(lambda x: x.flatten(1)[:, :3], random_images(2, 3, 4, 4), TARGET)


def test_an_operation_without_a_rule_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x.flatten(1)[:, :4]).real

    with pytest.raises(InputError, match="fft"):
        Gradient(backward="balanced")(Odd(), random_images(2, 3, 4, 4), TARGET)


@pytest.mark.parametrize("family", ["torchvision ViT", "Swin", "ConvNeXt v2", "MLP-Mixer", "ResNet"])
def test_fullgrad_is_complete(family):
    model, size = network(family)
    x = random_images(2, 3, size, size)
    found = FullGrad()(model, x, TARGET)
    assert found.gap.abs().max() < 1e-10
    plain = FullGrad(backward="plain")(model, x, TARGET)
    assert (plain.gap.abs().max() < 1e-10) == (family == "ResNet")


def test_fullgrad_is_the_formula_of_the_paper(images):
    """Input times gradient, and every bias times its gradient; the last bias has no place."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        convs = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 4, stride=4)
        model = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)).double().eval()
    x = images[:2].clone().requires_grad_()
    one = convs[0](x)
    two = convs[1](one.relu())
    logit = model[5](two.relu().flatten(1)).gather(1, TARGET[:, None]).sum()
    slopes = torch.autograd.grad(logit, [x, one, two])
    first = (slopes[1] * convs[0].bias.view(-1, 1, 1)).sum(1, keepdim=True)
    second = (slopes[2] * convs[1].bias.view(-1, 1, 1)).sum(1, keepdim=True)
    found = FullGrad()(model, images[:2], TARGET).map
    inputs = (x * slopes[0]).sum(1, keepdim=True)
    sums = (inputs + first).sum((2, 3)) + second.sum((2, 3))
    torch.testing.assert_close(found.sum((2, 3)), sums)
    middle = (
        ...,
        slice(6, 10),
        slice(6, 10),
    )  # between the centres of inner cells; those at borders share what is left
    smooth = F.interpolate(second, (16, 16), mode="bilinear") / 16
    torch.testing.assert_close((found - inputs - first)[middle], smooth[middle])
