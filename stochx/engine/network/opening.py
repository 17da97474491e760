"""Networks whose attention a trace can see through, and noise layers can reach."""

from __future__ import annotations

from typing import Any

from torch import nn

from stochx.engine.network.attention import OpenAttention, OpenEncoder, OpenEncoderLayer, take_over
from stochx.engine.network.windows import OpenPatchMerging, OpenWindowAttention

SWIN = "torchvision.models.swin_transformer"  # named, since importing torchvision is slow
TWINS: dict[str, Any] = {
    "torch.nn.modules.activation.MultiheadAttention": OpenAttention,
    "torch.nn.modules.transformer.TransformerEncoderLayer": OpenEncoderLayer,
    "torch.nn.modules.transformer.TransformerEncoder": OpenEncoder,
    f"{SWIN}.ShiftedWindowAttention": OpenWindowAttention,
    f"{SWIN}.ShiftedWindowAttentionV2": OpenWindowAttention,
    f"{SWIN}.PatchMerging": OpenPatchMerging,
    f"{SWIN}.PatchMergingV2": OpenPatchMerging,
}


def opened(network: nn.Module) -> nn.Module:
    """Return `network` with twins of torch's and torchvision's attention; `network` itself if it has none.

    timm's attention that uses the weight of its layer `qkv` with biases of its own calls it as a layer, and adds them.
    The original is not changed. Both have the same parameters and buffers, the same objects, under the same names.
    """
    return _opened(network, {})


def _opened(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    done[id(module)] = module
    children = {name: child if child is None else _opened(child, done) for name, child in module._modules.items()}
    twin = TWINS.get(f"{type(module).__module__}.{type(module).__qualname__}")
    opens = "forward" not in vars(module) and getattr(twin, "suits", bool)(module)
    separable = getattr(module, "qkv_bias_separate", None) is False  # a setting of timm's
    if (twin and opens) or separable or any(child is not module._modules[name] for name, child in children.items()):
        copied: nn.Module = object.__new__(type(module))
        take_over(copied, module)
        copied._modules = children
        if separable:
            copied.qkv_bias_separate = True  # type: ignore[assignment]
        done[id(module)] = twin(copied) if twin and opens else copied
    return done[id(module)]
