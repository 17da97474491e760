"""Attacks: perturbations of images, within a ball, that make the network err.

Add one by writing `stochx/attacks/<name>.py` with one frozen dataclass that fits `Attack`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stochx.catalog import ATTACKS, lazy_entries

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stochx.engine.judging import Judge as Judge
    from stochx.engine.seeds import Key as Key
    from stochx.engine.threat import Ball as Ball
    from stochx.engine.threat import Norm as Norm


@dataclass(frozen=True)
class Context:
    """Everything an attack needs beside the images and the ball.

    `keys`, one per image, seed the random starts. `target` (N,) holds the classes of a targeted attack; None: any
    wrong class counts. `wrong(x, places)` (B,) is the final verdict on images `places` (B,) of the batch, and an attack
    on a deterministic network may stop at the first wrong point. It is None for a stochastic network, where one draw
    proves nothing: every attack then runs to its end, and `pick(x)` (N,) scores whole batches of candidates on draws
    reserved for this choice; lower is more wrong. `source` is another network to craft on (transfer). `judge_any` is
    false where only the last point of a run may count. An attack whose `eot` is 0 averages its gradients over the
    context's `eot` draws, as many as the network needs.
    """

    keys: Sequence[Key]
    target: Tensor | None = None
    wrong: Callable[[Tensor, Tensor], Tensor] | None = None
    pick: Callable[[Tensor], Tensor] | None = None
    source: nn.Module | None = None
    judge_any: bool = True
    eot: int = 1

    @classmethod
    def judged_by(cls, judge: Judge, keys: Sequence[Key], eot: int = 1) -> Context:
        """Return the context of an attack on the judge's images: it judges every point, or draws if it is noisy."""
        if judge.noisy:
            return cls(keys, judge.target, pick=judge.score, eot=eot)
        return cls(keys, judge.target, wrong=judge.wrong, eot=eot)


@dataclass(frozen=True)
class Attempt:
    """The result of an attack: x' (N, C, H, W), in the ball and in [0, 1], and its cost.

    `step` and `restart` (N,) locate each x' in the run; `forwards` (N,) counts the forward passes per image, and
    `backwards` the backward ones, where they are known. An attack of minimal norm also returns the `nearest`
    (N, C, H, W) misclassified point of [0, 1] that it met, in the ball or not, and the image itself where it met none.
    It stops in the ball, so that a radius of 0 lets it run to its end. Notebooks show the images.
    """

    x: Tensor
    step: Tensor
    restart: Tensor
    forwards: Tensor
    nearest: Tensor | None = None
    backwards: Tensor | None = None

    def _repr_html_(self) -> str:
        from stochx.attacks._display import show_images  # now, as it imports torch

        return show_images(self)


class Attack(Protocol):
    """x: (N, C, H, W) in [0, 1], y: (N,) labels, `ball` around x -> `Attempt`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt: ...


__getattr__, __dir__ = lazy_entries(ATTACKS)
