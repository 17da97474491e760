"""Layer-wise relevance propagation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.device import in_batches
from stochx.engine.lrp import rules
from stochx.engine.lrp.branches import merged
from stochx.engine.lrp.tape import FirstRule, RelevanceTape, Rule, Rules
from stochx.engine.network.fused import fused
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class LRP:
    """The logit redistributed layer by layer, to each input in proportion to its contribution (Bach et al., 2015).

    A composite names the rules: `epsilon` for linear layers; for convolutions `plus` (z+), `alpha2-beta1`, `gamma`
    or epsilon as well; and for the first layer `flat` or `box` (zB), which do not depend on the input's sign: in a
    transformer, where strides equal kernels, `flat` gives one value per patch. Batch norms are folded into their
    convolutions, sums share relevance by contribution, concatenations split it, and max pooling passes it to the
    maximum.

    `attn-lrp` (Achtibat et al., 2024) and `cp-lrp` (Ali et al., 2022) are for transformers: gamma for convolutions and
    for linear layers beside an activation, epsilon for all others. `attn-lrp` expands the softmax of attention at its
    input and halves relevance between the factors of a product; under `cp-lrp`, as in all other composites, attention
    weights are constant. Norms divide by a constant, activations and gates pass relevance on.

    `gap`, the map's sum minus the logit, is the part absorbed by constants (biases, position and class tokens),
    stabilisers and, in `attn-lrp`, the softmax.
    """

    few_shot: ClassVar[bool] = True  # its `rules` also explain few-shot networks
    composite: Literal[
        "epsilon-plus-flat",
        "epsilon-plus",
        "epsilon-alpha2-beta1",
        "epsilon-alpha2-beta1-flat",
        "epsilon-gamma-box",
        "epsilon",
        "attn-lrp",
        "cp-lrp",
    ] = "epsilon-plus-flat"  # composite of rules, by type of layer
    epsilon: float = 1e-6  # stabiliser of the epsilon and gamma rules, sums, products and norms
    gamma: float = 0.25  # weight of the agreeing parts in the gamma rule of convolutions
    mlp_gamma: float = 0.05  # the same in MLPs, for `attn-lrp` and `cp-lrp`

    def __post_init__(self) -> None:
        if self.composite not in COMPOSITES:
            raise ValueError("composite must be one of " + ", ".join(COMPOSITES))
        if self.epsilon <= 0:
            raise ValueError("epsilon must be positive")
        if self.gamma < 0:
            raise ValueError("gamma must not be negative")
        if self.mlp_gamma < 0:
            raise ValueError("mlp_gamma must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        fast = fused(model, x)
        traced = fast.operations("use `ig`, `smoothgrad` or `smoothtaylor`")
        graph, rules = merged(traced), self.rules()
        low, high = fast.normalise(torch.zeros_like(x[:1])), fast.normalise(torch.ones_like(x[:1]))
        maps, gap = torch.empty_like(x), x.new_empty(len(x))

        def work(start: int, stop: int) -> None:
            tape = RelevanceTape(graph, fast.normalise(x[start:stop]), rules)
            classes = target[start:stop, None]
            logit = tape.output.gather(1, classes)
            first = torch.zeros_like(tape.output).scatter(1, classes, logit)
            maps[start:stop] = tape.relevance(first, low, high)
            gap[start:stop] = maps[start:stop].flatten(1).sum(1) - logit.squeeze(1)

        # Positive and negative halves of the weights, and the relevance, need memory beside what autograd keeps.
        in_batches(len(x), max(1, fast.rows(x) // 2), work)
        return Explanation(maps, gap=gap)

    @property
    def remedy(self) -> str:
        """What makes a map more complete."""
        if self.composite == "attn-lrp":
            return "softmax, biases and other constants absorb the rest; try `composite=cp-lrp`, or `ig`"
        return "biases and other constants absorb the rest; try another `composite`, or `ig`"

    def rules(self) -> Rules:
        """Return the rule for each type of layer."""
        convolution, first = COMPOSITES[self.composite]
        transformer = self.composite in ("attn-lrp", "cp-lrp")
        return Rules(
            dense=_epsilon(self),
            convolution=convolution(self),
            first=first,
            mlp=partial(rules.gamma, strength=self.mlp_gamma, stabiliser=self.epsilon) if transformer else None,
            constant_attention=self.composite != "attn-lrp",
            stabiliser=self.epsilon,
        )


def _epsilon(lrp: LRP) -> Rule:
    return partial(rules.epsilon, stabiliser=lrp.epsilon)


def _plus(lrp: LRP) -> Rule:
    return rules.z_plus


def _alpha2_beta1(lrp: LRP) -> Rule:
    return partial(rules.alpha_beta, alpha=2.0, beta=1.0)


def _gamma(lrp: LRP) -> Rule:
    return partial(rules.gamma, strength=lrp.gamma, stabiliser=lrp.epsilon)


def _flat(layer: rules.Layer, x: Tensor, relevance: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return rules.flat(layer, x, relevance)


COMPOSITES: dict[str, tuple[Callable[[LRP], Rule], FirstRule | None]] = {
    "epsilon-plus-flat": (_plus, _flat),
    "epsilon-plus": (_plus, None),
    "epsilon-alpha2-beta1": (_alpha2_beta1, None),
    "epsilon-alpha2-beta1-flat": (_alpha2_beta1, _flat),
    "epsilon-gamma-box": (_gamma, rules.box),
    "epsilon": (_epsilon, None),
    "attn-lrp": (_gamma, None),
    "cp-lrp": (_gamma, None),
}
