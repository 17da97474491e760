"""Parallel linear branches as the one convolution that they are.

Relevance of a sum is shared in proportion to its summands. Branches of one input, such as a convolution, a narrower one
and a batch norm alone (RepVGG, MobileOne), have large summands of both signs that cancel, so that shares explode from
layer to layer. Their sum is a convolution, whose rules are stable.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.network.balanced_kinds import log_softmax_axis
from stochx.engine.network.folding import IDLE
from stochx.engine.network.graph import SUMS


@dataclass(frozen=True)
class _Branch:
    """A convolution around its centre: weight (O, I / groups, K, K), K odd, and bias; `inset` is K // 2 - padding."""

    weight: Tensor
    bias: Tensor
    groups: int
    stride: tuple[int, int]
    inset: int

    def ungrouped(self, groups: int) -> Tensor:
        """Return the weight of the same convolution with fewer groups, which divide its own."""
        out, width, size, _ = self.weight.shape
        each = self.groups // groups
        weight = self.weight.new_zeros(out, width * each, size, size)
        per = out // self.groups
        for channel in range(out):
            first = channel // per % each * width
            weight[channel, first : first + width] = self.weight[channel]
        return weight


def merged(graph: fx.GraphModule) -> fx.GraphModule:
    """Return the same function, sharing modules, with sums of parallel convolutions and batch norms as convolutions.

    A log-softmax at the end is left out: it shifts all logits of an image by the same number.
    """
    whole = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    result = next(node for node in reversed(whole.graph.nodes) if node.op == "output").all_input_nodes[0]
    if log_softmax_axis(result, dict(whole.named_modules())) in (1, -1):
        result.replace_all_uses_with(result.all_input_nodes[0])
        whole.graph.erase_node(result)
    for node in list(whole.graph.nodes):
        if node.op == "call_module" and isinstance(whole.get_submodule(str(node.target)), IDLE):
            node.replace_all_uses_with(node.all_input_nodes[0])
            whole.graph.erase_node(node)
            continue
        if node.target not in SUMS or len(node.args) != 2 or node.kwargs:
            continue
        if 0 in [arg for arg in node.args if isinstance(arg, int)]:  # a sum that starts with nothing
            (rest,) = node.all_input_nodes
            node.replace_all_uses_with(rest)
            whole.graph.erase_node(node)
            continue
        one, other = (_branch(whole, arg) for arg in node.args)
        parts = node.all_input_nodes
        if one is None or other is None or len(parts) != 2 or parts[0].args != parts[1].args:
            continue
        if (one.stride, one.inset) != (other.stride, other.inset):
            continue
        name = f"merged_{node.name}"
        whole.add_submodule(name, _sum(one, other))
        with whole.graph.inserting_before(node):
            call = whole.graph.call_module(name, parts[0].args)
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        for old in (node, *parts):
            whole.graph.erase_node(old)
    whole.recompile()
    return whole


def _branch(graph: fx.GraphModule, node: object) -> _Branch | None:
    """Return an operation as a branch; None for any other, and where its value has other readers."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) > 1 or len(node.args) != 1:
        return None
    module = graph.get_submodule(str(node.target))
    if isinstance(module, nn.BatchNorm2d) and not module.training and module.running_mean is not None:
        return _of_norm(module)
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    sizes = {*module.kernel_size}
    if len(sizes) > 1 or not max(sizes) % 2 or {*module.dilation} != {1} or len({*module.padding}) > 1:
        return None
    weight = module.weight.detach()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()
    inset = module.kernel_size[0] // 2 - int(module.padding[0])
    return _Branch(weight, bias, module.groups, (module.stride[0], module.stride[1]), inset)


def _of_norm(norm: nn.BatchNorm2d) -> _Branch:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    bias = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias.detach())
    return _Branch(scale.view(-1, 1, 1, 1), bias, norm.num_features, (1, 1), 0)


def _sum(one: _Branch, other: _Branch) -> nn.Conv2d:
    """Return the convolution that is the sum of two with the same stride and inset."""
    groups = math.gcd(one.groups, other.groups)
    size = max(one.weight.shape[-1], other.weight.shape[-1])
    weights = [F.pad(branch.ungrouped(groups), [(size - branch.weight.shape[-1]) // 2] * 4) for branch in (one, other)]
    weight = weights[0] + weights[1]
    out, width = weight.shape[:2]
    conv = nn.Conv2d(
        width * groups, out, size, one.stride, size // 2 - one.inset, groups=groups, device="meta", dtype=weight.dtype
    )
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(one.bias + other.bias, requires_grad=False)
    return conv.eval()
