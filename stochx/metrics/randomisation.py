"""Model-parameter randomisation."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.engine.ranking import channel_sum, spearman
from stochx.engine.seeds import seeded
from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import CONSTANT, is_constant, undefined


@dataclass(frozen=True)
class Randomisation:
    """How much of the map stays when the network's weights are re-drawn, layer after layer from the top.

    The cascade of the model-parameter randomisation test (Adebayo et al., 2018) in a copy of the network: the curve
    has Spearman's rank correlation of |channel sum| before and after, the value is its mean. A map that explains the
    network changes; one that shows the image scores 1. The weights are re-drawn as the layers themselves initialise
    them, batch norms start anew, and what they leave alone gets normal draws with the mean and spread of its values.
    A map that becomes constant keeps no order: it correlates by 0.

    The test can reject a method, not rank good ones (Binder et al., 2023): a re-drawn top leaves what the lower layers
    pass on, so faithful maps keep some likeness, while noisy maps change most and score best for it.
    Undefined for a constant map.
    """

    examples: ClassVar[tuple[str, ...]] = ("stages=2",)  # settings that are tested

    stages: int = 5  # evenly spaced stages of the cascade, a map each; 0 means one for every layer
    seed: int = 0  # decides the new weights

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain"})
    reduction: ClassVar[str] = "ranks of the abs of the channel sum"
    axis: ClassVar[str] = "share of layers re-drawn"

    def __post_init__(self) -> None:
        if self.stages < 0:
            raise ValueError("stages must not be negative")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        assert evidence.explain is not None
        x, network = evidence.x, _copy(evidence.model)
        with seeded(self.seed, "randomisation"):
            layers = _from_the_top(network, x[:1])
        if not layers:
            raise InputError("the model has no weights to re-draw", "leave `randomisation` out")
        stages = min(self.stages or len(layers), len(layers))
        stops = [-(-len(layers) * stage // stages) for stage in range(1, stages + 1)]
        before, done, curve = channel_sum(evidence.map).flatten(1), 0, []
        for stop in stops:
            for depth in range(done, stop):
                with seeded(self.seed, "randomisation", depth):
                    _redraw(layers[depth])
            done = stop
            after = channel_sum(evidence.explain(network, x, evidence.target)).flatten(1)
            curve.append(spearman(before, after))
        correlation = torch.stack(curve, 1)
        places = torch.tensor(stops, dtype=correlation.dtype) / len(layers)
        found = Score(correlation.mean(1), correlation, places, setting=f"{len(layers)} layers")
        return undefined(found, {CONSTANT: is_constant(before)})


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module may hold anything, and say anything when it is copied
        raise InputError(f"the model cannot be copied: {error}", "leave `randomisation` out") from error


def _from_the_top(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """The modules with weights of their own, the last to run first; what never runs itself goes with its parent."""
    modules = dict(model.named_modules())
    turn: dict[nn.Module, int] = {}
    clock = count()

    def note(module: nn.Module, _: object) -> None:
        turn[module] = next(clock)  # of several runs the last

    with ExitStack() as hooks, torch.no_grad():
        for module in modules.values():
            hooks.enter_context(module.register_forward_pre_hook(note))
        model(x)

    def place(name: str) -> int:
        while name and modules[name] not in turn:
            name = name.rpartition(".")[0]
        return turn.get(modules[name], -1)

    owners = [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]
    return [modules[name] for name in sorted(owners, key=place)][::-1]


def _redraw(module: nn.Module) -> None:
    """Give the module's own weights and statistics new values in place."""
    untouched = {weight: weight._version for weight in module.parameters(recurse=False)}
    for name in ("reset_parameters", "_reset_parameters"):  # the second is that of `nn.MultiheadAttention`
        if callable(method := getattr(module, name, None)):
            method()
    with torch.no_grad():
        for weight, version in untouched.items():
            if weight._version == version:  # for one, a token or a scale that the module reads but does not reset
                weight.copy_(weight.mean() + weight.std(correction=0) * torch.randn_like(weight))
