"""The layer that Grad-CAM takes, by family, and its maps against those of pytorch-grad-cam at the same layer."""

from __future__ import annotations

import pytest
import torch
from conftest import random_images
from families import QUICK, SLOW, network
from torch.nn import functional as F

from stochx.attributions import GradCAM
from stochx.engine.network.balanced import balanced
from stochx.engine.network.folding import folded
from stochx.engine.network.fused import fused
from stochx.engine.network.graph import trace
from stochx.engine.network.late_layer import late_layer
from stochx.engine.network.positions import Recorder, name_of, to_maps
from stochx.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
TARGET = torch.tensor([1, 0])
# The layer by rule, and the grid of its positions.
LAYERS = {
    "torchvision ViT": ("encoder.layers.encoder_layer_1.ln_1", 4),
    "torchvision Swin": ("features.3.0", 8),
    "torchvision Swin v2": ("features.3.0", 8),
    "torchvision ConvNeXt": ("features.3.0", 8),
    "torchvision MaxViT": ("blocks.1.layers.0.layers.grid_attention.departition_op", 8),
    "ResNet": ("layer4.1.relu", 2),
    "ViT": ("blocks.1.norm1", 4),
    "ViT, mean of tokens": ("blocks.1", 4),
    "DeiT, distilled": ("blocks.1.norm1", 4),
    "DINOv2, registers": ("blocks.1.norm1", 4),
    "SigLIP": ("blocks.1", 4),
    "CaiT": ("blocks.1", 4),
    "Swin": ("layers.1.blocks.0", 8),
    "Swin v2": ("layers.1.blocks.0", 8),
    "ConvNeXt": ("norm_pre", 2),
    "MLP-Mixer": ("blocks.1", 4),
    "ResMLP": ("blocks.1", 4),
    "XCiT": ("cls_attn_blocks.1.norm1", 4),
    "PVT v2": ("stages.3.blocks.0", 2),
    "MobileNet v3": ("features.12.2", 2),
    "BiT": ("stages.3.blocks.2", 2),
    "NFNet": ("final_act", 2),
    "PoolFormer v2": ("stages.3.blocks.1", 2),
    "EfficientFormer": ("stages.3.blocks.4", 7),
    "CoAtNet": ("stages.3.blocks.1", 2),
    "MaxViT": ("stages.3.blocks.0.attn_grid", 2),
    "LeViT": ("stages.1.blocks.2", 2),
    "TNT": ("blocks.1.norm_out", 2),
    "VOLO": ("network.4.1", 4),
    "FastViT": ("final_conv.act", 2),
}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in LAYERS]
)
def test_the_layer_is_the_last_whose_positions_matter(family):
    model, size = network(family)
    graph, x = folded(trace(model)), random_images(1, 3, size, size)
    node, _ = late_layer(graph, x, TARGET[:1])
    recorder = Recorder(graph, node)
    with torch.enable_grad():
        logit = recorder.run(x)[0, 1]
    (slope,) = torch.autograd.grad(logit, recorder.values[node])
    maps = to_maps(graph, node, slope, recorder.values)
    name, side = LAYERS[family]
    assert (name_of(node), *maps.shape[2:]) == (name, side, side)
    assert maps.abs().max() > 0


AGREE = ["ViT", "torchvision ViT", "Swin v2", "ConvNeXt", "PiT", "MobileNet v3", "XCiT", "CaiT"]


@pytest.mark.parametrize("family", AGREE)
def test_balanced_gradients_explain_the_same_layer(family):
    model, size = network(family)
    graph, x = folded(trace(model)), random_images(1, 3, size, size)
    (plain, _), (other, _) = (late_layer(g, x, TARGET[:1]) for g in (graph, balanced(graph)))
    assert (name_of(plain), plain.name) == (name_of(other), other.name)


def tokens(value):
    return value[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def channels_last(value):
    return value.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("family", "layer", "maps"),
    [
        ("torchvision ViT", "encoder.layers.encoder_layer_1.ln_1", tokens),
        ("ViT", "blocks.1.norm1", tokens),
        ("torchvision Swin", "features.3.0", channels_last),
        ("torchvision ConvNeXt", "features.3.0", None),
        ("ResNet", "layer4", None),
    ],
)
def test_maps_agree_with_pytorch_grad_cam(family, layer, maps):
    peers = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, size = network(family)
    x = random_images(2, 3, size, size)
    kept = []

    class Peer(peers.GradCAM):
        """The peer before it is stretched to [0, 1] and resized by another library."""

        def get_cam_image(self, *args, **kwargs):
            kept.append(super().get_cam_image(*args, **kwargs))
            return kept[-1]

    module = model.get_submodule(layer)
    with Peer(model, [module], reshape_transform=maps) as peer:
        peer(x, [targets.ClassifierOutputTarget(int(k)) for k in TARGET])
    expected = F.interpolate(torch.as_tensor(kept[0])[:, None].relu(), (size, size), mode="bilinear")
    for method in (GradCAM(layer=layer), GradCAM()):  # and by rule
        torch.testing.assert_close(method(model, x, TARGET).map, expected.to(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", ["ViT", "ViT, mean of tokens", "DINOv2, registers"])
def test_without_positions_permuted_patches_permute_the_map(family):
    model, size = network(family)
    model.pos_embed.data.zero_()
    x = random_images(1, 3, size, size)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))

    def permuted(image, side):
        cells = F.unfold(image, side, stride=side)[..., order]
        return F.fold(cells, image.shape[2:], side, stride=side)

    node, _ = late_layer(folded(trace(model)), x, TARGET[:1])
    method = GradCAM(layer=name_of(node), relu=False)

    def grid(image):  # the map before it is resized, at the centres of its cells
        full = method(model, image, TARGET[:1]).map
        return full.unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))

    weights = torch.stack([grid_of(cell) for cell in torch.eye(16, dtype=x.dtype)])  # resizing is linear in the cells
    cells, moved = (torch.linalg.solve(weights.T, grid(image).flatten()) for image in (x, permuted(x, 8)))
    torch.testing.assert_close(moved, cells[order])
    assert cells.std() > 1e-3 * cells.abs().mean()


def grid_of(cell):
    full = F.interpolate(cell.view(1, 1, 4, 4), (32, 32), mode="bilinear")
    return full.unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5)).flatten()


def test_a_network_without_positions_is_refused():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).double().eval()
    with pytest.raises(InputError, match="positions"):
        GradCAM()(model, random_images(1, 3, 2, 2), TARGET[:1])


class Scaled(torch.nn.Module):
    """A convolution whose scores are divided by a number that all images make."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean((2, 3))) / x.square().mean()


def test_a_number_that_all_images_make_is_no_layer():
    model, x = Scaled().double().eval(), random_images(1, 3, 8, 8)
    node, convolution = late_layer(trace(model, x), x, TARGET[:1])
    assert name_of(node) == "act" and convolution


def test_a_flattened_convolution_has_its_channels_second():
    layers = torch.nn.Conv2d(3, 5, 4, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(80, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(*layers).double().eval()
    x = random_images(2, 3, 16, 16)
    fast = fused(model, x)
    node, _ = late_layer(fast.graph, x, TARGET)
    recorder = Recorder(fast.graph, node)
    recorder.run(x)
    assert torch.equal(to_maps(fast.graph, node, recorder.values[node], recorder.values), recorder.values[node])


def test_every_listed_family_exists():
    assert LAYERS.keys() <= QUICK.keys() | SLOW.keys()
