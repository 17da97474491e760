# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Attacks: perturbations of images, within a ball, that make the network err.

Add one by writing `stochx/attacks/<name>.py` with one frozen dataclass that fits `Attack`.
"""
from __future__ import annotations
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
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
    def judged_by(cls, judge: Judge, keys: Sequence[Key], eot: int=1) -> Context:
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
        from stochx.attacks._display import show_images
        return show_images(self)

class Attack(Protocol):
    """x: (N, C, H, W) in [0, 1], y: (N,) labels, `ball` around x -> `Attempt`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        ...
from stochx.attacks._call import CheckedCall
from stochx.attacks.apgd import APGD as _APGD

class APGD(CheckedCall, _APGD):
    ...
from stochx.attacks.arc import ARC as _ARC

class ARC(CheckedCall, _ARC):
    ...
from stochx.attacks.autoattack import AutoAttack as _AutoAttack

class AutoAttack(CheckedCall, _AutoAttack):
    ...
from stochx.attacks.autoattack_rand import AutoAttackRand as _AutoAttackRand

class AutoAttackRand(CheckedCall, _AutoAttackRand):
    ...
from stochx.attacks.ddn import DDN as _DDN

class DDN(CheckedCall, _DDN):
    ...
from stochx.attacks.deepfool import DeepFool as _DeepFool

class DeepFool(CheckedCall, _DeepFool):
    ...
from stochx.attacks.fab import FAB as _FAB

class FAB(CheckedCall, _FAB):
    ...
from stochx.attacks.fgsm import FGSM as _FGSM

class FGSM(CheckedCall, _FGSM):
    ...
from stochx.attacks.fmn import FMN as _FMN

class FMN(CheckedCall, _FMN):
    ...
from stochx.attacks.malt import MALT as _MALT

class MALT(CheckedCall, _MALT):
    ...
from stochx.attacks.multitargeted import MultiTargeted as _MultiTargeted

class MultiTargeted(CheckedCall, _MultiTargeted):
    ...
from stochx.attacks.pgd import PGD as _PGD

class PGD(CheckedCall, _PGD):
    ...
from stochx.attacks.pma import PMA as _PMA

class PMA(CheckedCall, _PMA):
    ...
from stochx.attacks.rand import Rand as _Rand

class Rand(CheckedCall, _Rand):
    ...
from stochx.attacks.random import RandomSearch as _RandomSearch

class RandomSearch(CheckedCall, _RandomSearch):
    ...
from stochx.attacks.square import Square as _Square

class Square(CheckedCall, _Square):
    ...
from stochx.attacks.standard import Standard as _Standard

class Standard(CheckedCall, _Standard):
    ...
from stochx.attacks.transfer import Transfer as _Transfer

class Transfer(CheckedCall, _Transfer):
    ...
