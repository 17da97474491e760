"""The whole batch of a training step, of which each rank has a part: sums over it, its batch norms, its gradient.

    with shared_by(world):
        loss(model(part))

Then statistics over a batch are those of one process, and gradients flow through them into every rank's part. Every
rank must take the same such sums in the same order.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from stochx.engine.world import World, sum_over_ranks

_ranks, _copies = 1, 1  # that share the batch, and that have the same part of it


@contextlib.contextmanager
def shared_by(world: World, copies: int = 1) -> Iterator[None]:
    """In the block, the ranks of `world` compute their parts of one batch at the same time; `copies` have the same."""
    global _ranks, _copies
    before, (_ranks, _copies) = (_ranks, _copies), (world.size, copies)
    try:
        with _WholeNorms() if before[0] == 1 < _ranks else contextlib.nullcontext():
            yield
    finally:
        _ranks, _copies = before


def is_shared() -> bool:
    """Return true where other ranks have further parts of the batch."""
    return _ranks > 1


def whole_sum(mine: Tensor) -> Tensor:
    """Return the sum over ranks."""
    total: Tensor = _Sum.apply(mine) if is_shared() else mine
    return total


def whole_mean(z: Tensor, dims: list[int]) -> Tensor:
    """Return the mean of z (N, ...) over `dims`, which include the images of the whole batch; they become 1."""
    return _mean(z, dims)[0] if is_shared() else z.mean(dims, keepdim=True)


def whole_variance(z: Tensor, dims: list[int]) -> Tensor:
    """Return the biased variance likewise."""
    return _moments(z, dims)[1] if is_shared() else z.var(dims, correction=0, keepdim=True)


def sum_gradients(optimizer: torch.optim.Optimizer, losses: Sequence[Tensor], world: World) -> float:
    """Sum gradients over ranks in place, and return the loss of the whole batch."""
    if world.size == 1:
        return float(sum(losses))
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    loss = sum(losses, weights[0].new_zeros(()))
    reached = weights[0].new_tensor([float(p.grad is not None) for p in weights])
    gradients = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in weights]
    flat = torch.cat([*gradients, reached, loss[None].to(weights[0])])
    sum_over_ranks(flat)
    *summed, reached, loss = torch.split(flat, [*(p.numel() for p in weights), len(weights), 1])
    for p, gradient, ranks in zip(weights, summed, reached.tolist(), strict=True):
        p.grad = torch.empty_like(p).copy_(gradient.view_as(p)) if ranks else None  # decay spares what no loss reaches
    return float(loss)


def has_finite_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Return true if no gradient holds NaN or infinity."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in weights if p.grad is not None and p.grad.numel()]
    return bool(torch.nn.utils.get_total_norm(gradients, math.inf).isfinite())


def share_buffers(model: nn.Module, world: World) -> None:
    """Average running statistics over ranks."""
    if world.size > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                sum_over_ranks(buffer)
                buffer /= world.size


class _Sum(torch.autograd.Function):
    """The sum over ranks; what any of them makes of it counts in the gradient."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.contiguous().clone()
        sum_over_ranks(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradients[0])
        return total


def _mean(z: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Return the mean over `dims` and ranks, and of how many values."""
    sums = z.sum(dims, keepdim=True)
    total = whole_sum(torch.cat([sums.flatten(), sums.new_tensor([z.numel() // sums.numel()])]))
    return (total[:-1] / total[-1]).view_as(sums), total[-1].detach() / _copies


def _moments(z: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance, and the number of values, over `dims` and ranks."""
    mean, count = _mean(z, dims)
    return mean, _mean((z - mean).square(), dims)[0], count


class _WholeNorms(TorchFunctionMode):
    """Batch norms of whatever module by the statistics of the whole batch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is F.batch_norm and is_shared() else func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return what `F.batch_norm` does."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    z = input.to(torch.promote_types(input.dtype, torch.float32))
    mean, var, count = _moments(z, [0, *range(2, z.dim())])
    if running_mean is not None and running_var is not None:
        unbiased = var * (count / (count - 1))
        with torch.no_grad():
            running_mean.lerp_(mean.flatten().to(running_mean), momentum)
            running_var.lerp_(unbiased.flatten().to(running_var), momentum)
    scale = (var + eps).rsqrt()
    scale = scale if weight is None else scale * weight.view_as(scale)
    out = (z - mean) * scale
    return (out if bias is None else out + bias.view_as(scale)).to(input.dtype)
