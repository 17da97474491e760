"""The call of every attribution: with checked arguments, in torch's plain modes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stochx.attributions import Explanation, is_signed
from stochx.catalog import ATTRIBUTIONS
from stochx.checked_entries import check_kind
from stochx.engine.arguments import Classes, Keys, are_ready, check_arguments, first_of
from stochx.engine.modes import is_inside, plain_modes
from stochx.errors import InputError

if TYPE_CHECKING:
    from stochx.attributions import Attribution


class CheckedCall:
    """First base of an entry: checks arguments before its formula, and passes on those of calls within stochx."""

    def __call__(
        self, model: nn.Module, x: Tensor, target: Classes | None = None, keys: Keys | None = None, **more: Any
    ) -> Explanation:
        """Explain the class `target` of images x (N, C, H, W) in [0, 1], or of one image (C, H, W).

        `target` is one class for all or one for each image; without it, what the network predicts. `keys`, one per
        image, seed its random draws; without them its place does. The map is shaped as x, or has one channel; it has
        the network's type. Raises `StochxError` for what cannot be used.
        """
        formula: Attribution = super().__call__  # type: ignore[misc]
        if is_inside() and are_ready(x, target):
            return _checked(self, formula(model, x, target, keys, **more), x)  # type: ignore[arg-type]
        with plain_modes():
            given = check_arguments(model, x, keys, pixels=False)
            classes = given.class_indices(target)
            explanation = _checked(self, formula(given.model, given.x, classes, given.keys, **more), given.x)
        return first_of(explanation) if given.alone else explanation


def _checked(method: Attribution, result: object, x: Tensor) -> Explanation:
    """Return the explanation of x (N, C, H, W); raises `InputError`, which names the method, for anything else."""
    name, explanation = type(method).__name__, check_kind(method, result, Explanation)
    shape, (count, channels, *sides) = tuple(explanation.map.shape), x.shape
    if shape not in {(count, channels, *sides), (count, 1, *sides)}:
        raise InputError(
            f"`{name}` returns a map {shape} for images {(count, channels, *sides)}", "return (N, C or 1, H, W)"
        )
    return replace(explanation, signed=is_signed(method), method=ATTRIBUTIONS.describe(method))
