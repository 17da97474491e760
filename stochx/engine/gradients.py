"""The hot loop: gradients of a class score at many points around many images, in well-sized batches.

A method describes its points; the engine flattens images x points into one stream, cuts it into batches, draws
each point's noise by its image's key and its index, and keeps running sums. Where a network begins with a
convolution, that affine stem runs once per image and not once per point wherever the algebra allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stochx.engine.device import current, in_batches
from stochx.engine.network.fused import FusedNetwork, Stem, fused
from stochx.engine.seeds import Key, generator
from stochx.errors import InputError

Term = Callable[[Tensor, Tensor], Tensor]  # (z - x, gradient at z) -> what is summed, all (B, C, H, W)


def logits(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, K), without gradients, in batches."""
    fast = fused(model)
    parts: list[Tensor] = []

    def work(start: int, stop: int) -> None:
        with torch.inference_mode(), current().autocast():
            parts.append(fast.whole(x[start:stop]).to(x.dtype))

    in_batches(len(x), 2 * fast.rows(x), work)
    return torch.cat(parts).clone()  # the clone is an ordinary tensor again, also for autograd


def scores(model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """The target's logit: (N, C, H, W), (N,) -> (N,)."""
    return logits(model, x).gather(1, target[:, None]).squeeze(1)


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """D logit[target] / d x: (N, C, H, W), (N,) -> (N, C, H, W)."""
    fast = fused(model)
    out = torch.empty_like(x)

    def work(start: int, stop: int) -> None:
        out[start:stop] = _slopes(fast, x[start:stop], target[start:stop])

    in_batches(len(x), fast.rows(x), work)
    return out


def along(
    model: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, target: Tensor, nodes: Tensor, weights: Tensor
) -> Tensor:
    """sum_k weights_k * gradient(start + nodes_k (x - start)): path integrals from `start` to `x`, (N, C, H, W).

    `nodes` and `weights` (S,) are the quadrature on [0, 1]. The stem of the network runs at the two ends only:
    its outputs are interpolated, and its transpose is applied to the finished sum.
    """
    fast = fused(model)
    stem, tail = (fast.stem, fast.tail) if fast.stem is not None and fast.tail is not None else (None, fast.whole)
    first, last = (start, x) if stem is None else (_hidden(stem, start), _hidden(stem, x))
    total = torch.zeros_like(first)
    nodes, weights = nodes.to(x), weights.to(x)

    def work(begin: int, end: int) -> None:
        row = torch.arange(begin, end, device=x.device)
        image, k = row // len(nodes), row % len(nodes)
        points = torch.lerp(first[image], last[image], nodes[k].view(-1, 1, 1, 1))
        slope = slope_of(tail, points, target[image])
        total.index_add_(0, image, slope * weights[k].view(-1, 1, 1, 1))

    in_batches(len(x) * len(nodes), fast.rows(x), work)
    return total if stem is None else stem.transpose(total, x)


def around(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    keys: Sequence[Key],
    sigma: Tensor,
    points: range,
    terms: Sequence[Term] = (),
) -> Tensor:
    """Sums over noisy points z = x + sigma * noise(key, i), i in `points`, of each term: (2, T, N, C, H, W).

    Even and odd points are summed apart (the first axis): their difference tells the Monte-Carlo error.
    `sigma` (N or 1, C or 1, 1, 1) is in pixels. Without terms the gradients themselves are summed, and the
    transpose of the network's stem is applied to the finished sums.
    """
    fast = fused(model)
    sigma = sigma.expand(len(x), *sigma.shape[1:])
    late = fast.stem if not terms else None
    shape = x.shape[1:] if late is None else _hidden(late, x[:1]).shape[1:]
    totals = [x.new_zeros(2 * len(x), *shape) for _ in range(max(1, len(terms)))]

    def work(begin: int, end: int) -> None:
        row = torch.arange(begin, end, device=x.device)
        image, index = row // len(points), points.start + row % len(points)
        places = zip(image.tolist(), index.tolist(), strict=True)
        offset = sigma[image] * torch.stack([noise(x, keys[n], i) for n, i in places])
        slope = _slopes(fast, x[image] + offset, target[image], through_stem=late is None)
        half = index % 2 * len(x) + image
        for total, values in zip(totals, [term(offset, slope) for term in terms] or [slope], strict=True):
            total.index_add_(0, half, values)

    in_batches(len(x) * len(points), fast.rows(x), work)
    if late is not None:
        totals = [late.transpose(totals[0], x[:1])]
    return torch.stack([total.view(2, len(x), *x.shape[1:]) for total in totals], 1)


def noise(like: Tensor, key: Key, index: int) -> Tensor:
    """Standard normal (C, H, W) draw `index` of the image `key`: the same in float32 and float64."""
    source = generator(key, "noise", index, device=like.device)
    return torch.randn(like.shape[1:], generator=source, device=like.device, dtype=torch.float32).to(like.dtype)


def _slopes(fast: FusedNetwork, points: Tensor, target: Tensor, through_stem: bool = True) -> Tensor:
    """Gradients at `points`: for the points, or only for what the stem makes of them."""
    if fast.stem is None or fast.tail is None:
        return slope_of(fast.whole, points, target)
    hidden = slope_of(fast.tail, _hidden(fast.stem, points), target)
    return fast.stem.transpose(hidden, points) if through_stem else hidden


def _hidden(stem: Stem, points: Tensor) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = stem(points.contiguous(memory_format=torch.channels_last))
        return hidden


def slope_of(model: nn.Module, points: Tensor, target: Tensor) -> Tensor:
    """D logit[target] / d points in one batch, for points of any shape that `model` takes."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        with current().autocast():
            found = model(points)
        if found.dim() != 2 or found.shape[0] != len(points):
            raise InputError(
                f"the model returns {tuple(found.shape)} for {len(points)} images", "it must return logits (N, K)"
            )
        (slope,) = torch.autograd.grad(found.gather(1, target[:, None]).sum(), points)
    return slope
