"""SmoothTaylor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attributions import Chosen, Explanation, Measure
from stochx.attributions._noise import noise_in_pixels, normalised, over_noise
from stochx.attributions._search import Best, Objective, climb, golden
from stochx.engine.seeds import Key
from stochx.errors import UsageError

LOWEST, HIGHEST = 1 / 20, 3.0  # how far the golden search looks, in mean absolute inputs


@dataclass(frozen=True)
class SmoothTaylor:
    """First-order Taylor terms averaged over roots drawn around x (Goh et al., 2020, eq. 9-10).

        mean_r (x - z_r) * gradient(z_r),  z_r = x + sigma * noise_r

    By Stein's lemma its expectation is -sigma^2 d^2f/dx_i^2 where f is smooth: the sign is curvature and no
    evidence, so maps are ranked by their absolute value. A root costs one gradient.

    With `noise=adaptive` (algorithm 1) each image gets the sigma at which `objective` is least, sought around the
    mean absolute input with the same roots at every sigma; the map that is returned comes from fresh ones.
    """

    examples: ClassVar[tuple[str, ...]] = ("roots=6",)  # settings that are tested

    sigma: float = 0.5  # distance of the roots (noise=fixed)
    roots: int = 150  # noisy roots of an image; with `error` the maximum
    unit: Literal["normalised", "range"] = "normalised"  # sigma is absolute, or a fraction of the image's range
    error: float = 0.0  # stop at this relative Monte-Carlo error; 0 takes all roots
    noise: Literal["fixed", "adaptive"] = "fixed"  # one sigma for all images, or the best for each
    objective: Literal["aupc", "autvc"] = "aupc"  # what the best sigma makes small (noise=adaptive)
    search: Literal["golden", "paper"] = "golden"  # how it is sought: 9 evaluations, or up to 41

    def __post_init__(self) -> None:
        if self.roots < 1:
            raise ValueError("roots must be at least 1")
        if self.sigma <= 0:
            raise ValueError("sigma must be positive")
        if not 0 <= self.error < 1:
            raise ValueError("error must lie in [0, 1)")
        if self.noise == "adaptive" and (self.error or self.unit != "normalised"):
            raise ValueError("noise=adaptive takes all roots, and seeks sigma in normalised units")

    @property
    def objective_metric(self) -> str:
        """The metric that a call needs as its `measure`; empty for none."""
        return self.objective if self.noise == "adaptive" else ""

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        target: Tensor,
        keys: Sequence[Key] | None = None,
        measure: Measure | None = None,
    ) -> Explanation:
        if self.noise == "adaptive":
            return self._adapted(model, x, target, keys if keys is not None else range(len(x)), measure)
        return self._at(model, x, target, keys, self.sigma)

    def _at(
        self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None, sigma: float | Tensor
    ) -> Explanation:
        distance = noise_in_pixels(model, x, sigma, self.unit)
        return over_noise(model, x, target, keys, sigma=distance, count=self.roots, error=self.error, terms=[_taylor])

    def _adapted(
        self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key], measure: Measure | None
    ) -> Explanation:
        if measure is None:
            raise UsageError(
                "adaptive noising needs a measure to make small",
                "`stochx.tasks.adaptive.bind_objective(method)` brings the one that `objective` names",
            )

        def objective(active: Tensor, sigma: Tensor) -> Tensor:
            names = [f"{keys[n]}/search" for n in active.tolist()]  # the same for every sigma
            found = self._at(model, x[active], target[active], names, sigma)
            return measure(model, x[active], target[active], found.map, names)

        start = normalised(model, x).abs().flatten(1).mean(1)
        best = SEARCHES[self.search](objective, start)
        fresh = self._at(model, x, target, keys, best.sigma)
        again = measure(model, x, target, fresh.map, keys)
        used = self.roots * (best.evaluations.cpu() + 1)
        return Explanation(fresh.map, fresh.error, used=used, chosen=Chosen(best.sigma, again, best.evaluations))


def _taylor(offset: Tensor, gradient: Tensor) -> Tensor:
    return -offset * gradient


SEARCHES: dict[str, Callable[[Objective, Tensor], Best]] = {
    "paper": climb,
    "golden": lambda objective, start: golden(objective, LOWEST * start, HIGHEST * start),
}
