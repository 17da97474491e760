"""What the tests of attacks share: how to run one, and a network with two classes."""

from __future__ import annotations

import torch
from torch import nn

from stochx.attacks import Context
from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball

STRENGTH = {"linf": 0.03, "l2": 0.6}
UNJUDGED = {"wrong": None}  # nothing stops early


def context_of(model, y, **more):
    """The context of a deterministic network's attack."""
    target = more.get("target")

    def wrong(points, places):
        said = logits(model, points).argmax(1)
        return said != y[places] if target is None else said == target[places]

    return Context(keys=[f"key {n}" for n in range(len(y))], **{"wrong": wrong, **more})


def run(attack, model, x, y, norm="linf", eps=None, **more):
    """The attempt of an attack, given as an object or as typed."""
    attack = ATTACKS.make(attack) if isinstance(attack, str) else attack
    eps = STRENGTH[norm] if eps is None else eps
    return attack(model, x, y, Ball(eps, norm), context_of(model, y, **more))


def fooled(attack, model, x, y, norm="linf", eps=None, **more):
    """Which images an attack gets wrong."""
    return logits(model, run(attack, model, x, y, norm, eps, **more).x).argmax(1) != y


class Binary(nn.Module):
    """Two logits +-(w x + b) / 2 on (N, 1, 4, 4): the best attack in every norm is known."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(4)
        self.w = nn.Parameter(torch.randn(16, generator=source, dtype=torch.float64))

    def forward(self, x):
        z = (x - 0.5).flatten(1) @ self.w
        return torch.stack([-z / 2, z / 2], 1)
