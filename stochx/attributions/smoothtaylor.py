"""SmoothTaylor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attributions import Chosen, Explanation, Measure
from stochx.attributions._noise import noise_in_pixels, normalised, over_noise
from stochx.attributions._search import climb, race
from stochx.engine.seeds import Key
from stochx.errors import UsageError

SEARCH_ROOTS = 150  # roots for each sigma of a search, as in the paper


@dataclass(frozen=True)
class SmoothTaylor:
    """First-order Taylor terms averaged over roots drawn around x (Goh et al., 2020, eq. 9-10).

        mean_r (x - z_r) * gradient(z_r),  z_r = x + sigma * noise_r

    It is computed as the covariance of offset and gradient, R / (R - 1) * (mean_r of the product - product of the
    means), which has the same expectation, since that of x - z_r is 0, and less noise: on a linear network it is 0.
    By Stein's lemma the expectation is -sigma^2 d^2f/dx_i^2 where f is smooth: the sign reflects curvature, not
    evidence, so maps are ranked by their absolute value. Each root costs one gradient. The paper's code takes 150 roots
    of sigma 0.5: on photos the error of such maps is often as large as the maps.

    With `noise=adaptive` each image gets the sigma that minimises `objective`, an average over few roots, 150 at most,
    and so a noisy value. `search=race` measures that noise: it compares `sigma` with a third and three times of it in
    rounds of fresh roots, and leaves it only for a sigma that is better by more than the standard error; where a valley
    shows through the noise, it tries the lowest point of a parabola too. The choice is reported with the sigmas that
    are as good. `search=paper` is algorithm 1, from the mean absolute input, which knows no noise. The returned map
    uses fresh roots. The search for the best AUPC tries the same few `patches` for every sigma, since the roots decide
    more than the patches do (benchmarks/adaptive.py compares). The value that is reported is that of the full metric.
    """

    examples: ClassVar[tuple[str, ...]] = ("roots=6",)  # settings that are tested
    signed: ClassVar[bool] = False  # the sign of a map is no evidence for or against the class
    sampled: ClassVar[str] = "roots"  # key that lowers the Monte-Carlo error

    sigma: float = 0.3  # standard deviation of the roots; where search=race starts
    roots: int = 400  # roots per image; the maximum if `error` is set
    unit: Literal["normalised", "range"] = "normalised"  # unit of sigma: absolute, or a fraction of the image's range
    error: float = 0.0  # stop at this relative Monte-Carlo error; 0 uses all roots
    noise: Literal["fixed", "adaptive"] = "fixed"  # one sigma for all images, or the best sigma for each
    objective: Literal["aupc", "autvc"] = "aupc"  # metric that the best sigma minimises (noise=adaptive)
    search: Literal["race", "paper"] = "race"  # search for sigma: 6 to 15 evaluations, or up to 41 (noise=adaptive)
    patches: int = 3  # random patches per region in the search for the best AUPC; the paper's are 50
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __post_init__(self) -> None:
        if self.roots < 2 or self.patches < 1:
            raise ValueError("roots must be at least 2, and patches 1")
        if self.sigma <= 0:
            raise ValueError("sigma must be positive")
        if not 0 <= self.error < 1:
            raise ValueError("error must lie in [0, 1)")
        if self.noise == "adaptive" and (self.error or self.unit != "normalised"):
            raise ValueError("noise=adaptive needs error=0 and unit=normalised")

    @property
    def objective_metric(self) -> str:
        """Name of the metric that a call needs as its `measure`; empty for none."""
        return self.objective if self.noise == "adaptive" else ""

    @property
    def search_metric(self) -> str:
        """The cheaper form of the metric that the search minimises, a call's `rough`; empty for none."""
        few = f":draws={self.patches}" if self.objective_metric == "aupc" else ""
        return self.objective_metric + few

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        target: Tensor,
        keys: Sequence[Key] | None = None,
        *,
        measure: Measure | None = None,
        rough: Measure | None = None,
    ) -> Explanation:
        if self.noise == "adaptive":
            return self._adapted(model, x, target, keys if keys is not None else range(len(x)), measure, rough)
        return self._at(model, x, target, keys, self.sigma)

    def _at(
        self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None, sigma: float | Tensor
    ) -> Explanation:
        distance = noise_in_pixels(model, x, sigma, self.unit)
        return over_noise(
            model,
            x,
            target,
            keys,
            sigma=distance,
            count=self.roots,
            error=self.error,
            terms=[_taylor, _offset, _slope],
            finish=_covariance,
            fewest=2,
            backward=self.backward,
        )

    def _adapted(
        self,
        model: nn.Module,
        x: Tensor,
        target: Tensor,
        keys: Sequence[Key],
        measure: Measure | None,
        rough: Measure | None,
    ) -> Explanation:
        """Return the map at the sigma that minimises `rough`, by default `measure`, which judges the map."""
        if measure is None:
            raise UsageError(
                "adaptive noising needs a measure to minimise",
                "pass `stochx.tasks.adaptive.bind_objective(method)`, which binds the metric named by `objective`",
            )

        search, few = rough or measure, replace(self, roots=min(self.roots, SEARCH_ROOTS))

        def objective(active: Tensor, sigma: Tensor, r: int) -> Tensor:
            names = [f"{keys[n]}/search/{r}" for n in active.tolist()]  # the same for every sigma of a round
            explanation = few._at(model, x[active], target[active], names, sigma)
            return search(model, x[active], target[active], explanation.map, names)

        start = normalised(model, x).abs().flatten(1).mean(1)
        best = (
            climb(objective, start)
            if self.search == "paper"
            else race(objective, start.new_full(start.shape, self.sigma))
        )
        fresh = self._at(model, x, target, keys, best.sigma)
        again = measure(model, x, target, fresh.map, keys)
        used = few.roots * best.evaluations.cpu() + self.roots
        chosen = Chosen(best.sigma, again, best.evaluations, best.low, best.high, best.noise)
        return Explanation(fresh.map, fresh.error, used=used, chosen=chosen)


def _taylor(offset: Tensor, gradient: Tensor) -> Tensor:
    return -offset * gradient


def _offset(offset: Tensor, gradient: Tensor) -> Tensor:
    return -offset


def _slope(offset: Tensor, gradient: Tensor) -> Tensor:
    return gradient


def _covariance(sums: Tensor, count: int) -> Tensor:
    product, offset, slope = sums / count
    covariance: Tensor = (product - offset * slope) * (count / (count - 1))
    return covariance
