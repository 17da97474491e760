"""Stochastic, robust and explainable vision networks.

    import stochx

    model = stochx.load_model("resnet50")
    x = stochx.read_image("img.jpg", model)
    explanation = stochx.attributions.SmoothTaylor(sigma=0.5, roots=150)(model, x)
    document = stochx.run(stochx.settings.Attack(model="net.pt", data="cifar10", attack=("pgd:steps=20",)))

Importing this package imports no torch; the names below are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stochx import attacks, attributions, datasets, guides, heads, lessons, metrics, models, noises, settings
    from stochx.adapters import CaptumAttribution
    from stochx.catalog import include
    from stochx.engine.calls import gradient, logits
    from stochx.engine.io.images import Preparation
    from stochx.engine.network.bpda import bpda
    from stochx.engine.network.classifier import Classifier
    from stochx.errors import InputError, RunError, StochxError, UsageError
    from stochx.fewshot_networks import load_fewshot
    from stochx.loading import load_data, load_model, read_image
    from stochx.reports.show import show
    from stochx.runs import run

__all__ = ["CaptumAttribution", "Classifier", "InputError", "Preparation", "RunError", "StochxError", "UsageError"]
__all__ += [
    "bpda",
    "gradient",
    "include",
    "load_data",
    "load_fewshot",
    "load_model",
    "logits",
    "read_image",
    "run",
    "show",
]
__all__ += [
    "attacks",
    "attributions",
    "datasets",
    "guides",
    "heads",
    "lessons",
    "metrics",
    "models",
    "noises",
    "settings",
]

_HOMES = {
    "stochx.adapters": ("CaptumAttribution",),
    "stochx.catalog": ("include",),
    "stochx.engine.calls": ("gradient", "logits"),
    "stochx.engine.io.images": ("Preparation",),
    "stochx.engine.network.bpda": ("bpda",),
    "stochx.engine.network.classifier": ("Classifier",),
    "stochx.errors": ("InputError", "RunError", "StochxError", "UsageError"),
    "stochx.fewshot_networks": ("load_fewshot",),
    "stochx.loading": ("load_data", "load_model", "read_image"),
    "stochx.reports.show": ("show",),
    "stochx.runs": ("run",),
}

if not TYPE_CHECKING:  # a type checker would take any name for one that this function knows

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(home), name)
        if name in __all__:
            return importlib.import_module(f"stochx.{name}")
        raise AttributeError(f"module `stochx` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
