"""The best noise for every image at once: searches over one positive number an image, each in its own tempo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]  # (images (A,), sigma (A,)) -> what is to become small, (A,)

INVERSE_GOLDEN = 0.5 * (5**0.5 - 1)


@dataclass
class Best:
    """The best `sigma` of each image so far (N,), the objective there, and how often it was asked for."""

    objective: Objective
    sigma: Tensor
    value: Tensor
    evaluations: Tensor

    @staticmethod
    def nothing(objective: Objective, start: Tensor) -> Best:
        """Before the first evaluation; an image whose objective is never defined keeps `start`."""
        return Best(objective, start.clone(), torch.full_like(start, torch.inf), torch.zeros_like(start).long())

    def evaluate(self, active: Tensor, sigma: Tensor) -> Tensor:
        """The objective of the images `active` (A,) at `sigma` (A,), undefined values infinite; the best is kept."""
        if not len(active):
            return sigma
        value = self.objective(active, sigma).to(sigma).nan_to_num(torch.inf, torch.inf, -torch.inf)
        self.evaluations[active] += 1
        better = value < self.value[active]
        self.sigma[active[better]], self.value[active[better]] = sigma[better], value[better]
        return value


def climb(
    objective: Objective,
    start: Tensor,
    step: float = 0.1,
    decay: float = 0.9,
    patience: int = 3,
    iterations: int = 20,
) -> Best:
    """Iterative search of Goh et al. (2020), algorithm 1, from `start` (N,): a step up, or where that is worse, down.

    It moves also to a worse point; then the step shrinks by `decay`. An image stops at the failure after `patience`
    failures in a row, as in the authors' code; their text stops one later.
    """
    best = Best.nothing(objective, start)
    active = torch.arange(len(start), device=start.device)
    sigma, steps = start.clone(), torch.full_like(start, step)
    failures = torch.zeros_like(active)
    value = best.evaluate(active, sigma)
    for _ in range(iterations):
        if not len(active):
            break
        up = (sigma[active] + steps[active]).abs()
        found, moved = best.evaluate(active, up), up.clone()
        worse = found > value[active]
        moved[worse] = (sigma[active[worse]] - steps[active[worse]]).abs()
        found[worse] = best.evaluate(active[worse], moved[worse])
        failed = found > value[active]
        stopping = failed & (failures[active] >= patience)
        failures[active] = torch.where(failed, failures[active] + 1, 0)
        steps[active[failed]] *= decay
        sigma[active], value[active] = moved, found
        active = active[~stopping]
    return best


def golden(objective: Objective, low: Tensor, high: Tensor, grid: int = 6, sections: int = 3) -> Best:
    """A look at `grid` places from `low` to `high` (N,), evenly spaced in their logarithm, then golden sections.

    The sections narrow the stretch between the neighbours of the best place, so that one of several valleys is
    enough, and the objective needs no slope. `grid + sections` evaluations an image.
    """
    best = Best.nothing(objective, (low * high).sqrt())
    everyone = torch.arange(len(low), device=low.device)
    left, right = low.log(), high.log()
    share = torch.linspace(0, 1, grid, dtype=low.dtype, device=low.device)
    places = torch.lerp(left[None], right[None], share[:, None])
    values = torch.stack([best.evaluate(everyone, place.exp()) for place in places])
    middle = values.argmin(0)
    a = places.gather(0, (middle - 1).clamp(min=0)[None])[0]
    b = places.gather(0, (middle + 1).clamp(max=grid - 1)[None])[0]
    inner = [torch.lerp(b, a, INVERSE_GOLDEN), torch.lerp(a, b, INVERSE_GOLDEN)]
    heights = [best.evaluate(everyone, point.exp()) for point in inner[: min(2, sections)]]
    for _ in range(sections - 2):
        lower = heights[0] <= heights[1]  # the minimum lies left of the right point
        a, b = torch.where(lower, a, inner[0]), torch.where(lower, inner[1], b)
        kept, height = torch.where(lower, inner[0], inner[1]), torch.where(lower, heights[0], heights[1])
        fresh = a + b - kept
        found = best.evaluate(everyone, fresh.exp())
        inner = [torch.where(lower, fresh, kept), torch.where(lower, kept, fresh)]
        heights = [torch.where(lower, found, height), torch.where(lower, height, found)]
    return best
