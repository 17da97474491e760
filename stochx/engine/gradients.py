"""The hot loop: gradients of a class score at many points around many images, in batches that fit memory.

A method describes its points; the engine flattens images x points into one stream, splits it into batches, seeds
each point's noise with its image's key and its index, and keeps running sums. If a network begins with a convolution,
this affine stem runs once per image instead of once per point wherever the algebra allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.device import current, in_batches
from stochx.engine.network.fused import FusedNetwork, fused
from stochx.engine.network.stem import Stem
from stochx.engine.realisation import drawing, is_realised
from stochx.engine.seeds import Key, generator
from stochx.errors import InputError, RunError

Backward = Literal["plain", "balanced"]  # gradients as they are, or those of `engine.network.balanced`
Term = Callable[[Tensor, Tensor], Tensor]  # (z - x, gradient at z) -> summand, all (B, C, H, W)
Where = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (image, k), both (B,) -> points and steps (B, C, H, W)
Take = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]  # (image, k, steps, gradients, logits (B,) at points)


def logits(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the logits (N, K) of images (N, C, H, W), without gradients, in batches."""
    fast = fused(model, x)
    parts: list[Tensor] = []

    def work(start: int, stop: int) -> None:
        with torch.inference_mode(), current().autocast(), drawing():
            parts.append(fast.whole(x[start:stop]).to(x.dtype))

    in_batches(len(x), fast.rows(x) * (1 if is_realised() else 2), work)
    return torch.cat(parts).clone()  # the clone is an ordinary tensor, which autograd accepts


def finite(out: Tensor) -> Tensor:
    """Return logits as they are; raises `RunError` for those that are not finite: their largest is no prediction."""
    if not out.isfinite().all():
        raise RunError("the model's logits are not finite", "check the weights and the normalisation")
    return out


def predictions(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the classes (N,) of images (N, C, H, W); raises `RunError` for logits that are not finite."""
    return finite(logits(model, x)).argmax(1)


def scores(model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """Return the target's logit (N,) for images (N, C, H, W) and targets (N,)."""
    return logits(model, x).gather(1, target[:, None]).squeeze(1)


def prepared(
    model: Callable[[Tensor], Tensor], x: Tensor, backward: Backward, without_operations: str = ""
) -> FusedNetwork:
    """Return the fused form of `model`, about to see x.

    Raises `InputError` where it has no balanced gradients, and where a method needs the operations of the network and
    they are not known, with its hint of what to use `without_operations`.
    """
    fast = fused(model, x)
    if without_operations:
        fast.operations(without_operations)
    return fast.balanced if backward == "balanced" else fast


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, backward: Backward = "plain") -> Tensor:
    """Return d logit[target] / d x (N, C, H, W) for images (N, C, H, W) and targets (N,)."""
    fast = prepared(model, x, backward)
    out = torch.empty_like(x)

    def work(start: int, stop: int) -> None:
        out[start:stop] = _slopes(fast, x[start:stop], target[start:stop])

    in_batches(len(x), fast.rows(x), work)
    return out


def along(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    target: Tensor,
    nodes: Tensor,
    weights: Tensor,
    backward: Backward = "plain",
) -> Tensor:
    """Return path integrals (N, C, H, W) from `start` to `x`: sum_k weights_k * gradient(start + nodes_k (x - start)).

    `nodes` and `weights` (S,) are the quadrature on [0, 1]. The network's stem runs at the two ends only: its outputs
    are interpolated, and its transpose is applied to the final sum.
    """
    fast = prepared(model, x, backward)
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


def visit(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    count: int,
    where: Where,
    take: Take,
    backward: Backward = "plain",
) -> None:
    """Visit points 0..count of each image x (N, C, H, W) in turn, and hand their gradients and logits to `take`.

    Points are in pixels; steps are whatever `take` needs of them. Batches follow each other: the first row of one is
    the point after the last of the one before.
    """
    fast = prepared(model, x, backward)

    def work(begin: int, end: int) -> None:
        row = torch.arange(begin, end, device=x.device)
        image, k = row // count, row % count
        points, steps = where(image, k)
        value, slope = _values_and_slopes(fast, points, target[image])
        take(image, k, steps, slope, value)

    in_batches(len(x) * count, fast.rows(x), work)


def around(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    keys: Sequence[Key],
    sigma: Tensor,
    points: range,
    terms: Sequence[Term] = (),
    backward: Backward = "plain",
    paired: bool = False,
) -> Tensor:
    """Return sums (2, T, N, C, H, W) of each term over noisy points z = x + sigma * noise(key, i), i in `points`.

    Even and odd points are summed separately (the first axis), to estimate the Monte-Carlo error from the difference.
    `paired` points are x + sigma * noise(key, i) and x - sigma * noise(key, i) in turn, and a pair is summed as a
    whole. `sigma` (N or 1, C or 1, H or 1, W or 1) is in pixels. Without terms the gradients themselves are summed, and
    the transpose of the network's stem is applied to the final sums.
    """
    fast = prepared(model, x, backward)
    sigma = sigma.expand(len(x), *sigma.shape[1:])
    late = fast.stem if not terms else None
    shape = x.shape[1:] if late is None else _hidden(late, x[:1]).shape[1:]
    totals = [x.new_zeros(2 * len(x), *shape) for _ in range(max(1, len(terms)))]

    def work(begin: int, end: int) -> None:
        row = torch.arange(begin, end, device=x.device)
        image, index = row // len(points), points.start + row % len(points)
        drawn = index // 2 if paired else index
        places = (divmod(k, len(points)) for k in range(begin, end))  # as `row`, whose values lie on the device
        numbers = ((n, points[k] // 2 if paired else points[k]) for n, k in places)
        offset = sigma[image] * torch.stack([noise(x, keys[n], i) for n, i in numbers])
        if paired:
            offset *= (1 - 2 * (index % 2)).view(-1, 1, 1, 1)
        slope = _slopes(fast, x[image] + offset, target[image], through_stem=late is None)
        half = drawn % 2 * len(x) + image
        for total, values in zip(totals, [term(offset, slope) for term in terms] or [slope], strict=True):
            total.index_add_(0, half, values)

    in_batches(len(x) * len(points), fast.rows(x), work)
    if late is not None:
        totals = [late.transpose(totals[0], x[:1])]
    return torch.stack([total.view(2, len(x), *x.shape[1:]) for total in totals], 1)


def noise(like: Tensor, key: Key, index: int) -> Tensor:
    """Return the standard normal draw (C, H, W) number `index` of the image `key`, the same in float32 and float64."""
    source = generator(key, "noise", index, device=like.device)
    return torch.randn(like.shape[1:], generator=source, device=like.device, dtype=torch.float32).to(like.dtype)


def _slopes(fast: FusedNetwork, points: Tensor, target: Tensor, through_stem: bool = True) -> Tensor:
    """Return gradients at `points` with respect to the points, or only to the stem's outputs."""
    return _values_and_slopes(fast, points, target, through_stem)[1]


def _values_and_slopes(
    fast: FusedNetwork, points: Tensor, target: Tensor, through_stem: bool = True
) -> tuple[Tensor, Tensor]:
    """Return logits (B,) of the targets at `points` beside the gradients of `_slopes`."""
    if fast.stem is None or fast.tail is None:
        return value_and_slope_of(fast.whole, points, target)
    value, hidden = value_and_slope_of(fast.tail, _hidden(fast.stem, points), target)
    return value, fast.stem.transpose(hidden, points) if through_stem else hidden


def _hidden(stem: Stem, points: Tensor) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = stem(points.contiguous(memory_format=torch.channels_last))
        return hidden


def slope_of(model: nn.Module, points: Tensor, target: Tensor) -> Tensor:
    """Return d logit[target] / d points in one batch, for points of any shape that `model` accepts."""
    return value_and_slope_of(model, points, target)[1]


def value_and_slope_of(model: nn.Module, points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logit[target] (B,) beside its gradient at `points`, which is NaN where the logit is not finite.

    A network that overflows may return a gradient there as if the logit were a constant.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        with current().autocast():
            outputs = model(points)
        if outputs.dim() != 2 or outputs.shape[0] != len(points):
            raise InputError(
                f"the model returns {tuple(outputs.shape)} for {len(points)} images", "it must return logits (N, K)"
            )
        slope = target_slope(outputs, target, points)
        value = outputs.detach().gather(1, target[:, None]).squeeze(1).to(points.dtype)
        return value, slope + 0 * value.view(-1, *[1] * (points.dim() - 1))


def target_slope(outputs: Tensor, target: Tensor, leaf: Tensor) -> Tensor:
    """Return d logit[target] / d leaf, for logits (N, K); raises `InputError` if they are cut off from it."""
    slope = None
    if outputs.requires_grad:
        (slope,) = torch.autograd.grad(outputs.gather(1, target[:, None]).sum(), leaf, allow_unused=True)
    if slope is None:
        raise InputError(
            "the network cuts its outputs off from the pixels, so that there is no gradient",
            "use `occlusion`, which needs none; or mend its forward, for example a `torch.no_grad` or `detach`",
        )
    return slope
