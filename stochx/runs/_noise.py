"""The noise of stochastic networks in `stochx attack`: what the attacker knows of it, and how many draws it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stochx.engine.expectation import IMAGES, Draws, needed_draws
from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import noise_layers
from stochx.engine.realisation import is_reproducible
from stochx.engine.threat import Ball
from stochx.errors import StochxError, UsageError
from stochx.runs.document import Document
from stochx.settings import Attack
from stochx.tasks.batches import Source, read_all

REALISATIONS = 5  # seeds of the noise under which a network is attacked whose noise the attacker knows
ONE_DRAW = "one draw"  # marks an attack that follows the gradients of single draws
ESTIMANDS = {
    "secret": "a random draw",
    "known": f"a draw that the attacker knows, mean of {REALISATIONS} seeds",
    "off": "noise off",
}


def check_noise(settings: Attack, models: Mapping[str, Classifier]) -> None:
    """Raise `UsageError` for settings of the noise that a network does not have."""
    if settings.points[0].noise is not None and not noise_layers(models[settings.model]):
        raise UsageError(
            f"`{settings.model}` has no noise layers whose degree could be swept",
            "make a student with `stochx distill`, or use `--sweep eps=...`",
        )
    for name, model in models.items():
        if settings.budget is not None and model.noise == "none":
            raise UsageError(f"`{name}` is deterministic: its gradients need one draw", "leave out `--budget`")
        if settings.randomness == "off" and not noise_layers(model):
            raise UsageError(f"`{name}` has no noise layers to turn off", "leave out `--randomness off`")
        if settings.randomness == "known":
            _check_known(name, model)


def _check_known(name: str, model: Classifier) -> None:
    """Raise `UsageError` for a network without a seed that an attacker could know."""
    if model.noise == "none":
        raise UsageError(f"`{name}` is deterministic: there is no noise to know", "leave out `--randomness known`")
    x = torch.rand_like(model.blank().repeat(2, 1, 1, 1))
    if not is_reproducible(lambda: logits(model, x)):
        raise UsageError(
            f"`{name}` does not draw its noise from torch's generators, whose seed an attacker could know",
            "leave out `--randomness known`",
        )


def degree_of(settings: Attack, degree: float | None = None) -> float:
    """Return the degree of the noise at a point of a sweep, where it has one: as trained, or off."""
    if settings.randomness == "off":
        return 0.0
    return 1.0 if degree is None else degree


def estimand_of(settings: Attack, model: Classifier) -> str | None:
    """Return what the robust accuracy of a stochastic network estimates; None for others."""
    return ESTIMANDS[settings.randomness] if model.noise != "none" else None


def draws_of_a_gradient(model: Classifier, sources: Sequence[Source], ball: Ball, seed: int) -> Draws:
    """Measure how many draws of the network's noise a gradient needs, on the first images."""
    if model.noise == "none":
        return Draws(1)
    items = [item for item in read_all(sources, range(min(IMAGES, len(sources)))) if not isinstance(item, StochxError)]
    if not items:
        return Draws(1)
    x = torch.stack([item.image for item in items]).to(model.mean)
    return needed_draws(model, x, torch.tensor([item.label for item in items], device=x.device), ball, seed)


def budget_of(method: Any, draws: int, estimates: bool) -> Document:
    """Return an attack's settings, as it ran; the worst case over all attacks has none of its own.

    It `estimates` the gradient where it cannot know it: a single draw is marked then.
    """
    if method is None:
        return {"steps": None, "eot": None, "restarts": None, "label": None, "parameters": None}
    parameters = dataclasses.asdict(method)
    if "eot" in parameters:
        parameters["eot"] = parameters["eot"] or draws
    budget = {key: parameters.get(key) for key in ("steps", "eot", "restarts")}
    return budget | {"label": ONE_DRAW if estimates and budget["eot"] == 1 else None, "parameters": parameters}
