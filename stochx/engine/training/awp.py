"""Adversarial weight perturbation: a loss at the weights next to the network's where it is high."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stochx.engine.network.stochastic import parameter_groups
from stochx.engine.training.fit import Step
from stochx.engine.whole import whole_sum


def at_worst_weights(model: nn.Module, gamma: float, lowered: Callable[[], Step]) -> Step:
    """Return `lowered()`, which calls `model`, as if its weights were w + v; they stay w.

        v_l = gamma |w_l| d_l / |d_l|,  d the gradient of the loss at w                    (Wu, Xia & Wang, 2020)

    for each weight w_l of two or more axes; biases, norms and the parameters of noise, which would only grow louder, do
    not move. The gradient of the result is that of the loss at w + v. Running statistics do not see the pass at w.
    """
    held = _Held(model, lowered)
    weights = {id(p) for p in parameter_groups(model)[0]["params"]}
    moving = {name: w for name, w in held.named_parameters() if id(w) in weights and w.dim() > 1}
    buffers = {name: buffer.clone() for name, buffer in held.named_buffers()}
    at_w = functional_call(held, buffers, ())
    gradients = _whole_gradients(at_w, [*moving.values()])
    worst = {
        name: w + gamma * w.detach().norm() * _unit(d)
        for (name, w), d in zip(moving.items(), gradients, strict=True)
        if d is not None
    }
    step: Step = functional_call(held, worst, ())
    return step


def _whole_gradients(step: Step, weights: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients of the mean loss of the batch, of which `step` may be a rank's part."""
    count = step.loss.new_tensor(len(step.logits))
    gradients = torch.autograd.grad(step.loss * (count / whole_sum(count)), weights, allow_unused=True)
    return [d if d is None else whole_sum(d) for d in gradients]


class _Held(nn.Module):
    """A loss as a module around its network, whose tensors `functional_call` can exchange for others."""

    def __init__(self, model: nn.Module, lowered: Callable[[], Step]) -> None:
        super().__init__()
        self.model, self.lowered = model, lowered

    def forward(self) -> Step:
        return self.lowered()


def _unit(d: Tensor) -> Tensor:
    """Return d / |d|, and 0 where d is."""
    unit: Tensor = d / d.norm().clamp(min=torch.finfo(d.dtype).tiny)
    return unit
