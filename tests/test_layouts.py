"""Grad-CAM on tokens and channels-last maps; LRP through parallel branches, and through norms behind any layer."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer

from stochx.attributions.fullgrad import FullGrad
from stochx.attributions.gradcam import GradCAM
from stochx.attributions.gradient import Gradient
from stochx.attributions.lrp import LRP
from stochx.engine.lrp.branches import merged
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.fused import fused
from stochx.engine.network.stochastic import Noisy
from stochx.errors import InputError


def vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
        nn.init.normal_(net.heads.head.weight)  # torchvision's is zero
    return net


def swin():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=4).eval()


def channels_last(value):
    return value.permute(0, 3, 1, 2)


def tokens(value):
    return value[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def formula(net, layer, x, target, maps):
    """Grad-CAM by hooks."""
    kept = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, inputs, out: kept.append(out))
    score = net(x).gather(1, target[:, None]).sum()
    handle.remove()
    (slope,) = torch.autograd.grad(score, kept[0])
    cam = (maps(slope).mean((2, 3), keepdim=True) * maps(kept[0].detach())).sum(1, keepdim=True).relu()
    return F.interpolate(cam, x.shape[2:], mode="bilinear")


X, TARGET = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2])


@pytest.mark.parametrize("layer", ["features.1", "features.2", "features.3"])
def test_gradcam_reads_channels_last_maps(layer):
    cam = GradCAM(layer=layer)(swin(), X, TARGET).map
    torch.testing.assert_close(cam, formula(swin(), layer, X, TARGET, channels_last))


@pytest.mark.parametrize("layer", ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1"])
def test_gradcam_reads_tokens_without_the_class_token(layer):
    cam = GradCAM(layer=layer)(vit(), X, TARGET).map
    torch.testing.assert_close(cam, formula(vit(), layer, X, TARGET, tokens))


def test_the_default_layer_is_a_late_one_and_named(caplog):
    cam = GradCAM()(vit(), X, TARGET).map
    late = "encoder.layers.encoder_layer_1.ln_1"  # the last patches that the class token sees
    torch.testing.assert_close(cam, formula(vit(), late, X, TARGET, tokens))
    assert late in caplog.text
    torch.testing.assert_close(
        GradCAM()(swin(), X, TARGET).map, formula(swin(), "features.3", X, TARGET, channels_last)
    )


class SequenceFirst(nn.Module):
    """torch's encoder as it comes, on tokens (T, N, C), behind a layer with the name of a method."""

    def __init__(self):
        super().__init__()
        self.t, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 4)
        layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)
        for parameter in self.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)

    def forward(self, x):
        return self.head(self.encoder(self.t(x).flatten(2).permute(2, 0, 1)).mean(0))


@pytest.fixture
def sequence_first():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SequenceFirst().double().eval()


def test_fullgrad_is_complete_for_each_image_of_sequences_that_come_first(sequence_first):
    explanation = FullGrad()(sequence_first, X.double(), TARGET)
    torch.testing.assert_close(explanation.gap, torch.zeros(2, dtype=torch.float64))
    logits = sequence_first(X.double())[[0, 1], TARGET]
    torch.testing.assert_close(explanation.map.sum((1, 2, 3)), logits - sequence_first.head.bias[TARGET])


def test_gradcam_reads_sequences_that_come_first(sequence_first):
    x = X.double()
    expected = formula(sequence_first, "encoder", x, TARGET, lambda value: value.permute(1, 2, 0).unflatten(2, (4, 4)))
    torch.testing.assert_close(GradCAM(layer="encoder")(sequence_first, x, TARGET).map, expected)
    torch.testing.assert_close(GradCAM(layer="encoder")(sequence_first, x[:1], TARGET[:1]).map, expected[:1])
    late = GradCAM()(sequence_first, x, TARGET).map
    torch.testing.assert_close(late, GradCAM(layer="encoder.layers.1")(sequence_first, x, TARGET).map)


class InWindows(nn.Module):
    """A layer of every position, which works in shifted and padded windows or on whole maps."""

    def __init__(self, windows):
        super().__init__()
        self.windows, self.patches, self.mlp, self.head = (
            windows,
            nn.Conv2d(3, 6, 8, 8),
            nn.Linear(6, 6),
            nn.Linear(6, 4),
        )

    def forward(self, x):
        y = self.patches(x).permute(0, 2, 3, 1)
        if self.windows:
            y = F.pad(y, (0, 0, 0, 2, 0, 2)).roll((-1, -1), (1, 2))
            y = y.reshape(len(x), 2, 3, 2, 3, 6).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)
        y = F.gelu(self.mlp(y))
        if self.windows:
            y = y.reshape(len(x), 2, 2, 3, 3, 6).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
            y = y.roll((1, 1), (1, 2))[:, :4, :4]
        return self.head((y.permute(0, 3, 1, 2) * torch.linspace(-1, 1, 16).double().view(4, 4)).mean((2, 3)))


def test_fullgrad_lays_biases_in_windows_where_they_are_on_whole_maps():
    cut, whole = InWindows(True).double().eval(), InWindows(False).double().eval()
    whole.load_state_dict(cut.state_dict())
    expected = FullGrad()(whole, X.double(), TARGET).map
    assert (FullGrad()(whole, 0 * X.double(), TARGET).map.abs().sum((1, 2, 3)) > 1e-3).all()
    torch.testing.assert_close(FullGrad()(cut, X.double(), TARGET).map, expected)


def test_fullgrad_lays_all_of_a_swin_on_the_map_but_its_last_bias():
    net, x = swin().double(), X.double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double()
    logits = net(x)[[0, 1], TARGET]
    torch.testing.assert_close(FullGrad()(net, x, TARGET).map.sum((1, 2, 3)), logits - net.head.bias[TARGET])


class Cut(nn.Module):
    """Patches that are cut out of the image without a convolution, and a token before them."""

    def __init__(self):
        super().__init__()
        self.embed, self.mlp, self.head = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        patches = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        tokens = self.embed(patches)
        return self.head(self.mlp(torch.cat([0 * tokens[:, :1], tokens], 1)).sin().mean(1))


def test_gradcam_reads_patches_that_no_convolution_made():
    x, net = X[..., :16, :24], Cut().eval()
    expected = formula(net, "mlp", x, TARGET, lambda value: value[:, 1:].transpose(1, 2).unflatten(2, (2, 3)))
    torch.testing.assert_close(GradCAM(layer="mlp")(net, x, TARGET).map, expected)


def test_a_network_that_is_no_longer_used_is_freed():
    net = vit()
    GradCAM()(net, X, TARGET)
    graph = weakref.ref(fused(net, X).graph)
    del net
    gc.collect()
    assert graph() is None


def test_a_layer_without_positions_is_refused():
    with pytest.raises(InputError, match="returns no maps and no tokens"):
        GradCAM(layer="heads")(vit(), X, TARGET)


class Branches(nn.Module):
    """Two blocks of a convolution, a narrow one and a batch norm alone, with statistics that cancel."""

    def __init__(self, groups):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        for k in range(3):
            self.add_module(f"wide{k}", nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=groups), nn.BatchNorm2d(8)))
            self.add_module(f"narrow{k}", nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)))
            self.add_module(f"alone{k}", nn.BatchNorm2d(8))
        self.idle, self.head = nn.Dropout(), nn.Linear(8, 4)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.uniform_(-1, 1)
                norm.weight.data.uniform_(-3, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        for k in range(3):
            out = 0
            for name in ("wide", "narrow", "alone"):
                out += self.idle(self.get_submodule(f"{name}{k}")(x))
            x = F.relu(out)
        return self.head(x.mean((2, 3)))


def branches(groups):
    with torch.random.fork_rng():
        return Branches(groups).eval()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_parallel_branches_become_one_convolution(groups):
    net = branches(groups)
    graph = fused(net, X).graph
    one = merged(graph)
    torch.testing.assert_close(one(X), net(X), rtol=1e-4, atol=1e-4)
    convolutions = [n for n in one.graph.nodes if n.op == "call_module" and "norm" not in str(n.target)]
    assert len(convolutions) == 5 and torch.equal(graph(X), fused(net, X).graph(X))


def test_lrp_conserves_through_parallel_branches():
    net = branches(1)
    logits = net(X)[[0, 1], TARGET]
    explanation = LRP(composite="epsilon")(net, X, TARGET)
    reference = explanation.map.abs().sum((1, 2, 3))
    assert explanation.map.isfinite().all() and (reference < 100 * logits.abs()).all()


def normed_tokens(net, x):
    """The norm of LeViT, over the tokens of all images."""
    y = net.layer(x.flatten(2).mT)
    return net.norm(y.flatten(0, 1)).reshape_as(y).mean(1)


def normed_by_function(net, x):
    norm = net.norm
    return F.batch_norm(net.layer(x.mean((2, 3))), norm.running_mean, norm.running_var)


NORMED = {
    "vectors": (nn.Linear, nn.BatchNorm1d, lambda net, x: net.norm(net.layer(x.mean((2, 3))))),
    "vectors, dropout": (nn.Linear, nn.BatchNorm1d, lambda net, x: net.norm(net.idle(net.layer(x.mean((2, 3)))))),
    "vectors, function": (nn.Linear, nn.BatchNorm1d, normed_by_function),
    "tokens": (nn.Linear, nn.BatchNorm1d, normed_tokens),
    "signals": (nn.Conv1d, nn.BatchNorm1d, lambda net, x: net.norm(net.layer(x.flatten(2))).mean(2)),
    "maps": (nn.Conv2d, nn.SyncBatchNorm, lambda net, x: net.norm(net.layer(x)).mean((2, 3))),
    "volumes": (nn.Conv3d, nn.BatchNorm3d, lambda net, x: net.norm(net.layer(x.unsqueeze(2))).mean((2, 3, 4))),
}


class Normed(nn.Module):
    """A norm behind a layer, an activation and a head."""

    def __init__(self, layer, norm, wiring):
        super().__init__()
        self.layer = layer(3, 5) if layer is nn.Linear else layer(3, 5, 1)
        self.norm, self.idle, self.head, self.wiring = norm(5), nn.Dropout(), nn.Linear(5, 4), wiring
        for tensor in (self.norm.running_mean, self.norm.weight.data, self.norm.bias.data):
            nn.init.normal_(tensor)

    def forward(self, x):
        return self.head(self.wiring(self, x).relu())


@pytest.mark.parametrize("case", NORMED)
def test_a_norm_belongs_to_the_layer_before_it(case):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Normed(*NORMED[case]).double().eval()
    x = X[..., :8, :8].double()
    assert not [m for n in fused(net, x).graph.graph.nodes if "norm" in str(m := n.target)]
    expected = Gradient()(net, x, TARGET).map * x  # what the epsilon rule is in a network of layers and ReLU
    torch.testing.assert_close(LRP("epsilon", epsilon=1e-12)(net, x, TARGET).map, expected)


def test_a_norm_of_positions_is_none_of_the_channels_before_it():
    wiring = lambda net, x: net.norm(net.layer(x[..., :5].mean(2).mT)).mean(1)  # noqa: E731  # five tokens
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Normed(nn.Linear, nn.BatchNorm1d, wiring).double().eval()
    x = X[..., :8, :8].double()
    torch.testing.assert_close(fused(net, x).operations("")(x), net(x))


@pytest.mark.parametrize("name", [pytest.param("mobileone_s0", marks=pytest.mark.slow), "repvgg_a0"])
def test_lrp_of_a_network_of_timm_is_finite_and_conserves(name):
    timm = pytest.importorskip("timm", reason="needs timm: pip install -e '.[timm]'")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=4).eval()
    x = X[:1].repeat(1, 1, 2, 2)
    explanation, logit = LRP()(net, x, TARGET[:1]), net(x)[0, 1]
    assert explanation.map.isfinite().all() and explanation.gap.abs() <= 1.01 * logit.abs()
    assert not [n for n in merged(fused(net, x).graph).graph.nodes if "norm" in str(n.target)]


def test_attention_masks_of_five_axes_are_traced():
    timm = pytest.importorskip("timm", reason="needs timm: pip install -e '.[timm]'")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, depths=(2, 2), num_heads=(1, 2)).eval()
    assert fused(net, torch.rand(1, 3, 224, 224)).graph is not None


def test_a_network_may_read_the_weight_of_a_noisy_layer():
    layer = nn.Linear(3, 4)
    noisy = Noisy(layer, nn.Identity(), "output")
    assert noisy.weight is layer.weight and noisy.in_features == 3
    with pytest.raises(AttributeError):
        _ = noisy.nothing


def test_a_classifier_of_tokens_is_explained():
    from stochx.engine.io.images import Preparation

    model = Classifier(vit(), "abcd", Preparation(32, 32), (0.5,) * 3, (0.5,) * 3)
    assert GradCAM()(model, X, TARGET).map.max() > 0
