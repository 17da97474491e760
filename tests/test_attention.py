"""Attention in plain operations is torch's and torchvision's attention, with the same weights under the same names."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.func import functional_call
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from stochx.attributions import LRP, FullGrad
from stochx.engine.network.attention import OpenAttention
from stochx.engine.network.graph import COMPOSED, depending, trace
from stochx.engine.network.opening import opened

DRAW = torch.Generator().manual_seed(0)


def redrawn(network):
    """In float64 and eval mode, with all weights drawn anew: some are zero at first."""
    network = network.double().eval()
    for parameter in network.parameters():
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=DRAW, dtype=torch.float64))
    return network


def tokens(count, width, first=2):
    return torch.randn(first, count, width, generator=DRAW, dtype=torch.float64)


def swin(window, **options):
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [window, window], num_classes=5, **options)


def encoder(norm_first, batch_first=True, activation="gelu"):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first, norm_first=norm_first, activation=activation)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)


class OfTokens(nn.Module):
    """Patches of 8 x 8 as tokens, an encoder, and a head on the mean."""

    def __init__(self, body):
        super().__init__()
        self.patches, self.body, self.head = nn.Conv2d(3, 16, 8, 8), body, nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.body(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Weights(nn.Module):
    """Uses the weights of attention, between an input and others."""

    def __init__(self, average):
        super().__init__()
        self.attention, self.average = nn.MultiheadAttention(16, 4, batch_first=True), average
        self.register_buffer("mask", torch.ones(16, 16).triu(1).bool())

    def forward(self, x):
        out, weights = self.attention(
            x, x.flip(1), x.roll(1, 1), attn_mask=self.mask, average_attn_weights=self.average
        )
        return out * weights[..., :1].reshape(x.shape[0], -1).mean(1).view(-1, 1, 1)


class Asking(nn.Module):
    """Queries that ask a decoder of torch, or its whole transformer, for the mean of what they find."""

    def __init__(self, body):
        super().__init__()
        self.body, self.queries = body, nn.Parameter(torch.randn(1, 3, 16))

    def forward(self, x):
        queries = self.queries.expand(x.shape[0], -1, -1)
        pair = (x, queries) if isinstance(self.body, nn.Transformer) else (queries, x)
        return self.body(*pair)


def decoder_layer():
    return nn.TransformerDecoderLayer(16, 4, 32, batch_first=True, activation="gelu")


V2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
NETWORKS = {
    "vit": (lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5), (32, 32)),
    "swin": (lambda: swin(2), (32, 32)),
    "swin, padded windows": (lambda: swin(3), (52, 40)),
    "swin, one axis shifted": (lambda: swin(7), (32, 64)),
    "swin v2": (lambda: swin(8, **V2), (72, 40)),
    "encoder": (lambda: OfTokens(encoder(norm_first=True)), (32, 32)),
    "encoder, norms last": (lambda: OfTokens(encoder(norm_first=False, activation="relu")), (32, 32)),
    "encoder, batch second": (lambda: OfTokens(encoder(norm_first=True, batch_first=False)), (32, 32)),
    "decoder": (lambda: OfTokens(Asking(decoder_layer())), (32, 32)),
    "weights": (lambda: OfTokens(Weights(average=True)), (32, 32)),
    "weights of heads": (lambda: OfTokens(Weights(average=False)), (32, 32)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    make, size = NETWORKS[request.param]
    return redrawn(make()), random_images(3, 3, *size)


def value_and_gradient(function, x):
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    (gradient,) = torch.autograd.grad(out.sin().sum(), leaf)
    assert gradient.abs().max() > 1e-9
    return out, gradient


def test_an_opened_network_has_the_same_values_and_gradients(case):
    network, x = case
    other = opened(network)
    assert other is not network
    for own, value in zip(value_and_gradient(network, x), value_and_gradient(other, x), strict=True):
        torch.testing.assert_close(value, own, rtol=1e-10, atol=1e-12)


def test_an_opened_network_has_the_weights_of_the_network_under_their_names(case):
    network, _ = case
    other = opened(network)
    assert list(other.state_dict()) == list(network.state_dict())
    assert all(a is b for a, b in zip(other.parameters(), network.parameters(), strict=True))
    other.load_state_dict(network.state_dict(), strict=True)


def test_a_trace_sees_every_operation_and_holds_for_other_batches(case):
    network, x = case
    graph = trace(network)
    leaves = [type(graph.get_submodule(n.target)) for n in graph.graph.nodes if n.op == "call_module"]
    assert not {nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, *COMPOSED} & set(leaves)
    assert "shifted_window_attention" not in str(graph.graph)
    for images in (x, x[:1]):
        torch.testing.assert_close(graph(images), network(images), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [lambda: nn.TransformerDecoder(decoder_layer(), 2), lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True)],
)
def test_decoders_of_torch_are_explained_without_a_gap(make):
    network, x = redrawn(OfTokens(Asking(make()))), random_images(2, 3, 32, 32)
    torch.testing.assert_close(FullGrad()(network, x, 1).gap, torch.zeros(2, dtype=torch.float64))
    assert (LRP("cp-lrp")(network, x, 1).map.flatten(1).abs().sum(1) > 1e-3).all()


def test_the_trace_of_a_swin_holds_for_other_sizes():
    network, x = redrawn(swin(3)), random_images(2, 3, 44, 60)
    torch.testing.assert_close(trace(network)(x), network(x), rtol=1e-10, atol=1e-12)


def test_the_mask_of_shifted_windows_does_not_depend_on_the_image():
    graph = trace(redrawn(swin(3))).graph
    found = depending(graph)
    (mask, *_) = (n for n in graph.nodes if n.op == "call_function" and n.args[1:] == (-100.0,))
    (probabilities, *_) = (n for n in graph.nodes if n.target is torch.softmax)
    assert mask not in found and probabilities in found


ATTENTION = {
    "plain": {},
    "batch second": {"batch_first": False},
    "without biases": {"bias": False},
    "other widths": {"kdim": 12, "vdim": 20},
    "other widths without biases": {"kdim": 12, "vdim": 20, "bias": False},
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mask", ["none", "boolean", "additive", "by head", "padding", "both"])
@pytest.mark.parametrize("options", ATTENTION)
def test_attention_is_that_of_torch(options, mask, need_weights):
    options = {"batch_first": True} | ATTENTION[options]
    module = redrawn(nn.MultiheadAttention(16, 4, **options))
    other = opened(module)
    query, key, value = tokens(5, 16), tokens(7, module.kdim), tokens(7, module.vdim)
    if not options["batch_first"]:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    forbidden = torch.rand(5, 7, generator=DRAW) < 0.3
    padding = torch.tensor([[False] * 7, [True] * 2 + [False] * 5])
    additive = torch.randn(5, 7, generator=DRAW, dtype=torch.float64)
    masks = {
        "none": {},
        "boolean": {"attn_mask": forbidden},
        "additive": {"attn_mask": additive},
        "by head": {"attn_mask": additive + torch.arange(8.0).view(8, 1, 1)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": forbidden, "key_padding_mask": padding},
    }[mask]
    own, weights = module(query, key, value, need_weights=need_weights, **masks)
    out, found = other(query, key, value, need_weights=need_weights, **masks)
    torch.testing.assert_close(out, own, rtol=1e-10, atol=1e-12)
    assert (found is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(found, weights, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_attention_with_extra_keys_stays_as_it_is(options):
    network = nn.Sequential(nn.MultiheadAttention(16, 4, **options))
    assert opened(network) is network


def test_a_network_without_attention_is_not_copied():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert opened(network) is network


def test_opening_leaves_the_network_as_it_is():
    network = nn.Sequential(nn.MultiheadAttention(16, 4), nn.Identity())
    before = dict(network.named_modules())
    other = opened(network)
    other[1] = nn.ReLU()
    other[0].register_forward_hook(lambda *_: None)
    assert dict(network.named_modules()) == before
    assert type(network[0]) is nn.MultiheadAttention and not network[0]._forward_hooks


def test_a_module_used_twice_stays_one_module():
    attention = nn.MultiheadAttention(16, 4)
    first, second = opened(nn.ModuleList([attention, nn.Sequential(attention)])).children()
    assert first is second[0] and isinstance(first, OpenAttention)


def test_a_replaced_forward_stays():
    module = nn.MultiheadAttention(16, 4)
    module.forward = lambda x: x
    assert opened(module) is module


def test_projections_are_layers_with_the_weights_of_the_attention_around_them():
    attention = opened(redrawn(nn.MultiheadAttention(16, 4, batch_first=True)))
    x = tokens(5, 16)
    seen = []
    attention.in_proj.register_forward_hook(lambda module, inputs, out: seen.append(out))
    plain, _ = attention(x, x, x)
    torch.testing.assert_close(seen[0], x @ attention.in_proj_weight.mT + attention.in_proj_bias)
    other = copy.deepcopy(attention)
    other.in_proj_weight.data.mul_(2)
    assert other.in_proj.weight is other.in_proj_weight and not torch.allclose(other(x, x, x)[0], plain)
    torch.testing.assert_close(attention(x, x, x)[0], plain)
    doubled = functional_call(attention, {"in_proj_weight": 2 * attention.in_proj_weight.detach()}, (x, x, x))
    torch.testing.assert_close(doubled, other(x, x, x))
