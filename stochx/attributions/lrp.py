"""Layer-wise relevance propagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine import relevance as rules
from stochx.engine.device import in_batches
from stochx.engine.propagate import Rule, Tape
from stochx.engine.seeds import Key
from stochx.engine.twin import twin
from stochx.errors import InputError


@dataclass(frozen=True)
class LRP:
    """The logit handed back layer by layer, to each input what it contributed (Bach et al., 2015).

    A composite names the rules: `epsilon` for linear layers; for convolutions `plus` (z+), `alpha2-beta1`, `gamma`
    or epsilon too; and for the first layer `flat` or `box` (zB), which need no inputs' signs. Batch norms are folded
    into their convolutions, sums share by contribution, concatenations split, max pooling sends to the winner.
    `gap` is what biases and stabilisers absorbed: the map's sum minus the logit.
    """

    composite: Literal[
        "epsilon-plus-flat",
        "epsilon-plus",
        "epsilon-alpha2-beta1",
        "epsilon-alpha2-beta1-flat",
        "epsilon-gamma-box",
        "epsilon",
    ] = "epsilon-plus-flat"  # rules by kind of layer
    epsilon: float = 1e-6  # stabiliser of the epsilon rule
    gamma: float = 0.25  # weight of what agrees, for the gamma rule

    def __post_init__(self) -> None:
        if self.epsilon <= 0:
            raise ValueError("epsilon must be positive")
        if self.gamma < 0:
            raise ValueError("gamma must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        fast = twin(model)
        if fast.graph is None:
            raise InputError("the model's operations cannot be traced", "use `ig`, `smoothgrad` or `smoothtaylor`")
        graph, maps, gaps = fast.graph, [], []
        low, high = fast.normalise(torch.zeros_like(x[:1])), fast.normalise(torch.ones_like(x[:1]))

        def choose(layer: nn.Module, first: bool) -> Rule:
            if first and self.composite.endswith("flat"):
                return rules.flat
            if first and self.composite.endswith("box"):
                return partial(rules.box, low=low, high=high)
            if isinstance(layer, nn.Linear) or self.composite == "epsilon":
                return partial(rules.epsilon, stabiliser=self.epsilon)
            if "plus" in self.composite:
                return rules.z_plus
            if "gamma" in self.composite:
                return partial(rules.gamma, strength=self.gamma)
            return partial(rules.alpha_beta, alpha=2.0, beta=1.0)

        def work(start: int, stop: int) -> None:
            tape = Tape(graph, fast.normalise(x[start:stop]))
            chosen = target[start:stop, None]
            logit = tape.output.gather(1, chosen)
            relevance = tape.relevance(torch.zeros_like(tape.output).scatter(1, chosen, logit), choose)
            maps.append(relevance)
            gaps.append(relevance.flatten(1).sum(1) - logit.squeeze(1))

        in_batches(len(x), max(1, fast.rows(x) // 2), work)
        return Explanation(torch.cat(maps), gap=torch.cat(gaps))
