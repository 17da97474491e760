"""Networks whose weights are re-drawn layer by layer from the top, and how similar their maps stay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stochx.engine.ranking import channel_sum, spearman
from stochx.engine.seeds import seeded
from stochx.errors import InputError
from stochx.metrics import Evidence, Score
from stochx.metrics._undefined import CONSTANT, is_constant, undefined


class Stage(NamedTuple):
    """A copy of a network whose last `done` of all `layers` have new weights; all stages share the copy."""

    done: int
    layers: int
    model: nn.Module


def cascade(model: nn.Module, x: Tensor, stages: int, seed: int) -> Iterator[Stage]:
    """Yield the network after each stage of new weights, the last layer first; 0 stages are one a layer."""
    network = _copy(model)
    with seeded(seed, "randomisation"):
        layers = from_the_top(network, x[:1])
    if not layers:
        raise InputError("the model has no weights to re-draw", "leave this metric out")
    stages, done = min(stages or len(layers), len(layers)), 0
    for stage in range(1, stages + 1):
        stop = -(-len(layers) * stage // stages)
        for depth in range(done, stop):
            with seeded(seed, "randomisation", depth):
                _redraw(layers[depth])
        done = stop
        yield Stage(done, len(layers), network)


def similarity(
    evidence: Evidence, before: Tensor, explain: Callable[[nn.Module], Tensor], stages: int, seed: int
) -> Score:
    """Return the rank correlation of |channel sum| of the maps `before` with those after each stage of the cascade."""
    assert evidence.model is not None and evidence.x is not None
    first, curve, places = channel_sum(before).flatten(1), [], []
    for stage in cascade(evidence.model, evidence.x, stages, seed):
        curve.append(spearman(first, channel_sum(explain(stage.model)).flatten(1)))
        places.append(stage.done / stage.layers)
    correlation = torch.stack(curve, 1)
    share = torch.tensor(places, dtype=correlation.dtype)
    score = Score(correlation.mean(1), correlation, share, setting=f"{stage.layers} layers")
    return undefined(score, {CONSTANT: is_constant(first) | is_constant(channel_sum(evidence.map))})


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module may hold anything and raise anything when it is copied
        raise InputError(f"the model cannot be copied: {error}", "leave this metric out") from error


def from_the_top(model: nn.Module, x: Tensor) -> list[nn.Module]:
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
