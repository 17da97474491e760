"""Searches for the best noise of many images at once: one positive number per image, each on its own schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (images (A,), sigma (A,), round) -> value to minimise, (A,); all sigmas of a round share their draws
Objective = Callable[[Tensor, Tensor, int], Tensor]

MIDDLE = 2  # place of the start among five sigmas
VERTEX = 5  # place behind them, of the sigma between two of them
ROUNDS = 3


@dataclass
class Best:
    """The best `sigma` (N,) of each image so far, the objective there, and the number of evaluations.

    `noise` is the standard deviation of an evaluation, as far as sigmas do not share it. From `low` to `high` no sigma
    that was tried differs from the best by more than a standard error. They are NaN for searches that measure no noise.
    """

    objective: Objective
    sigma: Tensor
    value: Tensor
    evaluations: Tensor
    low: Tensor
    high: Tensor
    noise: Tensor

    @staticmethod
    def nothing(objective: Objective, start: Tensor) -> Best:
        """Return the state before the first evaluation; an image whose objective is never defined keeps `start`."""
        unknown, none = torch.full_like(start, torch.nan), torch.zeros_like(start).long()
        return Best(objective, start.clone(), torch.full_like(start, torch.inf), none, unknown, unknown, unknown)

    def evaluate(self, active: Tensor, sigma: Tensor) -> Tensor:
        """Evaluate the images `active` (A,) at `sigma` (A,) and update the best; undefined values become infinite."""
        if not len(active):
            return sigma
        value = self.objective(active, sigma, 0).to(sigma).nan_to_num(torch.inf, torch.inf, -torch.inf)
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


def race(objective: Objective, start: Tensor, ratio: float = 3.0) -> Best:
    """Leave `start` (N,) only for a sigma whose objective is lower by more than the noise of the difference.

    A round evaluates start / ratio, start and start * ratio on draws that the three share. The better neighbour of the
    first round challenges `start` in the second, whose draws are fresh. A lead below its standard error is played a
    third round; if it still is, `start` stays. Where a neighbour wins, the next sigma in its direction must beat it in
    the same way on the draws of all rounds. So must the vertex of the parabola in log sigma through the winner and its
    two neighbours, which is tried where it promises more than that standard error. Takes 6 to 15 evaluations per image.
    """
    values = _Values(objective, start, ratio)
    everyone = torch.arange(len(start), device=start.device)
    values.play(everyone, 0)
    values.play(everyone, 1)
    side = torch.where(values.table[1, 0] <= values.table[3, 0], 1, 3)
    lead, error = values.lead(side), values.error(first=1)
    values.play(everyone[(lead > 0) & (lead <= error)], 2)
    place = torch.where(values.lead(side) > values.error(first=1), side, MIDDLE)
    beyond, walking = 2 * place - MIDDLE, everyone[place != MIDDLE]
    values.replay(walking, beyond[walking])
    error = values.error()
    place = values.better(place, beyond, error)
    tried = everyone[values.put_vertex(place) > error]
    values.replay(tried, torch.full_like(tried, VERTEX))
    place = values.better(place, torch.full_like(place, VERTEX), error)
    means = values.means
    value = means[place, everyone]
    near = (means - value <= error).index_put((place, everyone), torch.tensor(True, device=start.device))
    known = values.rounds > 1
    return Best(
        objective,
        sigma=values.sigmas[place, everyone],
        value=value,
        evaluations=values.evaluations,
        low=values.sigmas.where(near, torch.inf).amin(0).where(known, torch.nan),
        high=values.sigmas.where(near, 0).amax(0).where(known, torch.nan),
        noise=values.noise().where(known, torch.nan),
    )


class _Values:
    """Values of the objective at five sigmas around `start`, and at one between: `table` (6, ROUNDS, N).

    They are NaN where there are none; so is the sigma between until there is one.
    """

    def __init__(self, objective: Objective, start: Tensor, ratio: float) -> None:
        self.objective = objective
        self.ratio = ratio
        around = start * ratio ** torch.arange(-MIDDLE, MIDDLE + 1).to(start)[:, None]
        self.sigmas = torch.cat([around, torch.full_like(start, torch.nan)[None]])
        self.table = start.new_full((len(self.sigmas), ROUNDS, len(start)), torch.nan)
        self.evaluations = torch.zeros_like(start).long()

    @property
    def rounds(self) -> Tensor:
        """The rounds (N,) with a value at `start`."""
        return self.table[MIDDLE].isfinite().sum(0)

    @property
    def means(self) -> Tensor:
        """The mean over rounds (6, N)."""
        return self.table.nanmean(1)

    def evaluate(self, active: Tensor, place: Tensor, r: int) -> None:
        """Evaluate the images `active` (A,) at sigma number `place` (A,) on the draws of round r."""
        if len(active):
            self.table[place, r, active] = self.objective(active, self.sigmas[place, active], r).to(self.table)
            self.evaluations[active] += 1

    def play(self, active: Tensor, r: int) -> None:
        """Evaluate the three sigmas in the middle in round r."""
        for place in (MIDDLE - 1, MIDDLE, MIDDLE + 1):
            self.evaluate(active, torch.full_like(active, place), r)

    def replay(self, active: Tensor, place: Tensor) -> None:
        """Evaluate the images `active` (A,) at sigma number `place` (A,) on the draws of all their rounds."""
        for r in range(ROUNDS):
            playing = self.rounds[active] > r
            self.evaluate(active[playing], place[playing], r)

    def better(self, place: Tensor, other: Tensor, error: Tensor) -> Tensor:
        """Return the sigma number `other` (N,) where its mean is lower than that of `place` by more than `error`."""
        first, second = (self.means.gather(0, each[None])[0] for each in (place, other))
        return torch.where(first - second > error, other, place)

    def put_vertex(self, place: Tensor) -> Tensor:
        """Put the vertex of the parabola in log sigma through `place` (N,) and its neighbours at its own place.

        Return by how much (N,) it lies below `place`; 0 where it is not between the neighbours.
        """
        inner = place.clamp(1, 2 * MIDDLE - 1)
        below, at, above = (self.means.gather(0, (inner + step)[None])[0] for step in (-1, 0, 1))
        bend = below - 2 * at + above
        step = (below - above) / (2 * bend)
        self.sigmas[VERTEX] = self.sigmas.gather(0, inner[None])[0] * self.ratio**step
        between = (place == inner) & (bend > 0) & (step.abs() < 1)
        return torch.where(between, bend * step.square() / 2, 0.0)

    def lead(self, place: Tensor) -> Tensor:
        """Return by how much sigma number `place` (N,) is lower than `start` in the mean of rounds after the first."""
        return (self.table[MIDDLE] - self.table.take_along_dim(place[None, None], 0)[0])[1:].nanmean(0)

    def noise(self) -> Tensor:
        """Return the standard deviation (N,) of a value once the means of its sigma and of its round are taken off."""
        played = self.table[MIDDLE - 1 : MIDDLE + 2]
        rest = played - played.nanmean(0) - played.nanmean(1, keepdim=True) + played.nanmean((0, 1))
        return (rest.square().nansum((0, 1)) / (2 * (self.rounds - 1))).sqrt()

    def error(self, first: int = 0) -> Tensor:
        """Return the standard error (N,) of the mean difference of two sigmas in the rounds from `first` on."""
        return self.noise() * (2 / (self.rounds - first)).sqrt()
