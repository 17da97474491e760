"""Texts that stand for numbers: radii such as 8/255, channels such as 0.485,0.456,0.406."""

from __future__ import annotations

import math

from stochx.errors import UsageError
from stochx.settings.choices import Norm

USUAL: dict[Norm, str] = {"linf": "8/255", "l2": "0.5", "l1": "12"}  # radii

Number = str | float
"""A number, or a fraction as typed: `"8/255"`."""


def radius(eps: Number, norm: Norm) -> float:
    """Read a radius; one that looks like a slip raises `UsageError` with what may have been meant."""
    text = str(eps)
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"`--eps {text}` is not a number", f"write `--eps {USUAL[norm]}`") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"`--eps {text}` is not a radius", "it must be a number and not negative")
    if norm == "linf" and value > 1:
        hint = f"did you mean `--eps {text}/255`?" if value < 256 and not slash else "pixels lie in [0, 1]"
        raise UsageError(f"`--eps {text}` is above 1, the whole range of a pixel", hint)
    if norm != "linf" and slash and bottom.strip() == "255" and value < 0.25:
        raise UsageError(
            f"`--eps {text}` is a radius for linf, not for {norm}",
            f"a usual one is `--eps {USUAL[norm]}`; write `--eps {value:.4g}` if you mean it",
        )
    return value


def share(text: str, option: str) -> float:
    """Read `10%` as 0.1; raises `UsageError` for anything else, and for shares that are not above 0 and at most 1."""
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(
            f"`{option} {text}` is neither a number nor a share", f"write `{option} 100` or `{option} 10%`"
        )
    if not 0 < value <= 1:
        raise UsageError(f"`{option} {text}` is not a share", "use more than 0% and at most 100%")
    return value


def channels(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Read `0.5,0.5,0.5`; one number stands for all channels."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise UsageError(f"`{option} {text}` is neither one number nor three", f"write `{option} 0.485,0.456,0.406`")
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third
