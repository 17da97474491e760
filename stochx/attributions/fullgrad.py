"""FullGrad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.engine.device import in_batches
from stochx.engine.gradients import prepared
from stochx.engine.network.constants import Decomposition, decomposed
from stochx.engine.network.inplace import out_of_place
from stochx.engine.network.placing import put_back
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class FullGrad:
    """The logit as a sum over the input and all biases, each laid on the image (Srinivas & Fleuret, 2019).

        z * gradient + sum_c resized(c * gradient_c),  z the normalised image, c the constants that operations add

    Constants are biases, offsets of norms, class tokens and embeddings of positions. Complete for networks that are
    piecewise linear, and with balanced gradients (LibraGrad, Mehri et al., 2025) for all: `gap` is the sum of all terms
    minus the logit. Terms without a position, such as those of a class token or of the last bias, are part of that sum
    and not of the map. The paper's pictures take absolute values and stretch each layer, which is not complete.
    """

    remedy: ClassVar[str] = "use `backward=balanced`"  # what makes a map more complete

    backward: Literal["balanced", "plain"] = "balanced"  # balanced gradients (LibraGrad), or gradients as they are

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        fast = prepared(model, x, self.backward, "use `occlusion` or a gradient method")
        assert fast.graph is not None
        graph, maps, gap = out_of_place(fast.graph), x.new_empty(len(x), 1, *x.shape[2:]), x.new_empty(len(x))

        def work(start: int, stop: int) -> None:
            parts = decomposed(graph, fast.normalise(x[start:stop]), target[start:stop])
            maps[start:stop] = parts.input.sum(1, keepdim=True)
            for node, term in parts.constants.items():
                maps[start:stop] += _laid(graph, node, term, parts, x.shape[2:])
            gap[start:stop] = parts.total() - parts.logit

        # Constants and their gradients need memory beside what autograd keeps.
        in_batches(len(x), max(1, fast.rows(x) // 3), work)
        return Explanation(maps, gap=gap)


def _laid(graph: fx.GraphModule, node: fx.Node, term: Tensor, parts: Decomposition, size: Sequence[int]) -> Tensor:
    """Return the term of a constant as a map (N, 1, H, W) with the same sum, or zero if it has no positions."""
    maps = put_back(graph, node, term, parts.values)
    return term.new_zeros(1) if maps is None else spread(maps.sum(1, keepdim=True), size)


def spread(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (N, 1, h, w) to (N, 1, H, W) with the same sum: the transpose of averaging with bilinear weights."""
    rows, columns = (_averages(maps, length, full) for length, full in zip(maps.shape[2:], size, strict=True))
    return rows.T @ maps @ columns


def _averages(like: Tensor, length: int, full: int) -> Tensor:
    """Return the weights (length, full) of which each row sums to 1."""
    unit = torch.eye(full, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(unit, (length, full), mode="bilinear", antialias=True)[0, 0]
