"""The values of a metric by image, with the reasons where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from stochx.engine.device import as_float64
from stochx.metrics import Score


@dataclass(frozen=True)
class Value:
    """A metric of a map: its `value`, None if undefined, for the reason `why`, and the curve behind it."""

    value: float | None
    why: str = ""
    curve: Sequence[float] = ()
    places: Sequence[float] = ()
    setting: str = ""
    seconds: float = 0.0


def unfit_maps(relevance: Tensor, x: Tensor | None = None) -> dict[int, str]:
    """Return the images of a batch whose maps cannot be scored, with reasons."""
    flat = relevance.sum(1).flatten(1)
    why = dict.fromkeys((flat.amax(1) == flat.amin(1)).nonzero().flatten().tolist(), "the map is constant")
    why |= dict.fromkeys((~flat.isfinite().all(1)).nonzero().flatten().tolist(), "the map is not finite")
    if x is not None:
        same = (x.flatten(2).amax(2) == x.flatten(2).amin(2)).all(1)
        why |= dict.fromkeys(same.nonzero().flatten().tolist(), "the image is constant")
    return why


def as_values(result: Score, unfit: Mapping[int, str], seconds: float) -> list[Value]:
    """Return a metric's result per image, without number and curve where there is a reason against it."""
    places, values = [] if result.places is None else result.places.tolist(), []
    for n, value in enumerate(as_float64(result.value).tolist()):
        why = unfit.get(n) or result.why.get(n) or ("" if math.isfinite(value) else "not finite")
        curve = [] if why or result.curve is None else [round(v, 6) for v in result.curve[n].tolist()]
        values.append(
            Value(
                value=None if why else value,
                why=why,
                curve=curve,
                places=places if curve else [],
                setting=result.setting,
                seconds=seconds,
            )
        )
    return values
