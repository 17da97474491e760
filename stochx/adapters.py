"""Methods of stochx in the shapes of other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, overload

from torch import Tensor, nn

from stochx.attributions import Attribution, Explanation
from stochx.catalog import ATTRIBUTIONS
from stochx.engine.arguments import Classes, check_arguments
from stochx.engine.modes import plain_modes
from stochx.errors import InputError, UsageError

PERTURBATION = 0.5  # of pixels in [0, 1], at most; normalised images are further out
Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...])


class CaptumAttribution:
    """A method as an attribution of Captum: `CaptumAttribution(model, "ig:steps=50").attribute(x, target=3)`.

    It goes where Captum takes one or its `attribute`, e.g. `captum.metrics.sensitivity_max(method.attribute, x)`.
    `method` is a spec, or an entry of `stochx.attributions`.
    """

    def __init__(self, forward_func: nn.Module, method: str | Attribution) -> None:
        self.forward_func = forward_func
        self.method = ATTRIBUTIONS.make(method) if isinstance(method, str) else method

    @overload
    def attribute(
        self, inputs: Inputs, target: Classes | None = None, *, return_convergence_delta: Literal[False] = False
    ) -> Inputs: ...

    @overload
    def attribute(
        self, inputs: Inputs, target: Classes | None = None, *, return_convergence_delta: Literal[True]
    ) -> tuple[Inputs, Tensor]: ...

    def attribute(
        self, inputs: Inputs, target: Classes | None = None, *, return_convergence_delta: bool = False
    ) -> Inputs | tuple[Inputs, Tensor]:
        """Return attributions shaped as the images (N, C, H, W) in [0, 1]; for images in a tuple, a tuple.

        A map without channels is spread evenly over them, which keeps its sum. The convergence delta (N,) is the gap.
        `target` is one class for all or one for each image; without it, what the network predicts.
        """
        x = inputs if isinstance(inputs, Tensor) else _only(inputs)
        explanation = self._explain(x, target)
        attributions = (explanation.map / (x.shape[-3] // explanation.map.shape[-3])).expand_as(x)
        result = attributions if isinstance(inputs, Tensor) else (attributions,)
        if not return_convergence_delta:
            return result
        if explanation.gap is None:
            raise UsageError(f"`{explanation.method}` has no convergence delta", "its maps claim no completeness")
        return result, explanation.gap

    def _explain(self, x: Tensor, target: Classes | None) -> Explanation:
        """Explain images, also perturbed ones, whose pixels leave [0, 1] a little."""
        inside = x.clamp(0, 1)
        if not 0 < float((x - inside).abs().max()) <= PERTURBATION:
            return self.method(self.forward_func, x, target)  # type: ignore[arg-type]  # its call takes these too
        with plain_modes():
            given = check_arguments(self.forward_func, inside, None, pixels=False)
            return self.method(given.model, x.to(given.x), given.class_indices(target), given.keys)


def _only(inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) != 1:
        raise InputError(f"there are {len(inputs)} inputs", "give the images as one tensor")
    return inputs[0]
