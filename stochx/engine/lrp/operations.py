"""The kind of every operation that relevance can pass: the table that `tape` uses."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from stochx.engine.lrp import layers, moves, norms, products
from stochx.engine.lrp.kinds import Kind, nothing, unknown
from stochx.engine.network.graph import reads_values
from stochx.engine.network.recording import overwritten

LAYER = Kind(layers.layer, needs_values=True, ranged=False)
DENSE = Kind(layers.layer, needs_values=True, ranged=False, needs_output=True)
MATMUL = Kind(layers.product, needs_values=True, ranged=False)
SUM = Kind(layers.total, needs_values=True)
PASS, MOVE = Kind(moves.send_on, unary=True), Kind(moves.move, unary=True)
ACTIVATION, GATE = Kind(moves.send_on, unary=True), Kind(moves.send_on, unary=True)
WIN, MEAN = Kind(moves.move, needs_values=True, unary=True), Kind(moves.mean, needs_values=True, unary=True)
SPLIT, STACK, CHOICE = Kind(moves.split), Kind(moves.unstack), Kind(moves.choose)
OVERWRITE = Kind(moves.overwrite)
SCALE = Kind(moves.send_on, unary=True, ranged=False)
PRODUCT, QUOTIENT = Kind(products.multiply), Kind(products.divide)
FUSED = Kind(products.multiply_and_add, needs_values=True, ranged=False)
CONTRACTION = Kind(products.contract, needs_values=True, ranged=False)
SOFTMAX = Kind(products.softmax, needs_values=True, unary=True, ranged=False)
ATTENTION = Kind(products.attend, needs_values=True, ranged=False)
LAYER_NORM, GROUP_NORM, INSTANCE_NORM = NORMS = tuple(
    Kind(send, needs_values=True, unary=True, ranged=False)
    for send in (norms.layer_norm, norms.group_norm, norms.instance_norm)
)
CONSTANT, UNKNOWN = Kind(nothing, constant=True), Kind(unknown, ranged=False)

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish)
SOFT = (nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold)
BOUNDED = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh)
# Relevance passes unchanged through norms that no convolution can absorb, such as those before convolutions.
SILENT = (nn.Identity, nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
MOVES = (nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle, nn.Unfold)
PADS = (nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd)
MEANS = (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._LPPoolNd)
WINS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
MODULES: list[tuple[tuple[type[nn.Module], ...], Kind]] = [
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), LAYER),
    ((nn.Linear,), DENSE),
    (ACTIVATIONS + SOFT, ACTIVATION),
    (BOUNDED, GATE),
    (SILENT, PASS),
    ((nn.RMSNorm, nn.LocalResponseNorm), SCALE),
    (MOVES + PADS, MOVE),
    (WINS, WIN),
    ((*MEANS, nn.Upsample, nn.Fold), MEAN),
    ((nn.Softmax,), SOFTMAX),
    ((nn.LayerNorm,), LAYER_NORM),
    ((nn.GroupNorm,), GROUP_NORM),
    ((nn.modules.instancenorm._InstanceNorm,), INSTANCE_NORM),
]


def _named(names: str, *homes: object) -> list[object]:
    """Return the methods of these names, and the functions of these names in the modules `homes`."""
    functions = [getattr(home, name) for name in names.split() for home in homes if hasattr(home, name)]
    return [*names.split(), *functions]


# Functions, and names of methods.
CALLS: dict[object, Kind] = {
    **dict.fromkeys(layers.CONVOLUTIONS, LAYER),
    F.linear: DENSE,
    **dict.fromkeys(_named("matmul", torch, operator), MATMUL),
    **dict.fromkeys(_named("add sub subtract", torch, operator), SUM),
    **dict.fromkeys(_named("mul multiply", torch, operator), PRODUCT),
    **dict.fromkeys(_named("div divide true_divide truediv", torch, operator), QUOTIENT),
    **dict.fromkeys(_named("relu leaky_relu prelu rrelu elu selu celu", torch, F), ACTIVATION),
    **dict.fromkeys(_named("relu6 gelu silu mish hardswish hardtanh softplus softsign", F), ACTIVATION),
    **dict.fromkeys(_named("logsigmoid threshold", F), ACTIVATION),
    **dict.fromkeys(_named("sigmoid hardsigmoid tanh", torch, F), GATE),
    **dict.fromkeys(_named("clamp clamp_min clamp_max clip abs neg sqrt rsqrt exp log square pow", torch), PASS),
    **dict.fromkeys(_named("reciprocal", torch), PASS),
    **dict.fromkeys((operator.neg, operator.pow, operator.pos, operator.abs), PASS),
    **dict.fromkeys((F.dropout, F.dropout2d, F.dropout3d, F.alpha_dropout, stochastic_depth, F.batch_norm), PASS),
    **dict.fromkeys(_named("contiguous clone to type type_as float double half bfloat16 cpu cuda detach"), PASS),
    **dict.fromkeys((torch.clone, torch.detach), PASS),
    **dict.fromkeys(_named("flatten unflatten reshape permute transpose squeeze unsqueeze flip roll", torch), MOVE),
    **dict.fromkeys(_named("swapaxes swapdims movedim moveaxis narrow select index_select gather t", torch), MOVE),
    **dict.fromkeys(_named("tile repeat_interleave broadcast_to masked_fill rot90 ravel diagonal", torch), MOVE),
    **dict.fromkeys(_named("view view_as reshape_as expand expand_as repeat unfold"), MOVE),
    **dict.fromkeys((F.pad, F.pixel_shuffle, F.pixel_unshuffle, F.unfold, operator.getitem, getattr), MOVE),
    **dict.fromkeys((*moves.PIECES, torch.pixel_shuffle, torch.channel_shuffle, F.channel_shuffle), MOVE),
    **dict.fromkeys(_named("amax amin max min", torch), WIN),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), WIN),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), WIN),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.lp_pool1d, F.lp_pool2d, F.interpolate, F.fold), MEAN),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), MEAN),
    **dict.fromkeys((*_named("mean sum norm", torch), torch.linalg.vector_norm, torch.linalg.norm), MEAN),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), SPLIT),
    torch.stack: STACK,
    overwritten: OVERWRITE,
    **dict.fromkeys(_named("where", torch), CHOICE),
    **dict.fromkeys(_named("addcmul", torch), FUSED),
    **dict.fromkeys((*_named("bmm", torch), torch.einsum), CONTRACTION),
    **dict.fromkeys(_named("softmax", torch, F), SOFTMAX),
    F.scaled_dot_product_attention: ATTENTION,
    **dict.fromkeys((F.normalize, F.rms_norm, F.local_response_norm), SCALE),
    F.layer_norm: LAYER_NORM,
    F.group_norm: GROUP_NORM,
    F.instance_norm: INSTANCE_NORM,
    **dict.fromkeys(_named("randn_like rand_like", torch), CONSTANT),
    **dict.fromkeys(_named("stride new_tensor"), CONSTANT),
    **dict.fromkeys(_named("eq ne lt le gt ge", torch, operator), CONSTANT),
    **dict.fromkeys(_named("argmax argmin", torch), CONSTANT),
}


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Kind:
    """Return the kind of operation of `node`."""
    if not node.op.startswith("call_") or not reads_values(node):
        return CONSTANT
    if node.op == "call_module":
        module = modules[str(node.target)]
        return next((kind for types, kind in MODULES if isinstance(module, types)), UNKNOWN)
    return CALLS.get(node.target, UNKNOWN)
