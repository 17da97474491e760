"""Checks of an evaluation: indicators of attacks that fail silently, each with advice.

After Carlini et al. (2019), "On evaluating adversarial robustness", Pintor et al. (2022), "Indicators of attack
failure", and Zimmermann et al. (2022), "Increasing confidence in adversarial robustness evaluations": a defence that
only masks its gradients appears robust to attacks that follow them, and so does any network to an attack with a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stochx.attacks import Attack
from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.errors import StochxError
from stochx.tasks.attack_checks import check_against_others, check_expectation, check_iterating, check_unbounded
from stochx.tasks.batches import Source, read_all
from stochx.tasks.correct_images import Check, CorrectImages
from stochx.tasks.network_checks import (
    check_accuracy,
    check_ascent,
    check_derivative,
    check_gradients,
    check_logits,
    check_mode,
    check_normalisation,
)

CHECKED = 64  # images to check


def check_evaluation(
    model: Classifier,
    attacks: Mapping[str, Attack],
    sources: Sequence[Source],
    ball: Ball,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    eot: int = 1,
    *,
    full: bool,
    secret: bool = True,
) -> list[Check]:
    """Run all checks of a finished evaluation; `full` ones attack again.

    `rows` are the table's, as dictionaries. Gradients are means over `eot` draws where an attack does not say
    otherwise. `secret`: attackers do not know the draws of the network's noise.
    """
    loaded = read_all(sources, range(min(CHECKED, len(sources))))
    items = [item for item in loaded if not isinstance(item, StochxError)]
    if not items:
        return []
    x = torch.stack([item.image for item in items]).to(model.mean)
    y = torch.tensor([item.label for item in items], device=x.device)
    with seeded(seed, "checks"):
        right = logits(model, x).argmax(1) == y
        basics = [check_accuracy(model, rows), check_normalisation(model, x, y, seed)]
    if not right.any():
        return basics
    places = right.nonzero().flatten()
    bench = CorrectImages(
        model, x[places], y[places], [f"{seed}/{items[n].key}" for n in places.tolist()], ball, seed, eot
    )
    with seeded(seed, "checks"):
        checks = [
            *basics,
            check_mode(model),
            check_logits(model, x),
            check_gradients(bench),
            check_derivative(bench),
            check_ascent(bench),
        ]
    checks += [check_iterating(attacks, rows), check_unbounded(bench)]
    if model.noise != "none" and secret:  # known noise leaves no mean to estimate
        checks.append(check_expectation(bench, attacks, rows, full=full))
    if full:
        checks += check_against_others(bench, attacks, rows)
    return [check for check in checks if check is not None]
