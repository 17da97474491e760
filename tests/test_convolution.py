"""Minimal filtering against sums in float64, where it is taken, and what its errors come to in relevance."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stochx.catalog import HEADS
from stochx.engine.device import at_runtime_precision, select_runtime
from stochx.engine.fewshot import convolution
from stochx.engine.fewshot.convolution import convolve, convolve_back, linear
from stochx.engine.fewshot.head import initial_relevance
from stochx.engine.fewshot.lrp_rules import TINY, convolved, supporting
from stochx.engine.seeds import seeded

SIZES = [(1, 1), (2, 3), (3, 3), (4, 7), (5, 5), (7, 7), (8, 9), (11, 6)]
CASES = [(size, padding) for size in SIZES for padding in (0, 1, 2) if min(size) + 2 * padding >= 3]


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(convolution, "_pays", lambda *shape: True)


@pytest.mark.parametrize(("side", "padding"), [(n, p) for n in range(1, 14) for p in (0, 1, 2) if n + 2 * p >= 3])
def test_transforms_of_an_axis_are_the_correlation(side, padding):
    """(G g * D d) C = sum over k of g[k] d[i + k], exactly: the bilinear algorithm of Toom and Cook."""
    with seeded(0):
        d, g = torch.randn(side, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    into, kernel, out = convolution._axis(side, padding)
    found = torch.einsum("kt,k,kto->o", into @ d, kernel @ g, out)
    torch.testing.assert_close(found, F.conv1d(d[None, None], g[None, None], padding=padding)[0, 0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("size", "padding"), CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_the_convolution_s(always, size, padding, layout):
    with seeded(1):
        x = torch.randn(3, 8, *size).to(memory_format=layout).requires_grad_()
        weight, bias = torch.randn(5, 8, 3, 3, requires_grad=True), torch.randn(5, requires_grad=True)
    leaves = x, weight, bias
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    y, z = convolve(*leaves, padding), F.conv2d(*exact, padding=padding)
    slope = torch.cos(torch.arange(z.numel(), dtype=torch.float64)).view(z.shape)
    pairs = zip(
        [y, *torch.autograd.grad(y, leaves, slope.float())], [z, *torch.autograd.grad(z, exact, slope)], strict=True
    )
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("padding", [0, 1])
def test_back_is_the_transpose(always, size, padding):
    with seeded(2):
        s, weight = torch.rand(2, 6, *size), torch.rand(6, 4, 3, 3)
    theirs = F.conv_transpose2d(s.double(), weight.double(), padding=padding)
    assert (convolve_back(s, weight, padding) - theirs).abs().max() <= 2e-5 * theirs.max()


def test_it_is_taken_where_it_pays():
    assert convolution._pays(512, 1024, 7, 7)
    assert convolution._pays(512, 512, 3, 3)
    assert not convolution._pays(64, 64, 5, 5)
    assert not convolution._pays(512, 512, 1, 1)
    assert not convolution._pays(128, 128, 19, 19)


@pytest.mark.parametrize("case", ["small", "float64", "1x1", "bf16"])
def test_elsewhere_it_is_torch_s_to_the_bit(case):
    channels, kernel = (16 if case == "small" else 256), (1 if case == "1x1" else 3)
    with seeded(3):
        x, weight = torch.randn(2, channels, 4, 4), torch.randn(channels, channels, kernel, kernel)
    if case == "float64":
        x, weight = x.double(), weight.double()
    with select_runtime("cpu", "bf16" if case == "bf16" else "fp32").scope():
        assert torch.equal(
            at_runtime_precision(convolve, x, weight, None, 1), at_runtime_precision(F.conv2d, x, weight, None, 1, 1)
        )


def test_whether_it_is_taken_does_not_depend_on_the_number_of_images():
    with seeded(4):
        x, weight = torch.randn(40, 256, 4, 4), torch.randn(256, 256, 3, 3)
    many, one = convolve(x, weight, None, 1), convolve(x[:1], weight, None, 1)
    assert not torch.equal(many, F.conv2d(x, weight, None, 1, 1))
    assert not torch.equal(one, F.conv2d(x[:1], weight, None, 1, 1))
    assert (many[:1] - one).abs().max() <= 2e-5 * many.abs().max()


@pytest.mark.parametrize("dark", [False, True])
def test_relevance_of_maps_with_dark_regions_takes_the_sum(dark):
    """Where nothing speaks for an output, R / z is so large that its neighbours would drown in the errors."""
    with seeded(5):
        x, weight, r = torch.rand(2, 256, 7, 7), torch.randn(256, 256, 3, 3), torch.rand(2, 256, 7, 7)
    if dark:
        x[:, :, :, 2:] = 0
    found, exact = convolved(x, weight, r, 1), convolved(x.double(), weight.double(), r.double(), 1)
    s = r / supporting(x, weight, 1).clamp(min=TINY)
    summed = x * F.conv_transpose2d(s, weight.clamp(min=0), padding=1)
    assert torch.equal(found, summed) == dark
    assert (found - exact).abs().max() <= 1e-4 * exact.max()


def test_relevance_of_a_relation_head_is_near_float64_s():
    with seeded(6):
        head = HEADS.make("relation")((128, 4, 4), 5)
        support, query = torch.randn(1, 5, 2, 128, 4, 4).relu(), torch.randn(1, 10, 128, 4, 4).relu()
    found = []
    for dtype in (torch.float32, torch.float64):
        scores, cache = head.to(dtype)(support.to(dtype), query.to(dtype))
        found.append((scores.detach(), head.relevance(cache, initial_relevance(cache.outputs))[0].detach()))
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).abs().max() <= 1e-3 * exact.abs().max()


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products_of_rows_are_linear_layers(rows):
    with seeded(0):
        layer, x = nn.Linear(37, 21), torch.randn(2, rows, 37, requires_grad=True)
    slopes = []
    for out in (linear(x, layer.weight, layer.bias), layer(x)):
        slopes.append([out, *torch.autograd.grad(out.square().mean(), [x, layer.weight, layer.bias])])
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)
