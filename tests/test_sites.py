"""Sites of noise in transformers and their kin: which modules they are, and where a value has its channels."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import NETWORKS, SWIN, VIT, small
from torch import nn
from torch.nn import functional as F
from torchvision import models as torchvision_models

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.opening import opened
from stochx.engine.network.sites import SITES, sites


def classifier(network, side=32):
    return Classifier(network.eval(), list("abcde"), Preparation(side, side), arch="net").eval()


def named(model, site, layers="*"):
    return [one.name for one in sites(model, site, layers)]


def within(prefix, *names):
    return [f"{prefix}.{name}" for name in names]


def each(prefixes, *names):
    return [name for prefix in prefixes for name in within(prefix, *names)]


# network: stem, its norm (where the layer norm of a block is not the first), layers of the blocks, norms, heads
TOKENS = [f"encoder.layers.encoder_layer_{k}" for k in range(2)]
TORCH = [f"encoder.layers.{k}" for k in range(2)]
TV_SWIN, TIMM_SWIN = (
    ["features.1.0", "features.3.0", "features.3.1"],
    ["layers.0.blocks.0", *within("layers.1.blocks", "0", "1")],
)
TV_NEXT, TIMM_NEXT = ["features.1.0", "features.3.0"], ["stages.0.blocks.0", "stages.1.blocks.0"]
TIMM = ["blocks.0", "blocks.1"]
ATTENTION, MLP = ("attn.qkv", "attn.proj"), ("mlp.fc1", "mlp.fc2")
LAYERS = {
    "torchvision ViT": [
        "conv_proj",
        *each(TOKENS, "self_attention.in_proj", "self_attention.out_proj", "mlp.0", "mlp.3"),
    ],
    "torchvision Swin": [
        "features.0.0",
        *each(TV_SWIN[:1], *ATTENTION, "mlp.0", "mlp.3"),
        "features.2.reduction",
        *each(TV_SWIN[1:], *ATTENTION, "mlp.0", "mlp.3"),
    ],
    "torchvision ConvNeXt": [
        "features.0.0",
        *each(TV_NEXT[:1], "block.0", "block.3", "block.5"),
        "features.2.1",
        *each(TV_NEXT[1:], "block.0", "block.3", "block.5"),
    ],
    "torch's encoder": ["patches", *each(TORCH, "self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")],
    "timm ViT": ["patch_embed.proj", *each(TIMM, *ATTENTION, *MLP)],
    "timm DeiT, distilled": ["patch_embed.proj", *each(TIMM, *ATTENTION, *MLP)],
    "timm Swin": [
        "patch_embed.proj",
        *each(TIMM_SWIN[:1], *ATTENTION, *MLP),
        "layers.1.downsample.reduction",
        *each(TIMM_SWIN[1:], *ATTENTION, *MLP),
    ],
    "timm ConvNeXt": [
        "stem.0",
        *each(TIMM_NEXT[:1], "conv_dw", *MLP),
        "stages.1.downsample.1",
        *each(TIMM_NEXT[1:], "conv_dw", *MLP),
        *each(["stages.2", "stages.3"], "downsample.1"),
    ],
    "timm MLP-Mixer": [
        "stem.proj",
        *within("blocks.0", *(f"{mlp}.{fc}" for mlp in ("mlp_tokens", "mlp_channels") for fc in ("fc1", "fc2"))),
    ],
}
LAYERS["torchvision Swin v2"] = LAYERS["torchvision Swin"]
HEADS = {
    "torchvision ViT": ["heads.head"],
    "torchvision ConvNeXt": ["classifier.2"],
    "timm DeiT, distilled": ["head", "head_dist"],
    "timm Swin": ["head.fc"],
    "timm ConvNeXt": ["head.fc"],
}
BLOCKS = {
    "torchvision ViT": TOKENS,
    "torchvision Swin": TV_SWIN,
    "torchvision Swin v2": TV_SWIN,
    "torchvision ConvNeXt": TV_NEXT,
    "torch's encoder": TORCH,
    "timm Swin": TIMM_SWIN,
    "timm ConvNeXt": TIMM_NEXT,
    "timm MLP-Mixer": ["blocks.0"],
}
PAIR = ("norm1", "norm2")
NORMS = {
    "torchvision ViT": [*each(TOKENS, "ln_1", "ln_2"), "encoder.ln"],
    "torchvision Swin": [
        "features.0.2",
        *each(TV_SWIN[:1], *PAIR),
        "features.2.norm",
        *each(TV_SWIN[1:], *PAIR),
        "norm",
    ],
    "torchvision ConvNeXt": [
        "features.0.1",
        "features.1.0.block.2",
        "features.2.0",
        "features.3.0.block.2",
        "classifier.0",
    ],
    "torch's encoder": each(TORCH, *PAIR),
    "timm Swin": [
        "patch_embed.norm",
        *each(TIMM_SWIN[:1], *PAIR),
        "layers.1.downsample.norm",
        *each(TIMM_SWIN[1:], *PAIR),
        "norm",
    ],
    "timm ConvNeXt": [
        "stem.1",
        "stages.0.blocks.0.norm",
        "stages.1.downsample.0",
        "stages.1.blocks.0.norm",
        *each(["stages.2", "stages.3"], "downsample.0"),
        "head.norm",
    ],
    "timm MLP-Mixer": [*within("blocks.0", *PAIR), "norm"],
}
NORMS["torchvision Swin v2"] = NORMS["torchvision Swin"]


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_those_of_attention_too_and_heads_are_no_places_for_noise(name):
    model, heads = small(name), HEADS.get(name, ["head"])
    assert named(model, "before-bn") == LAYERS[name]
    assert named(model, "penultimate") == heads
    assert named(model, "layer-input") == [*LAYERS[name], *heads]
    weights = [one for one in named(model, "weight") if "cpb_mlp" not in one]  # of positions
    assert weights == [*LAYERS[name], *heads]
    assert named(model, "input") == named(model, "first-weight") == LAYERS[name][:1]


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_and_blocks_are_those_of_transformers(name):
    model, blocks, norms = small(name), BLOCKS.get(name, TIMM), NORMS.get(name, [*each(TIMM, *PAIR), "norm"])
    assert named(model, "block") == blocks
    assert named(model, "after-bn") == norms
    in_blocks = norms[0].startswith(blocks[0])
    assert named(model, "stem-and-blocks") == [LAYERS[name][0] if in_blocks else norms[0], *blocks]
    last = [max((n for n in norms if n.startswith(f"{block}.")), key=norms.index) for block in blocks]
    assert named(model, "block-end") == last
    assert named(model, "norms") == []  # batch norms


@pytest.mark.parametrize("name", NETWORKS)
def test_the_channels_of_a_layer_are_where_its_bias_is(name):
    """The first row of a weight changes one channel, and nothing else."""
    model, x = small(name).double(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    for site in (*sites(model, "before-bn"), *sites(model, "after-bn")):
        twin = copy.deepcopy(model)
        twin.network = opened(twin.network)
        module, values = twin.network.get_submodule(site.name), []
        module.register_forward_hook(lambda _, inputs, out, values=values: values.append(out.detach().clone()))
        twin(x)
        module.weight.data[0] += 1
        twin(x)
        changed = (values[1] != values[0]).movedim(site.axis + 1, 0)
        assert changed[0].any() and not changed[1:].any(), site
        assert site.shape == tuple(values[0].shape[1:])


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("torchvision ViT", (17, 16), 1),
        ("torchvision Swin", (16, 16, 16), 2),
        ("torchvision ConvNeXt", (8, 8, 8), 0),
        ("timm DeiT, distilled", (18, 16), 1),
        ("timm Swin", (16, 16, 16), 2),
        ("timm ConvNeXt", (8, 8, 8), 0),
        ("timm MLP-Mixer", (16, 16), 1),
    ],
)
def test_a_block_has_its_channels_where_its_first_layer_reads_them(name, shape, axis):
    site = sites(small(name), "block")[0]
    assert (site.shape, site.axis) == (shape, axis)


def test_a_pattern_addresses_projections_and_mlps():
    assert named(small("torchvision ViT"), "before-bn", "*.self_attention.*") == each(
        TOKENS, "self_attention.in_proj", "self_attention.out_proj"
    )
    assert named(small("timm ViT"), "before-bn", "blocks.1.attn.*+blocks.0.mlp.fc2") == [
        "blocks.0.mlp.fc2",
        *within("blocks.1", *ATTENTION),
    ]


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("beit_base_patch16_224", {**VIT, "init_values": 0.1}),
        ("eva02_tiny_patch14_224", VIT),
        ("swinv2_tiny_window8_256", SWIN),
    ],
)
def test_attention_with_biases_of_its_own_has_its_projection_as_a_place(arch, settings):
    with torch.random.fork_rng():
        network = pytest.importorskip("timm").create_model(arch, num_classes=5, **settings)
    model, x = classifier(network).double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    prefixes = [name for name, module in network.named_modules() if hasattr(module, "qkv_bias_separate")]
    found = named(model, "before-bn", "*.qkv+*.q_proj")
    assert len(prefixes) == len(found) and found == each(prefixes, found[0].rpartition(".")[2])
    torch.testing.assert_close(opened(network)(x), network(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"])
def test_a_block_is_not_its_squeeze_and_excitation(arch):
    with torch.random.fork_rng():
        model = classifier(torchvision_models.get_model(arch, weights=None, num_classes=5))
    blocks = {type(model.network.get_submodule(name)).__name__ for name in named(model, "block")}
    assert blocks in ({"InvertedResidual"}, {"MBConv"}, {"ResBottleneckBlock"})


class Rotated(nn.Module):
    """Attention-like: the sum of two parts of its own values, neither of which is its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        q = self.a(x)
        return self.b(q * 2 + q.flip(-1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mixer, self.table = Rotated(), nn.Linear(2, 4)
        self.register_buffer("places", torch.rand(16, 2))

    def forward(self, x):
        x = x + self.table(self.places)
        return self.mixer(x).add(x)


class Mine(nn.Module):
    """Tokens, a block whose first sum is with a table of positions, and logits through a sum of two heads."""

    def __init__(self):
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 4, 8, 8), Block()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x):
        x = self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(1)
        return self.one(x) + F.relu(self.two(x))


def test_a_sum_with_the_input_makes_a_block_and_a_table_of_positions_has_no_place():
    model = classifier(Mine())
    assert named(model, "block") == ["block"]
    assert named(model, "before-bn") == ["patches", "block.mixer.a", "block.mixer.b"]
    assert named(model, "penultimate") == ["one", "two"]
    assert "block.table" in named(model, "weight")


def test_sites_are_found_where_a_part_runs_without_gradients():
    model = classifier(Mine())
    forward = model.network.block.forward
    model.network.block.forward = torch.no_grad()(forward)
    with torch.no_grad():
        assert {"patches", "block.mixer.a", "block.mixer.b"} < set(named(model, "before-bn"))


@pytest.mark.parametrize("name", ["torchvision ViT", "timm Swin"])
def test_looking_for_sites_leaves_a_transformer_as_it_was(name):
    model = small(name).train().requires_grad_(True)
    model.network.requires_grad_(True)
    first = next(iter(model.network.parameters())).requires_grad_(False)
    kinds, generator = [type(module) for module in model.modules()], torch.get_rng_state()
    for site in SITES:
        sites(model, site)
    assert [type(module) for module in model.modules()] == kinds and torch.equal(torch.get_rng_state(), generator)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert [p.requires_grad for p in model.network.parameters()].count(False) == 1 and not first.requires_grad
