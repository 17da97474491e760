"""What the constants of a network add to a logit: biases, offsets of norms, class tokens, embeddings of positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from stochx.engine.network.balanced_kinds import MOVES
from stochx.engine.network.positions import batch_axes
from stochx.engine.network.stochastic import NormalSum


@dataclass(frozen=True)
class Decomposition:
    """A logit (N,) as <x, g> + sum_c <c, g_c>, over the input and every constant that an operation adds.

    `input` is x * g, shaped as the input; `constants` holds c * g_c by operation, shaped as its value: the first axis
    is a multiple of N, also where that of the value is another. `values` holds empty tensors with the shapes of all
    values, and what is no tensor.
    """

    logit: Tensor
    input: Tensor
    constants: dict[fx.Node, Tensor]
    values: dict[fx.Node, Any]

    def total(self) -> Tensor:
        """Return the sum (N,) of all terms."""
        terms = [self.input, *self.constants.values()]
        return torch.stack([term.reshape(len(self.logit), -1).sum(1) for term in terms]).sum(0)


def decomposed(graph: fx.GraphModule, x: Tensor, target: Tensor) -> Decomposition:
    """Decompose the logits of `graph`, which does not work in place, at inputs x (N, C, H, W) for targets (N,).

    The constant of an operation is its value where all that depends on the image is zero.
    """
    axes, x = batch_axes(graph, x), x.detach().requires_grad_()
    recorder = _Recorder(graph)
    with torch.enable_grad():
        logits = recorder.run(x)
        logit = logits.gather(1, target[:, None]).squeeze(1)
    taps = recorder.taps
    slopes = torch.autograd.grad(logit.sum(), [x, *(tap for tap, _ in taps.values())], allow_unused=True)
    terms = {
        node: (slope * constant).movedim(axes[node.name], 0)
        for (node, (_, constant)), slope in zip(taps.items(), slopes[1:], strict=True)
        if slope is not None
    }
    first = torch.zeros_like(x) if slopes[0] is None else slopes[0] * x.detach()
    return Decomposition(logit.detach(), first, terms, recorder.values)


class _Recorder(fx.Interpreter):
    """Records the constant that each operation adds, with a leaf of zeros that gets its gradient."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.taps: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        self.values[n] = tree_map(lambda v: torch.empty(v.shape, device="meta") if isinstance(v, Tensor) else v, out)
        moves = n.op != "call_module" and n.target in MOVES  # a module may have the name of a method
        if n.op in ("placeholder", "output") or not _flows(out) or moves:
            return out
        with torch.no_grad():
            constant = self._constant(n, out).nan_to_num(0, 0, 0)  # masks, and ratios of two signals
        if not constant.any():
            return out
        tap = torch.zeros_like(out, requires_grad=True)
        self.taps[n] = tap, constant
        return out + tap

    def _constant(self, node: fx.Node, out: Tensor) -> Tensor:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if node.op == "call_module" and isinstance(self.fetch_attr(str(node.target)), NormalSum):  # the same draw
            noise: Tensor = out - args[0]
            return noise
        zeros = tree_map(lambda value: torch.zeros_like(value) if _flows(value) else value, (args, kwargs))
        constant: Tensor = getattr(self, node.op)(node.target, *zeros)
        return constant


def _flows(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad
