"""Small transformers and their kin of torchvision and timm, for images of 32 x 32, with five classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier


def _torchvision_vit():
    return VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=5)


def _torchvision_swin():
    return SwinTransformer([2, 2], 16, [1, 2], [2, 2], [4, 4], num_classes=5)


def _torchvision_swin_v2():
    return SwinTransformer(
        [2, 2], 16, [1, 2], [2, 2], [4, 4], num_classes=5, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    )


def _torchvision_convnext():
    return ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=5)


def _timm(name, **settings):
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=5, **settings)


def _timm_convnext():
    convnext = pytest.importorskip("timm").models.convnext.ConvNeXt
    return convnext(depths=(1, 1, 0, 0), dims=(8, 12, 12, 12), num_classes=5)


def _timm_mixer():
    mixer = pytest.importorskip("timm").models.mlp_mixer.MlpMixer
    return mixer(img_size=32, patch_size=8, num_blocks=1, embed_dim=16, num_classes=5)


class Encoder(nn.Module):
    """A transformer as tutorials make it: torch's own encoder on patches, with a mean over tokens."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2)}
NETWORKS = {
    "torchvision ViT": _torchvision_vit,
    "torchvision Swin": _torchvision_swin,
    "torchvision Swin v2": _torchvision_swin_v2,
    "torchvision ConvNeXt": _torchvision_convnext,
    "torch's encoder": Encoder,
    "timm ViT": _timm("vit_tiny_patch16_224", **VIT),
    "timm DeiT, distilled": _timm("deit_tiny_distilled_patch16_224", **VIT),
    "timm Swin": _timm("swin_tiny_patch4_window7_224", **SWIN),
    "timm ConvNeXt": _timm_convnext,
    "timm MLP-Mixer": _timm_mixer,
}


def small(name):
    """One of the networks, with random weights, also where they start at zero, in use."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[name]().eval()
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return Classifier(network, list("abcde"), Preparation(32, 32), arch=name).eval()
