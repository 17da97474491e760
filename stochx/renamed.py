"""Networks of transformers that are networks of timm and torchvision under other names: text and tensors of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Json = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
Renamed = tuple[str, dict[str, Tensor]]
Counts = tuple[int, ...]
Rules = tuple[tuple[str, str], ...]

QKV = ("query", "key", "value")
VIT: Rules = (
    (r"^(?:vit|deit)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^distillation_classifier\.", "head_dist."),
    (r"^(?:cls_)?classifier\.", "head."),
)
WIDTHS = {(192, 12, 3): "tiny", (384, 12, 6): "small", (768, 12, 12): "base", (1024, 24, 16): "large"}

RESNET: Rules = (
    (r"^resnet\.embedder\.embedder\.convolution\.", "conv1."),
    (r"^resnet\.embedder\.embedder\.normalization\.", "bn1."),
    (r"^resnet\.encoder\.stages\.(\d+)\.layers\.", r"layer[\1]."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d+)\.convolution\.", r".conv[\1]."),
    (r"\.layer\.(\d+)\.normalization\.", r".bn[\1]."),
    (r"^classifier\.1\.", "fc."),
)
RESNETS: dict[tuple[object, Counts, Counts], str] = {
    ("basic", (2, 2, 2, 2), (64, 128, 256, 512)): "resnet18",
    ("basic", (3, 4, 6, 3), (64, 128, 256, 512)): "resnet34",
    ("bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048)): "resnet50",
    ("bottleneck", (3, 4, 23, 3), (256, 512, 1024, 2048)): "resnet101",
    ("bottleneck", (3, 8, 36, 3), (256, 512, 1024, 2048)): "resnet152",
}

CONVNEXT: Rules = (
    (r"^convnext\.embeddings\.patch_embeddings\.", "stem.0."),
    (r"^convnext\.embeddings\.layernorm\.", "stem.1."),
    (r"^convnext\.encoder\.", ""),
    (r"\.downsampling_layer\.", ".downsample."),
    (r"^(stages\.\d+)\.layers\.", r"\1.blocks."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv", ".mlp.fc"),
    (r"\.(\d+)\.layernorm\.", r".\1.norm."),
    (r"^convnext\.layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
)
CONVNEXTS: dict[tuple[Counts, Counts], str] = {
    ((3, 3, 9, 3), (96, 192, 384, 768)): "convnext_tiny",
    ((3, 3, 27, 3), (96, 192, 384, 768)): "convnext_small",
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "convnext_base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "convnext_large",
    ((3, 3, 27, 3), (256, 512, 1024, 2048)): "convnext_xlarge",
}


def _vit(config: Json, tensors: Tensors) -> Renamed | None:
    """ViT and DeiT; with two heads DeiT takes their mean, as timm does."""
    found = _joined(_renamed(VIT, tensors, ("pooler.", "mask_token")))
    if config.get("hidden_act", "gelu") != "gelu" or ("dist_token" in found) != ("head_dist.weight" in found):
        return None
    width, depth, heads = (config.get(key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    patch, side, inner = (config.get(key) for key in ("patch_size", "image_size", "intermediate_size"))
    channels, epsilon = config.get("num_channels", 3), config.get("layer_norm_eps", 1e-12)
    counts = [n for n in (width, depth, heads, patch, side, inner, channels) if type(n) is int and n > 0]
    if len(counts) != 7 or not isinstance(epsilon, float):
        return None
    width, depth, heads, patch, side, inner, channels = counts
    size = WIDTHS.get((width, depth, heads), "")
    distilled = "deit_tiny_distilled" if "dist_token" in found else "vit_tiny"
    name = f"{distilled.replace('tiny', size or 'tiny')}_patch16_224"
    options: dict[str, object] = {} if size else {"embed_dim": width, "depth": depth, "num_heads": heads}
    options |= {} if inner == 4 * width else {"mlp_ratio": inner / width}
    options |= {} if patch == 16 else {"patch_size": patch}
    options |= {} if side == 224 else {"img_size": side}
    options |= {} if channels == 3 else {"in_chans": channels}
    options |= {} if config.get("qkv_bias", True) else {"qkv_bias": False}
    return _text(f"timm:{name}", {**options, "norm_eps": epsilon}), found


def _resnet(config: Json, tensors: Tensors) -> Renamed | None:
    depths, widths = _counts(config, "depths"), _counts(config, "hidden_sizes")
    usual = config.get("hidden_act", "relu") == "relu" and config.get("embedding_size", 64) == 64
    bent = config.get("downsample_in_bottleneck", False) or config.get("downsample_in_first_stage", False)
    name = RESNETS.get((config.get("layer_type", "bottleneck"), depths, widths))
    if name is None or not usual or bent or config.get("num_channels", 3) != 3:
        return None
    renamed = _renamed(RESNET, tensors)
    return name, {re.sub(r"\[(\d+)\]", lambda m: str(int(m[1]) + 1), name): value for name, value in renamed.items()}


def _convnext(config: Json, tensors: Tensors) -> Renamed | None:
    name = CONVNEXTS.get((_counts(config, "depths"), _counts(config, "hidden_sizes")))
    usual = config.get("hidden_act", "gelu") == "gelu" and config.get("patch_size", 4) == 4
    if name is None or not usual or config.get("num_channels", 3) != 3:
        return None
    return f"timm:{name}", _renamed(CONVNEXT, tensors)


RENAMED: dict[str, Callable[[Json, Tensors], Renamed | None]] = {
    "vit": _vit,
    "deit": _vit,
    "resnet": _resnet,
    "convnext": _convnext,
}


def _renamed(rules: Rules, tensors: Tensors, unused: tuple[str, ...] = ()) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not any(part in name for part in unused):
            for pattern, other in rules:
                name = re.sub(pattern, other, name)  # one rule after the other
            found[name] = tensor
    return found


def _joined(tensors: Tensors) -> dict[str, Tensor]:
    """Return projections to queries, keys and values as the one layer that timm has."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place, _, kind = name.rpartition(".query.")
        three = [tensors.get(f"{place}.{key}.{kind}") for key in QKV]
        if place and all(part is not None for part in three):
            found[f"{place}.qkv.{kind}"] = torch.cat([part for part in three if part is not None])
        elif not any(f".attn.{key}." in name for key in QKV):
            found[name] = tensor
    return found


def _counts(config: Json, key: str) -> Counts:
    value = config.get(key)
    return tuple(value) if isinstance(value, list) and all(type(count) is int for count in value) else ()


def _text(name: str, options: Mapping[str, object]) -> str:
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in options.items())
