"""Expected gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.attributions._noise import uniform_image
from stochx.engine.gradients import scores, visit
from stochx.engine.montecarlo import monte_carlo
from stochx.engine.seeds import Key, generator
from stochx.errors import InputError, UsageError

CHUNK = 64  # baselines in memory at once
Start = Callable[[int, int], Tensor]  # (image, draw) -> baseline (C, H, W)
STRIDE = 0.5 * (5**0.5 - 1)  # multiples of the golden ratio fill [0, 1) evenly, however many they are


@dataclass(frozen=True)
class ExpectedGradients:
    """Integrated gradients averaged over many baselines, one gradient each (Erion et al., 2021).

        E_b,t (x - b) * gradient(b + t (x - b)),  b a training image, t uniform on [0, 1]

    Complete in the mean: the map sums to f(x) - E f(b). Baselines are images of `data`, in a random order for each
    image, or uniform noise. Places t are evenly spread, shifted at random: one sequence for even draws and one for odd
    ones, whose maps are independent. It is GradientSHAP without its noise on x.
    """

    examples: ClassVar[tuple[str, ...]] = ("draws=6",)  # settings that are tested
    sampled: ClassVar[str] = "draws"  # key that lowers the Monte-Carlo error
    remedy: ClassVar[str] = "use more `draws`"  # what makes a map more complete

    draws: int = 200  # baselines and places on the way, one gradient each; the maximum if `error` is set
    data: str = ""  # data set or folder whose training images are baselines, 100 at most; empty for uniform noise
    error: float = 0.0  # stop at this relative Monte-Carlo error; 0 uses all draws
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be at least 1")
        if not 0 <= self.error < 1:
            raise ValueError("error must lie in [0, 1)")

    @property
    def baseline_data(self) -> str:
        """The data set whose images a call needs as its `baselines`; empty for none."""
        return self.data

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        target: Tensor,
        keys: Sequence[Key] | None = None,
        *,
        baselines: Tensor | None = None,
    ) -> Explanation:
        names = list(keys) if keys is not None else list(range(len(x)))
        start = self._starts(x, names, baselines)
        shift = torch.stack([torch.rand(2, generator=generator(key, "places"), dtype=torch.float64) for key in names])
        reference = torch.zeros_like(target, dtype=x.dtype)

        def draw(active: Tensor, draws: range) -> Tensor:
            images, mine, sums = active.tolist(), x[active], x.new_zeros(2 * len(active), *x.shape[1:])

            def where(image: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
                places = [(images[n], draws[i]) for n, i in zip(image.tolist(), k.tolist(), strict=True)]
                begin = torch.stack([start(n, i) for n, i in places])
                share = x.new_tensor([(float(shift[n, i % 2]) + i // 2 * STRIDE) % 1 for n, i in places])
                return torch.lerp(begin, mine[image], share.view(-1, 1, 1, 1)), mine[image] - begin

            def take(image: Tensor, k: Tensor, steps: Tensor, gradient: Tensor, logit: Tensor) -> None:
                sums.index_add_(0, (draws.start + k) % 2 * len(active) + image, steps * gradient)

            visit(model, mine, target[active], len(draws), where, take, self.backward)
            pairs = [(n, i) for n in images for i in draws] if self.backward == "plain" else []
            for begin in range(0, len(pairs), CHUNK):
                part = pairs[begin : begin + CHUNK]
                image = active.new_tensor([n for n, _ in part])
                values = scores(model, torch.stack([start(n, i) for n, i in part]), target[image])
                reference.index_add_(0, image.to(x.device), values)
            return sums.view(2, 1, len(active), *x.shape[1:])

        estimate = monte_carlo(draw, len(x), self.draws, self.error)
        gap = None
        if self.backward == "plain":
            expected = scores(model, x, target) - reference / estimate.used.to(x)
            gap = estimate.map.flatten(1).sum(1) - expected
        return Explanation(estimate.map, estimate.error, gap, estimate.used)

    def _starts(self, x: Tensor, names: Sequence[Key], baselines: Tensor | None) -> Start:
        """Return the baseline of each draw: all `baselines` in an order of its own for even and for odd draws."""
        if baselines is None:
            if self.data:
                raise UsageError(
                    "expected gradients need the images of `data`",
                    "pass them as `baselines`, (M, C, H, W), or `stochx.tasks.adaptive.bind_baselines(method, model)`",
                )
            return lambda n, i: uniform_image(x, names[n], i)
        if not len(baselines) or baselines.shape[1:] != x.shape[1:]:
            raise InputError(
                f"`baselines` are {tuple(baselines.shape)} for images {tuple(x.shape)}",
                "give (M, C, H, W), of their size",
            )
        given = baselines.to(x)
        orders = [[torch.randperm(len(given), generator=generator(k, "order", half)) for half in (0, 1)] for k in names]
        return lambda n, i: given[orders[n][i % 2][i // 2 % len(given)]]
