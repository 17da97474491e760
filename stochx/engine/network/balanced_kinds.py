"""The table of `balanced`: what each operation of a traced network does with what depends on the image."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from stochx.engine.network.bpda import StandIn
from stochx.engine.network.graph import arguments
from stochx.engine.network.recording import overwritten
from stochx.engine.network.stochastic import NormalSum

Kind = enum.Enum("Kind", "LINEAR SECANT NORM SOFTMAX PRODUCT RATIO WEIGHTED INVERSE FACT UNKNOWN")
"""How an operation is linear in its inputs.

LINEAR: as it is, up to an added constant, at least piece by piece. SECANT: elementwise, by its secant from zero.
NORM: by a constant deviation. SOFTMAX: a factor, if a product follows. PRODUCT: in each factor. RATIO, WEIGHTED: in one
argument, the others count as constants. INVERSE: a factor. FACT: no gradient flows through it.
"""

Slot = tuple[int, str]  # place of an argument, and its name

MODULES: dict[Kind, tuple[type[nn.Module], ...]] = {
    Kind.LINEAR: (
        nn.Linear,
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._BatchNorm,
        nn.ReLU,
        nn.LeakyReLU,
        nn.PReLU,
        nn.Identity,
        nn.modules.dropout._DropoutNd,
        nn.modules.pooling._MaxPoolNd,
        nn.modules.pooling._AvgPoolNd,
        nn.modules.pooling._AdaptiveAvgPoolNd,
        nn.modules.pooling._AdaptiveMaxPoolNd,
        nn.modules.pooling._LPPoolNd,
        nn.modules.padding._ConstantPadNd,
        nn.modules.padding._ReflectionPadNd,
        nn.modules.padding._ReplicationPadNd,
        nn.Flatten,
        nn.Unflatten,
        nn.Upsample,
        nn.Fold,
        nn.Unfold,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.ChannelShuffle,
        NormalSum,
        StandIn,
    ),
    Kind.SECANT: (
        *(nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.ELU, nn.CELU, nn.SELU, nn.ReLU6, nn.Hardtanh, nn.Tanh),
        *(nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
        *(nn.LogSigmoid, nn.Threshold),
    ),
    Kind.NORM: (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm),
    Kind.SOFTMAX: (nn.Softmax, nn.Softmax2d, nn.LogSoftmax),
}

MOVING_METHODS = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "t"),
        *("moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "roll"),
        *("flip", "chunk", "split", "tensor_split", "unbind", "contiguous", "clone", "to", "type", "type_as", "float"),
        *("double", "half", "bfloat16", "select", "narrow", "view_as", "reshape_as", "diagonal", "unfold", "gather"),
    }
)
MOVES: frozenset[object] = MOVING_METHODS | {
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.swapaxes, torch.swapdims, torch.movedim),
    *(torch.squeeze, torch.unsqueeze, torch.unbind, torch.chunk, torch.split, torch.tensor_split, torch.roll),
    *(torch.flip, torch.unflatten, torch.select, torch.narrow, torch.index_select, torch.gather, torch.clone),
    *(torch.repeat_interleave, torch.tile, torch.diagonal, torch.moveaxis, F.interpolate, F.upsample),
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, stochastic_depth, operator.getitem, getattr),
    *(F.pixel_shuffle, F.pixel_unshuffle, F.unfold, F.fold, torch.channel_shuffle, operator.neg, torch.neg, "neg"),
}
LINEAR_METHODS = (
    "__add__",
    "__radd__",
    "__sub__",
    "abs",
    "mean",
    "sum",
    "max",
    "amax",
    "min",
    "amin",
    "relu",
    "cumsum",
)
SUMS: frozenset[object] = frozenset({operator.add, operator.sub, torch.add, torch.sub, "add", "sub"})

CALLS: dict[object, Kind] = {
    **dict.fromkeys((*MOVES, *SUMS, *LINEAR_METHODS, "masked_fill", "index_select", "norm"), Kind.LINEAR),
    **dict.fromkeys(
        (torch.cat, torch.concat, torch.concatenate, torch.stack, F.pad, torch.where, torch.rsub, overwritten),
        Kind.LINEAR,
    ),
    **dict.fromkeys((torch.relu, F.relu, F.leaky_relu, F.prelu, F.rrelu, torch.abs, operator.abs), Kind.LINEAR),
    **dict.fromkeys((torch.mean, torch.sum, torch.max, torch.amax, torch.min, torch.amin, torch.cumsum), Kind.LINEAR),
    **dict.fromkeys((torch.norm, torch.linalg.vector_norm, torch.linalg.norm, torch.maximum), Kind.LINEAR),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), Kind.LINEAR),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.lp_pool2d), Kind.LINEAR),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, torch.max_pool2d, torch.masked_fill), Kind.LINEAR),
    **dict.fromkeys((F.batch_norm, torch.batch_norm), Kind.LINEAR),
    **dict.fromkeys((F.gelu, F.silu, F.mish, F.hardswish, F.elu, F.celu, F.selu, F.relu6, F.hardtanh), Kind.SECANT),
    **dict.fromkeys(
        (F.sigmoid, F.tanh, F.hardsigmoid, F.softplus, F.softsign, F.logsigmoid, F.tanhshrink), Kind.SECANT
    ),
    **dict.fromkeys((torch.sigmoid, torch.tanh, torch.clamp, torch.clamp_min, torch.clamp_max, torch.erf), Kind.SECANT),
    **dict.fromkeys(
        (torch.square, torch.sqrt, torch.pow, operator.pow, torch.exp, torch.selu, torch.celu), Kind.SECANT
    ),
    **dict.fromkeys(
        ("sigmoid", "tanh", "clamp", "clamp_min", "clamp_max", "square", "sqrt", "pow", "exp"), Kind.SECANT
    ),
    **dict.fromkeys((F.layer_norm, F.group_norm, F.rms_norm, F.instance_norm, F.normalize), Kind.NORM),
    **dict.fromkeys(
        (F.softmax, torch.softmax, "softmax", F.log_softmax, torch.log_softmax, "log_softmax"), Kind.SOFTMAX
    ),
    **dict.fromkeys((operator.truediv, torch.div, torch.true_divide, torch.divide, "div", "divide"), Kind.RATIO),
    **dict.fromkeys((torch.rsqrt, torch.reciprocal, "rsqrt", "reciprocal"), Kind.INVERSE),
    **dict.fromkeys((torch.detach, "detach", "size", "dim", "numel", "argmax", "argmin", "new_zeros"), Kind.FACT),
    **dict.fromkeys((torch.zeros_like, torch.ones_like, torch.randn_like, torch.rand_like, "new_ones"), Kind.FACT),
    **dict.fromkeys((operator.gt, operator.lt, operator.ge, operator.le, operator.eq, operator.ne), Kind.FACT),
    **dict.fromkeys((torch.gt, torch.lt, torch.ge, torch.le, torch.eq, torch.ne, torch.argmax, torch.sign), Kind.FACT),
    **dict.fromkeys(("gt", "lt", "ge", "le", "eq", "ne"), Kind.FACT),
}

BOTH: tuple[Slot, ...] = ((0, "input"), (1, "other"))
LAST_TWO: tuple[Slot, ...] = ((1, "tensor1"), (2, "tensor2"))
# Factors of products, and the factors that count as constants in other operations.
FACTORS: dict[object, tuple[Slot, ...]] = {
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul", "multiply", "__mul__", "__rmul__"), BOTH),
    **dict.fromkeys((operator.matmul, torch.matmul, "matmul", "__matmul__"), BOTH),
    **dict.fromkeys((torch.bmm, "bmm", torch.mm, "mm"), ((0, "input"), (1, "mat2"))),
    **dict.fromkeys((torch.addcmul, "addcmul"), LAST_TWO),
    **dict.fromkeys((torch.addmm, torch.baddbmm, "addmm", "baddbmm"), ((1, "mat1"), (2, "mat2"))),
    torch.einsum: tuple((place, "") for place in range(1, 5)),
}
CONSTANTS: dict[object, tuple[Slot, ...]] = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d), ((1, "weight"),)),
    F.scaled_dot_product_attention: ((0, "query"), (1, "key"), (3, "attn_mask")),
}
CALLS |= dict.fromkeys(FACTORS, Kind.PRODUCT) | dict.fromkeys(CONSTANTS, Kind.WEIGHTED)
CONSTANTS |= {target: BOTH[1:] for target, kind in CALLS.items() if kind is Kind.RATIO}

POWERS = (torch.pow, operator.pow, "pow")
VIEWS = ("T", "mT", "H", "mH", "real", "values")  # attributes of a tensor, or of a result, that hold its values
OPEN = {F.sigmoid, torch.sigmoid, "sigmoid", F.hardsigmoid, torch.tanh, F.tanh, "tanh", torch.erf}
OPEN_MODULES = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh)
CLIPPED = {F.relu6, F.hardtanh, torch.clamp, "clamp"}
CLIPPED_MODULES = (nn.ReLU6, nn.Hardtanh)
NORMALISED, GATE = 1, 2  # strength of a value as a gate: a ratio of two signals, and a bounded activation


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Kind:
    """Return what `node` does with what depends on the image."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return Kind.LINEAR
    if node.op == "call_module":
        if str(node.target).endswith(".noise"):  # that of a noisy layer
            return Kind.LINEAR
        module = modules[str(node.target)]
        return next((kind for kind, types in MODULES.items() if isinstance(module, types)), Kind.UNKNOWN)
    if node.target is getattr and node.args[1] not in VIEWS:
        return Kind.FACT
    if node.target in POWERS and isinstance(node.args[1], int | float) and node.args[1] < 0:
        return Kind.INVERSE
    return CALLS.get(node.target, Kind.UNKNOWN)


def log_softmax_axis(node: fx.Node, modules: Mapping[str, nn.Module]) -> int | None:
    """Return the axis of a log-softmax; None for other operations."""
    axis: Any = None
    if node.op == "call_module":
        module = modules[str(node.target)]
        axis = module.dim if isinstance(module, nn.LogSoftmax) else None
    elif node.target in (F.log_softmax, torch.log_softmax, "log_softmax"):
        axis = arguments(node, "input", "dim").get("dim")
    return axis if isinstance(axis, int) else None


def slots(node: fx.Node, table: Mapping[object, tuple[Slot, ...]]) -> Iterator[tuple[int | str, fx.Node]]:
    """Return the arguments of `node` that `table` lists and that are nodes, with their place or name."""
    for place, name in table.get(node.target, ()):
        given: Any = node.args[place] if place < len(node.args) else node.kwargs.get(name)
        if isinstance(given, fx.Node):
            yield (place if place < len(node.args) else name), given


def gate_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> int:
    """Return GATE for a bounded activation, and for one that clips where its input is shifted, else 0."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if node.target in OPEN or isinstance(module, OPEN_MODULES):
        return GATE
    if node.target in CLIPPED or isinstance(module, CLIPPED_MODULES):
        source: Any = node.args[0]
        return GATE if source.target in SUMS and any(isinstance(n, int | float) for n in source.args) else 0
    return 0


def passes_gates(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Return True if a gate is still one after `node`: moved, scaled, shifted, or multiplied with gates."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if module is not None:
        return isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd, nn.Upsample, nn.Flatten, nn.Unflatten))
    return node.target in MOVES | SUMS or CALLS.get(node.target) in (Kind.PRODUCT, Kind.RATIO)
