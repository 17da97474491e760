"""The call of every metric: with evidence, or with a network, images and maps that become it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args, overload

import numpy as np
from torch import Tensor, nn

from stochx.checked_entries import check_kind
from stochx.engine.arguments import Classes, Keys, check_arguments, check_keys, first_of
from stochx.engine.maps import Explainer, Maps, maps_of, masks_of
from stochx.engine.modes import plain_modes
from stochx.engine.parts import Parts
from stochx.errors import InputError, UsageError
from stochx.metrics import Evidence, Need, Score

if TYPE_CHECKING:
    from stochx.engine.seeds import Key

HINTS = {
    "model": "call it with a network, images and maps: `metric(model, x, map)`",
    "explain": "give the method that made the map: `explain=method`",
    "mask": "give `mask`, true on the object: (N, H, W)",
    "parts": "give `parts`, of each image, such as `data.item(0).parts()` of `shapes:parts=4`",
}
DECLARED = {
    "needs": "needs: ClassVar[frozenset[Need]] = frozenset()",
    "axis": 'axis: ClassVar[str] = ""',
    "higher_is_better": "higher_is_better: ClassVar[bool] = True",
    "reduction": 'reduction: ClassVar[str] = "channel sum"',
}


class CheckedCall:
    """First base of an entry: checks arguments before its formula, and passes on those of calls within stochx."""

    def __init_subclass__(cls) -> None:
        """Raise `InputError` for a metric that does not declare what all of them do."""
        for name, line in DECLARED.items():
            if not hasattr(cls, name):
                raise InputError(f"`{cls.__name__}` declares no `{name}`", f"write `{line}` in the class")
        needs, known = cls.needs, get_args(Need)  # type: ignore[attr-defined]
        if not isinstance(needs, frozenset | set) or not needs <= {*known}:
            raise InputError(f"`{cls.__name__}.needs` is `{needs!r:.60}`", "write a frozenset of " + ", ".join(known))

    @overload
    def __call__(self, evidence: Evidence, /) -> Score: ...

    @overload
    def __call__(
        self,
        model: nn.Module | None = None,
        x: Tensor | None = None,
        map: Maps | None = None,
        target: Classes | None = None,
        *,
        explain: Explainer | None = None,
        mask: Tensor | np.ndarray | None = None,
        parts: Parts | Sequence[Parts] | None = None,
        keys: Keys | None = None,
    ) -> Score: ...

    def __call__(
        self,
        model: nn.Module | Evidence | None = None,
        x: Tensor | None = None,
        map: Maps | None = None,
        target: Classes | None = None,
        *,
        explain: Explainer | None = None,
        mask: Tensor | np.ndarray | None = None,
        parts: Parts | Sequence[Parts] | None = None,
        keys: Keys | None = None,
    ) -> Score:
        """Score maps of images x (N, C, H, W) in [0, 1], or of one image (C, H, W), for the class `target`.

        `map` is an explanation, a tensor or an array (N, C, H, W), (N, 1, H, W), (N, H, W) or, of one image, (C, H, W)
        or (H, W); without it, `explain` makes it. `explain`, a method, `mask` (N, H, W) and `parts`, those of each
        image, are for metrics that need them; those that need no network take `map` alone. `target` and `keys` are as
        for a method. Raises `StochxError` for what cannot be used.
        """
        formula: Callable[[Evidence], object] = super().__call__  # type: ignore[misc]
        with plain_modes():
            if isinstance(model, Evidence):
                return _checked(self, formula(model), len(model.map))
            evidence, alone = _evidence(self, model, x, map, target, explain, mask, parts, keys)
            score = _checked(self, formula(evidence), len(evidence.map))
        return replace(first_of(score), places=score.places) if alone else score


def _evidence(
    metric: object,
    model: nn.Module | None,
    x: Tensor | None,
    map: Maps | None,
    target: Classes | None,
    explain: Explainer | None,
    mask: Tensor | np.ndarray | None,
    parts: Parts | Sequence[Parts] | None,
    keys: Keys | None,
) -> tuple[Evidence, bool]:
    """Return the evidence, and true if it is of a single image; raises `UsageError` for what the metric lacks."""
    name, whole = type(metric).__name__, model is not None and x is not None
    given: dict[Need, bool] = {
        "model": whole,
        "explain": explain is not None,
        "mask": mask is not None,
        "parts": parts is not None,
    }
    for need in get_args(Need):
        if need in metric.needs and not given[need]:  # type: ignore[attr-defined]
            what = "the network and the images" if need == "model" else f"`{need}`"
            raise UsageError(f"`{name}` needs {what}", HINTS[need])
    if map is None and not (whole and explain is not None):
        raise UsageError(f"`{name}` needs maps", "give `map`, or the method that makes them: `explain=method`")
    if model is None or x is None:
        assert map is not None
        maps, alone = maps_of(map)
        return Evidence(maps, check_keys(keys, len(maps), alone), mask=masks_of(mask, maps)), alone
    of = check_arguments(model, x, keys, pixels=True)
    classes = of.class_indices(target)
    again = None if explain is None else _again(explain, of.keys)
    if map is None:
        assert again is not None
        map = again(of.model, of.x, classes)
    maps, _ = maps_of(map, of.x, of.alone)
    each = [parts] if isinstance(parts, Parts) else parts
    if each is not None and len(each) != len(maps):
        raise InputError(f"there are {len(each)} `parts` for {len(maps)} maps", "give those of each image")
    return Evidence(maps, of.keys, of.x, classes, of.model, again, masks_of(mask, maps), each), of.alone


def _again(explain: Explainer, keys: Sequence[Key]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return the map of a method, with the same draws, for another network or other pixels."""
    by_key = "keys" in inspect.signature(explain).parameters

    def again(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        result: Any = explain(model, x, target, keys) if by_key else explain(model, x, target)  # type: ignore[call-arg]
        found: Tensor = getattr(result, "map", result)
        return found

    return again


def _checked(metric: object, result: object, count: int) -> Score:
    """Return the score of `count` maps; raises `InputError`, which names the metric, for anything else."""
    name, score = type(metric).__name__, check_kind(metric, result, Score)
    if score.value.shape != (count,):
        raise InputError(
            f"`{name}` returns {tuple(score.value.shape)} for {count} maps", "return one number per image, (N,)"
        )
    return score
