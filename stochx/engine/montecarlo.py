"""Monte-Carlo means with error estimates and early stopping."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stochx.engine.device import as_float64

FIRST_LOOK, GROWTH = 16, 1.25
LARGEST_ERROR = 100.0


@dataclass(frozen=True)
class MonteCarlo:
    """A map (N, C, H, W), its relative standard error (N,), and the draws (N,) behind it."""

    map: Tensor
    error: Tensor
    used: Tensor


def mean(sums: Tensor, count: int) -> Tensor:
    """Return the mean (N, C, H, W) of the first term of sums (T, N, C, H, W)."""
    return sums[0] / count


def monte_carlo(
    draw: Callable[[Tensor, range], Tensor],
    images: int,
    count: int,
    goal: float = 0.0,
    finish: Callable[[Tensor, int], Tensor] = mean,
    group: int = 1,
    fewest: int = 1,
) -> MonteCarlo:
    """Sum draws 0..count of all images; an image stops early once its estimated error is at most `goal`.

    `draw(active, indices)` returns the sums of draws `indices` for the images `active` (A,), separately for even and
    odd draws, or groups of `group` draws that belong together: (2, T, A, C, H, W). `finish(sums, count)` turns T sums
    over `count` draws, `fewest` at least, into the map.
    """
    active = torch.arange(images)
    first = next(rounds := iter(_rounds(count, goal)))
    sums = draw(active, first)
    maps = torch.empty_like(sums[0, 0])
    error, used = torch.full((images,), torch.nan), torch.zeros(images, dtype=torch.long)
    done = first.stop
    while True:
        maps[active] = finish(sums.sum(0), done)
        error[active] = split_half_error(sums, done, finish, group, fewest).to(error)
        used[active] = done
        following = next(rounds, None)
        going = error[active] > goal
        if following is None or not going.any():
            return MonteCarlo(maps, error, used)
        active, sums = active[going], sums[:, :, going]
        sums += draw(active, following)
        done = following.stop


def _rounds(count: int, goal: float) -> list[range]:
    """Return 0..count as one range, or split at the checks for an early stop: after 16 draws, then every 25 % more."""
    edges = [0]
    while goal and edges[-1] < count:
        edges.append(min(count, max(FIRST_LOOK, 2 * round(edges[-1] * GROWTH / 2))))
    return [range(a, b) for a, b in itertools.pairwise(edges)] or [range(count)]


def split_half_error(
    sums: Tensor,
    count: int,
    finish: Callable[[Tensor, int], Tensor] = mean,
    group: int = 1,
    fewest: int = 1,
) -> Tensor:
    """Return the relative standard error (N,) of the channel-summed map of each image, from its two halves.

    The maps a, b of the even and the odd draws, or groups of draws, are independent: |a - b|^2 estimates the variance,
    and <a, b> the squared norm of the true map without that variance, so the ratio also holds for large errors:

        error^2 = |a - b|^2 (n_a n_b / n^2) / <a, b>

    It is NaN where a half has less than `fewest` draws, and at most 100, which is also the value for uncorrelated
    halves.
    """
    odd = count // (2 * group) * group + max(0, count % (2 * group) - group)
    even = count - odd
    if odd < fewest:
        return torch.full((sums.shape[2],), torch.nan)
    a, b = (as_float64(finish(half, n).sum(1).flatten(1)) for half, n in ((sums[0], even), (sums[1], odd)))
    variance = (a - b).square().sum(1) * (even * odd / count**2)
    signal = (a * b).sum(1).clamp(min=0)
    ratio = (variance / signal.clamp(min=torch.finfo(torch.double).tiny)).sqrt().clamp(max=LARGEST_ERROR)
    return torch.where(variance == 0, 0.0, ratio).to(sums)
