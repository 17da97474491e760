"""Integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.attributions._noise import uniform_image
from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import along, scores
from stochx.engine.montecarlo import monte_carlo
from stochx.engine.seeds import Key

Rule = Literal["midpoint", "right", "left", "trapezoid", "gauss-legendre"]


@dataclass(frozen=True)
class IntegratedGradients:
    """The path integral of the gradient from a baseline to x (Sundararajan et al., 2017).

        (x - b) * integral_0^1 gradient(b + t (x - b)) dt

    Complete: the map sums to f(x) - f(b) up to the quadrature error, which `gap` reports. The baseline `noise` averages
    `draws` maps from images of uniform noise, as in Goh et al. (2020). With `backward=balanced` there is no `gap`: such
    gradients are those of no function, whose path integral would be a difference of its values. `fullgrad` shows that
    they are complete.
    """

    examples: ClassVar[tuple[str, ...]] = ("steps=6",)  # settings that are tested
    sampled: ClassVar[str] = "draws"  # key that lowers the Monte-Carlo error
    remedy: ClassVar[str] = "use more `steps`, or `rule=gauss-legendre`"  # what makes a map more complete

    steps: int = 50  # quadrature nodes, one gradient each
    baseline: Literal["black", "white", "mean", "blur", "noise"] = "black"  # baseline image, without evidence
    draws: int = 1  # noise baselines to average (baseline=noise)
    rule: Literal["midpoint", "right", "left", "trapezoid", "gauss-legendre"] = "midpoint"  # quadrature rule
    error: float = 0.0  # stop drawing baselines at this relative Monte-Carlo error; 0 uses all draws
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.draws < 1:
            raise ValueError("steps and draws must be at least 1")
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError("the trapezoid rule needs at least 2 steps")
        if self.draws > 1 and self.baseline != "noise":
            raise ValueError("draws above 1 need baseline=noise")
        if not 0 <= self.error < 1:
            raise ValueError("error must lie in [0, 1)")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        if self.baseline != "noise":
            start = BASELINES[self.baseline](x)
            relevance = self._integrate(model, x, start, target)
            expected = scores(model, x, target) - scores(model, start, target)
            return Explanation(relevance, gap=self._gap(relevance, expected), used=self._used(len(x)))

        names = keys if keys is not None else range(len(x))
        reference = torch.zeros_like(target, dtype=x.dtype)

        def draw(active: Tensor, indices: range) -> Tensor:
            sums = x.new_zeros(2, 1, len(active), *x.shape[1:])
            for i in indices:
                start = torch.stack([uniform_image(x, names[n], i) for n in active.tolist()])
                sums[i % 2, 0] += self._integrate(model, x[active], start, target[active])
                reference[active] += scores(model, start, target[active])
            return sums

        estimate = monte_carlo(draw, len(x), self.draws, self.error)
        expected = scores(model, x, target) - reference / estimate.used.to(x)
        gap = self._gap(estimate.map, expected)
        return Explanation(estimate.map, estimate.error, gap, estimate.used.cpu() * self.steps)

    def _integrate(self, model: nn.Module, x: Tensor, start: Tensor, target: Tensor) -> Tensor:
        nodes, weights = quadrature(self.rule, self.steps)
        return (x - start) * along(model, x, start, target, nodes, weights, self.backward)

    def _gap(self, relevance: Tensor, expected: Tensor) -> Tensor | None:
        return relevance.flatten(1).sum(1) - expected if self.backward == "plain" else None

    def _used(self, images: int) -> Tensor:
        return torch.full((images,), self.steps)


def quadrature(rule: Rule, steps: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights (steps,) of a rule on [0, 1]."""
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    place = torch.arange(steps, dtype=torch.float64)
    even = torch.full((steps,), 1 / steps, dtype=torch.float64)
    if rule == "trapezoid":
        ends = torch.where((place == 0) | (place == steps - 1), 0.5, 1.0)
        return place / (steps - 1), ends.double() / (steps - 1)
    return (place + {"midpoint": 0.5, "right": 1.0, "left": 0.0}[rule]) / steps, even
