"""Stochastic, robust and explainable vision networks.

    import stochx

    model = stochx.load_model("resnet50")
    explanation = stochx.attributions.SmoothTaylor(sigma=0.5, roots=150)(model, x, target)

Importing this package imports no torch; the names below are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stochx import attacks, attributions, datasets, guides, heads, lessons, metrics, models, noises
    from stochx.errors import StochxError
    from stochx.loading import load_data, load_model

__all__ = ["StochxError", "load_data", "load_model"]
__all__ += ["attacks", "attributions", "datasets", "guides", "heads", "lessons", "metrics", "models", "noises"]

_HOMES = {"StochxError": "stochx.errors", "load_model": "stochx.loading", "load_data": "stochx.loading"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"stochx.{name}")
    raise AttributeError(f"module `stochx` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
