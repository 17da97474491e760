"""Backbones: the maps and vectors of any network, against timm's own access to its features."""

from __future__ import annotations

import pytest
import torch
from conftest import random_images
from torch import nn

from stochx.engine.io.images import Preparation
from stochx.engine.network.backbone import Backbone, maps_graph
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.weights import save
from stochx.fewshot_networks import load_fewshot, make_fewshot, save_fewshot

timm = pytest.importorskip("timm")

SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 2}
WINDOWS = {"img_size": 64, "embed_dim": 24, "depths": [1, 1, 1, 1], "window_size": 2}
CROSSING = {"embed_dim": [16, 24], "depth": [[1, 1, 1]], "num_heads": [2, 2], "mlp_ratio": [1, 1, 1]}
FAMILIES = {
    "test_vit": {"img_size": 64},  # a class token
    "vit_small_patch14_reg4_dinov2": SMALL | {"img_size": 56},  # and registers
    "vit_base_patch16_siglip_224": SMALL,  # pooled by attention
    "vit_base_patch16_clip_224": SMALL,
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2},  # the mean of tokens, and a norm behind it
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 2},  # two heads
    "crossvit_9_240": CROSSING,  # two heads, which are passed by where they do nothing
    "swin_tiny_patch4_window7_224": WINDOWS,  # channels last
    "test_convnext": {},
    "test_resnet": {},
}
X = random_images(2, 3, 64, 64).float()


def classifier(name, classes=7, **more):
    """A network of timm with weights that are all random, also where timm begins with zeros."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=classes, **FAMILIES[name], **more).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    side = FAMILIES[name].get("img_size", 64)
    names = [str(i) for i in range(max(classes, 2))]
    return Classifier(network, names, Preparation(side, side), (0.5,) * 3, (0.25,) * 3, arch=f"timm:{name}")


def images(model):
    return X[..., : model.input_shape[1], : model.input_shape[2]]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_those_that_timm_gives_without_tokens_that_have_no_position(name):
    model = classifier(name)
    x = images(model)
    (expected,) = model.network.forward_intermediates(model.normalise(x), indices=1, norm=True, intermediates_only=True)
    base = Backbone(model)
    assert base.shape == expected.shape[1:] and base.features == "maps"
    torch.testing.assert_close(base(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_pooled_as_the_network_pools_them(name):
    model = classifier(name)
    x, network = images(model), model.network
    expected = network.forward_head(network.forward_features(model.normalise(x)), pre_logits=True).flatten(1)
    base = Backbone(model, "either")
    averaging = {
        "swin_tiny_patch4_window7_224",
        "test_mambaout",
        "test_resnet",
    }  # their vectors are the means of their maps
    assert base.features == ("maps" if name in averaging else "vectors")
    torch.testing.assert_close(base(x).mean((2, 3)), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_network_without_a_last_layer_is_taken_whole(name):
    model = classifier(name, classes=0)
    expected = model(images(model))
    base = Backbone(model, "vectors")
    assert base.heads == []
    torch.testing.assert_close(base(images(model)).flatten(1), expected)


@torch.no_grad()
def test_a_convolution_is_a_last_layer_only_if_it_makes_the_logits():
    layers = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 5, 1))
    logits = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    features = nn.Sequential(*layers, nn.BatchNorm2d(5), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    views = [Classifier(network.eval(), tuple("abcde"), Preparation(16, 16)) for network in (logits, features)]
    assert [Backbone(view).shape[0] for view in views] == [8, 5]


@torch.no_grad()
@pytest.mark.parametrize("features", ["maps", "vectors"])
@pytest.mark.parametrize(
    "name", ["vit_base_patch16_clip_224", "deit_tiny_distilled_patch16_224", "crossvit_9_240", "test_resnet"]
)
def test_the_graph_of_a_backbone_gives_its_features(name, features):
    base = Backbone(classifier(name), features)
    torch.testing.assert_close(maps_graph(base)(base.model.normalise(X)), base(X), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("head", "shape"), [("prototypical", (192, 1, 1)), ("prototypical:embedding=mean", (192, 14, 14))]
)
def test_a_file_keeps_which_features_are_compared(tmp_path, head, shape):
    torch.manual_seed(0)
    name = "deit_tiny_distilled_patch16_224"
    network = timm.create_model(name, num_classes=3)
    model = Classifier(network, "abc", Preparation(224, 224), (0.5,) * 3, (0.25,) * 3, arch=f"timm:{name}")
    save(tmp_path / "vit.safetensors", model)
    made = make_fewshot(str(tmp_path / "vit.safetensors"), head, 5, None, 0, {})
    save_fewshot(tmp_path / "few.safetensors", made)
    again = load_fewshot(str(tmp_path / "few.safetensors"))
    assert made.backbone.shape == again.backbone.shape == shape
    x = random_images(1, 3, 224, 224).float()
    torch.testing.assert_close(again(x), made(x))
