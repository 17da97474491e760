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
from stochx.engine.statistics import Bounds
from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import CONSTANT, is_constant, undefined


@dataclass(frozen=True)
class Randomisation:
    """Similarity of the map before and after the network's weights are re-drawn, layer by layer from the top.

    The cascading model-parameter randomisation test (Adebayo et al., 2018), on a copy of the network: the curve holds
    Spearman's rank correlation of |channel sum| with the original map, the value is its mean. A map that explains the
    network changes; one that only shows the image scores 1. Layers re-draw their weights as they initialise them and
    reset batch norms; weights that no layer resets get normal draws with the mean and standard deviation of their
    values. A map that becomes constant has no order: its correlation is 0.

    The test can reject a method but not rank good ones (Binder et al., 2023): features of the lower layers survive a
    re-drawn top, so faithful maps stay similar, while noisy maps change most and score best. Undefined for a constant
    map.
    """

    examples: ClassVar[tuple[str, ...]] = ("stages=2",)  # settings that are tested

    stages: int = 5  # evenly spaced stages of the cascade, one map each; 0 means every layer
    seed: int = 0  # seed of the new weights

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain"})
    reduction: ClassVar[str] = "ranks of the abs of the channel sum"
    axis: ClassVar[str] = "share of layers re-drawn"
    bounds: ClassVar[Bounds] = (-1.0, 1.0)
    height: ClassVar[str] = "rank correlation with the map"

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
        score = Score(correlation.mean(1), correlation, places, setting=f"{len(layers)} layers")
        return undefined(score, {CONSTANT: is_constant(before)})


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module may hold anything and raise anything when it is copied
        raise InputError(f"the model cannot be copied: {error}", "leave `randomisation` out") from error


def _from_the_top(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """Return the modules with weights of their own, last executed first; those never called follow their parent."""
    modules = dict(model.named_modules())
    turn: dict[nn.Module, int] = {}
    clock = count()

    def note(module: nn.Module, _: object) -> None:
        turn[module] = next(clock)  # the last of several calls

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
    """Re-draw the module's own weights and reset its statistics, in place."""
    untouched = {weight: weight._version for weight in module.parameters(recurse=False)}
    for name in ("reset_parameters", "_reset_parameters"):  # the second is that of `nn.MultiheadAttention`
        if callable(method := getattr(module, name, None)):
            method()
    with torch.no_grad():
        for weight, version in untouched.items():
            if weight._version == version:  # such as a token or a scale that the module does not reset
                weight.copy_(weight.mean() + weight.std(correction=0) * torch.randn_like(weight))
