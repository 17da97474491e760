"""LRP through attention, norms and gates: published rules as gradients, LXT, and conservation in whole networks."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.nn import functional as F

from stochx.attributions import LRP
from stochx.engine.lrp import rules
from stochx.engine.lrp.tape import RelevanceTape, Rules
from stochx.engine.network.folding import folded
from stochx.engine.network.graph import trace
from stochx.errors import InputError

EXACT = partial(rules.epsilon, stabiliser=1e-12)
CONSTANT, TAYLOR = (Rules(EXACT, EXACT, constant_attention=constant, stabiliser=1e-12) for constant in (True, False))


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def sent(function, x, start, chosen=TAYLOR):
    """Relevance of x from `start`, that of the function's output."""
    record = RelevanceTape(folded(trace(Function(function).eval())), x, chosen)
    return record.relevance(start, x[:1], x[:1])


# Published rules as gradients: where every operation has its secant for a slope, relevance is x times the gradient.


def as_secant(x, factor):
    """Return x, with a gradient `factor` times as large."""
    return x * factor + (x - x * factor).detach()


class TinyViT(nn.Module):
    """A vision transformer of one block; with `attention`, its gradient times the image is its relevance."""

    def __init__(self, attention=None, fused=False, width=12, heads=2):
        super().__init__()
        self.attention, self.fused, self.heads = attention, fused, heads
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls, self.position = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2, self.head = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Linear(width, 4)
        for norm in (self.norm1, self.norm2, self.norm):
            nn.init.normal_(norm.bias, 0, 0.2)

    def normalise(self, norm, x):
        if self.attention is None:
            return norm(x)
        variance = x.var(-1, correction=0, keepdim=True).detach()
        return (x - x.mean(-1, keepdim=True)) / (variance + norm.eps).sqrt() * norm.weight + norm.bias

    def attend(self, x):
        parts = self.qkv(x).reshape(x.shape[0], 5, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        if self.attention == "taylor":
            q, k, v = as_secant(q, 1 / 4), as_secant(k, 1 / 4), as_secant(v, 1 / 2)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
            out = (weights.detach() if self.attention == "constant" else weights) @ v
        return self.proj(out.transpose(1, 2).reshape(x.shape[0], 5, -1))

    def activate(self, x):
        return F.gelu(x) if self.attention is None else x * (F.gelu(x) / x).detach()

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attend(self.normalise(self.norm1, x))
        x = x + self.fc2(self.activate(self.fc1(self.normalise(self.norm2, x))))
        return self.head(self.normalise(self.norm, x)[:, 0])


def tiny_vit(attention=None, fused=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyViT(attention, fused).double().eval()


@pytest.mark.parametrize("fused", [False, True], ids=["products", "fused"])
@pytest.mark.parametrize(("composite", "attention"), [("attn-lrp", "taylor"), ("cp-lrp", "constant")])
def test_the_epsilon_chain_is_gradient_times_input_of_the_secants(composite, attention, fused):
    x, y = random_images(2, 3, 8, 8), torch.tensor([1, 3])
    found = LRP(composite, epsilon=1e-12, gamma=0.0, mlp_gamma=0.0)(tiny_vit(fused=fused), x, y)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(tiny_vit(attention)(leaf).gather(1, y[:, None]).sum(), leaf)
    torch.testing.assert_close(found.map, x * slope, rtol=1e-6, atol=1e-9)


def test_the_two_rules_of_attention_differ():
    x, y = random_images(2, 3, 8, 8), torch.tensor([1, 3])
    one, other = (LRP(name)(tiny_vit(), x, y).map for name in ("attn-lrp", "cp-lrp"))
    assert (one - other).norm() > 0.1 * other.norm()


def test_gamma_acts_on_the_layers_of_the_mlp_alone():
    seen = []

    def mlp(layer, x, relevance):
        seen.append(tuple(layer.weight.shape))
        return EXACT(layer, x, relevance)

    record = RelevanceTape(folded(trace(tiny_vit())), random_images(1, 3, 8, 8), Rules(EXACT, EXACT, mlp=mlp))
    record.relevance(record.output, torch.zeros(1, 3, 8, 8).double(), torch.ones(1, 3, 8, 8).double())
    assert seen == [(12, 24), (24, 12)]


# Single operations.

ATTENTION = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]]).bool()},
    "bias": {"attn_mask": tokens(3, 3, seed=5)},
}


def decomposed(q, k, v, attn_mask=None, is_causal=False, scale=None):
    scores = q @ k.transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(3, 3).tril().bool()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("chosen", [CONSTANT, TAYLOR], ids=["constant", "taylor"])
@pytest.mark.parametrize("setting", ATTENTION)
def test_fused_attention_is_its_parts(setting, chosen):
    def attend(function, x):
        return function(x * 2, x + 1, x - 3, **ATTENTION[setting])

    x, start = tokens(2, 3, 4), tokens(2, 3, 4, seed=1)
    one = sent(partial(attend, F.scaled_dot_product_attention), x, start, chosen)
    torch.testing.assert_close(one, sent(partial(attend, decomposed), x, start, chosen), rtol=1e-6, atol=1e-9)


def test_values_take_half_of_attention_and_queries_as_much_as_keys():
    x, start = tokens(2, 3, 12), tokens(2, 3, 4, seed=1)
    found = sent(lambda x: F.scaled_dot_product_attention(x[..., :4], x[..., 4:8], x[..., 8:]), x, start)
    query, key, value = found.chunk(3, -1)
    torch.testing.assert_close(value.sum(), start.sum() / 2, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(query.sum(), key.sum(), rtol=1e-6, atol=1e-9)
    assert query.abs().sum() > 0.01


lxt = pytest.importorskip("lxt.explicit.functional")


def theirs(function, x, start):
    """Relevance by LXT, whose backward passes hand on relevance instead of gradients."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, start)[0]


def test_the_softmax_agrees_with_lxt():
    x, start = tokens(2, 3, 5), tokens(2, 3, 5, seed=1)
    x[0, 0, 0] = -torch.inf
    torch.testing.assert_close(sent(lambda x: x.softmax(-1), x, start), theirs(lambda x: lxt.softmax(x, -1), x, start))


def test_the_product_of_two_values_agrees_with_lxt():
    x, start = tokens(2, 3, 3), tokens(2, 3, 3, seed=1)
    expected = theirs(lambda x: lxt.matmul(x, x.exp().detach(), epsilon=1e-12), x, start)
    other = theirs(lambda b: lxt.matmul(tokens(2, 3, 3), b, epsilon=1e-12), x.exp(), start)
    torch.testing.assert_close(sent(lambda x: x @ x.exp(), x, start), expected + other, rtol=1e-6, atol=1e-9)


def test_the_layer_norm_agrees_with_lxt():
    x, start, weight, bias = tokens(2, 3, 5), tokens(2, 3, 5, seed=1), tokens(5, seed=2), tokens(5, seed=3)
    expected = theirs(lambda x: lxt.layer_norm(x, weight, bias, 1e-5), x, start)
    found = sent(lambda x: F.layer_norm(x, (5,), weight, bias, 1e-5), x, start)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # they stabilise by 1e-6, without a sign


def by_groups(x, groups):
    rows = x.reshape(x.shape[0], groups, -1)
    return F.layer_norm(rows, rows.shape[2:]).reshape(x.shape)


@pytest.mark.parametrize(
    ("norm", "groups"), [(lambda x: F.group_norm(x, 2), 2), (F.instance_norm, 4), (nn.GroupNorm(2, 4).double(), 2)]
)
def test_norms_of_groups_are_layer_norms_of_their_values(norm, groups):
    x, start = tokens(2, 4, 3, 3), tokens(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(sent(norm, x, start), sent(lambda x: by_groups(x, groups), x, start))


# Everything that has no constants hands on all relevance.
CONSERVING = {
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "instance norm": lambda x: F.instance_norm(x),
    "rms norm": lambda x: F.rms_norm(x, (4,)),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "l2 norm": lambda x: F.normalize(x, dim=-1),
    "l2 norm by hand": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-6),
    "response norm": lambda x: x + x * (x.norm(p=2, dim=1, keepdim=True) / 3),
    "gelu": lambda x: F.gelu(x),
    "gate by hand": lambda x: x * torch.sigmoid(1.702 * x),
    "hard-swish by hand": lambda x: x * F.hardsigmoid(x),
    "two branches": lambda x: F.silu(x) * (x - x.flip(1)),
    "square": lambda x: x * x,
    "square by power": lambda x: x**2,
    "product with itself": lambda x: x @ x,
    "einsum": lambda x: torch.einsum("nchw,ncwk->nchk", x, F.gelu(x)),
    "batched product": lambda x: torch.bmm(x.flatten(0, 1), x.flatten(0, 1)),
    "outer product": lambda x: x.mean(1, keepdim=True) * x.mean((2, 3), keepdim=True),
    "scaled in place": lambda x: (x + x).mul_(2),
    "addcmul": lambda x: torch.addcmul(x, x, torch.full((4, 1, 1), 2.0, dtype=torch.float64)),
    "roll": lambda x: torch.roll(x, (1, 2), (2, 3)),
    "windows": lambda x: x.view(2, 4, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 4),
    "unfold and fold": lambda x: F.fold(F.unfold(x, 2), (4, 4), 2),
    "stack": lambda x: torch.stack([x, -x], -1).flatten(-2),
    "rotation": lambda x: x * 0.8 + torch.cat([-x[..., 2:], x[..., :2]], -1) * 0.6,
    "swapped axes": lambda x: x.swapaxes(1, 2).movedim(-1, 1).unflatten(1, (2, 2)).mT,
    "repeats": lambda x: x.repeat(1, 2, 1, 1).repeat_interleave(2, 0).expand(4, 8, 4, 4),
    "shape of another value": lambda x: x.sum(1, keepdim=True).expand_as(F.gelu(x)),
    "types": lambda x: x.to(torch.float64).type_as(x).contiguous(),
    "maximum along an axis": lambda x: x.max(dim=1)[0] + x.amax(1),
    "upsampling": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "power pooling": lambda x: F.lp_pool2d(F.relu(x) + 0 * x, 2, 2),
    "one-dimensional pooling": lambda x: F.avg_pool1d(x.flatten(2), 2),
    "one-dimensional convolution": lambda x: F.conv1d(x.flatten(2), torch.ones(2, 4, 3, dtype=torch.float64)),
    "choice": lambda x: torch.where(torch.eye(4, dtype=torch.bool), x, 2 * x),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
}


@pytest.mark.parametrize("name", CONSERVING)
def test_relevance_is_conserved(name):
    x = tokens(2, 4, 4, 4)
    record = RelevanceTape(folded(trace(Function(CONSERVING[name]).eval())), x, TAYLOR)
    start = tokens(*record.output.shape, seed=1) * (record.output != 0)
    found = record.relevance(start, x[:1], x[:1])
    torch.testing.assert_close(found.sum(), start.sum(), rtol=1e-6, atol=1e-6)


def test_a_gate_over_channels_takes_nothing():
    x, start = tokens(2, 4, 4, 4), tokens(2, 4, 4, 4, seed=1)
    torch.testing.assert_close(sent(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), x, start), start)


def test_two_branches_share_equally():
    x, start = tokens(2, 4), tokens(2, 2, seed=1)
    found = sent(lambda x: F.gelu(x[:, :2]) * x[:, 2:], x, start)
    torch.testing.assert_close(found, torch.cat([start, start], 1) / 2)


def test_constants_absorb_their_share_of_a_norm():
    x, bias = tokens(2, 4), torch.full((4,), 2.0, dtype=torch.float64)
    value = F.layer_norm(x, (4,))
    found = sent(lambda x: F.layer_norm(x, (4,), None, bias), x, value + bias)
    torch.testing.assert_close(found.sum(1), value.sum(1), rtol=0, atol=1e-9)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 4).double()

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Recurrent(), "`LSTM`, at `function_rnn`"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, enable_gqa=True), "grouped queries"),
    ],
)
def test_what_has_no_rule_is_named(function, name):
    x = tokens(2, 3, 4)
    with pytest.raises(InputError, match=name):
        sent(function, x, x)
