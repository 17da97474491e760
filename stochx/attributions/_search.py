"""Searches for the best noise of many images at once: one positive number per image, each on its own schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]  # (images (A,), sigma (A,)) -> value to minimise, (A,)

INVERSE_GOLDEN = 0.5 * (5**0.5 - 1)


@dataclass
class Best:
    """The best `sigma` (N,) of each image so far, the objective there, and the number of evaluations."""

    objective: Objective
    sigma: Tensor
    value: Tensor
    evaluations: Tensor

    @staticmethod
    def nothing(objective: Objective, start: Tensor) -> Best:
        """Return the state before the first evaluation; an image whose objective is never defined keeps `start`."""
        return Best(objective, start.clone(), torch.full_like(start, torch.inf), torch.zeros_like(start).long())

    def evaluate(self, active: Tensor, sigma: Tensor) -> Tensor:
        """Evaluate the images `active` (A,) at `sigma` (A,) and update the best; undefined values become infinite."""
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
    """Search iteratively from `start` (N,): one step up, or down where that is worse (Goh et al., 2020, algorithm 1).

    It also moves to a worse point; the step then shrinks by `decay`. An image stops at the failure that follows
    `patience` consecutive ones, as in the authors' code; their text stops one later.
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
        values, moved = best.evaluate(active, up), up.clone()
        worse = values > value[active]
        moved[worse] = (sigma[active[worse]] - steps[active[worse]]).abs()
        values[worse] = best.evaluate(active[worse], moved[worse])
        failed = values > value[active]
        stopping = failed & (failures[active] >= patience)
        failures[active] = torch.where(failed, failures[active] + 1, 0)
        steps[active[failed]] *= decay
        sigma[active], value[active] = moved, values
        active = active[~stopping]
    return best


def golden(objective: Objective, low: Tensor, high: Tensor, grid: int = 6, sections: int = 3) -> Best:
    """Search a logarithmic grid from `low` to `high` (N,), then narrow the best interval by golden sections.

    The sections start between the neighbours of the best grid point, so the objective may have several minima and needs
    no gradient. Takes `grid + sections` evaluations per image.
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
        inside, height = torch.where(lower, inner[0], inner[1]), torch.where(lower, heights[0], heights[1])
        fresh = a + b - inside
        value = best.evaluate(everyone, fresh.exp())
        inner = [torch.where(lower, fresh, inside), torch.where(lower, inside, fresh)]
        heights = [torch.where(lower, value, height), torch.where(lower, height, value)]
    return best
