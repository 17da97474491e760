# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Attributions: maps of how much each input value contributes for or against a class.

Add one by writing `stochx/attributions/<name>.py` with one frozen dataclass that fits `Attribution`.
"""
from __future__ import annotations
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from torch import Tensor, nn
from stochx.engine.seeds import Key as Key

@dataclass(frozen=True)
class Chosen:
    """The noise that adaptive noising chose: `sigma` (N,) in normalised units, and the `evaluations` (N,) it took.

    `objective` (N,) is evaluated anew on fresh draws, since the minimum of many noisy values is biased low. A value in
    the search has the standard deviation `noise` (N,). Of the sigmas that it tried, `low` (N,) and `high` (N,) are
    the ends of those within a standard error of the chosen one. All three are NaN for a search that measures no noise.
    """
    sigma: Tensor
    objective: Tensor
    evaluations: Tensor
    low: Tensor
    high: Tensor
    noise: Tensor

@dataclass(frozen=True)
class Explanation:
    """One map per image, with estimates of its accuracy.

    `map` (N, C, H, W), C = 1 for methods without channels: signed relevance in units of the target's logit.
    `error` (N,): relative standard error of the channel-summed map from random sampling; None if there is none.
    `gap` (N,): sum of the map minus the sum of a complete map; None for methods that claim no completeness.
    `used` (N,): number of samples (steps, roots, windows) behind each map.
    `chosen`: settings tuned to each image; None for methods that tune none.
    `signed`: positive values speak for the class, negative ones against it; `method`: the spec. The call sets both.

    Notebooks show the maps.
    """
    map: Tensor
    error: Tensor | None = None
    gap: Tensor | None = None
    used: Tensor | None = None
    chosen: Chosen | None = None
    signed: bool = True
    method: str = ''

    def _repr_html_(self) -> str:
        from stochx.attributions._display import show_maps
        return show_maps(self)
Measure = Callable[['nn.Module', 'Tensor', 'Tensor', 'Tensor', 'Sequence[Key]'], 'Tensor']

def is_signed(method: Attribution) -> bool:
    """Return true if positive values speak for the class and negative ones against it."""
    return bool(getattr(method, 'signed', True))

class Attribution(Protocol):
    """x: (N, C, H, W) in [0, 1]; target: (N,) class indices -> `Explanation`.

    `keys`, one per image, seed the random draws of that image; without them its index in the batch does.
    """

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None=None) -> Explanation:
        ...
from stochx.attributions._call import CheckedCall
from stochx.attributions.adaptgrad import AdaptGrad as _AdaptGrad

class AdaptGrad(CheckedCall, _AdaptGrad):
    ...
from stochx.attributions.blur_ig import BlurIG as _BlurIG

class BlurIG(CheckedCall, _BlurIG):
    ...
from stochx.attributions.blurred_ig import BlurredIG as _BlurredIG

class BlurredIG(CheckedCall, _BlurredIG):
    ...
from stochx.attributions.centre import CentreBlob as _CentreBlob

class CentreBlob(CheckedCall, _CentreBlob):
    ...
from stochx.attributions.expected_gradients import ExpectedGradients as _ExpectedGradients

class ExpectedGradients(CheckedCall, _ExpectedGradients):
    ...
from stochx.attributions.fullgrad import FullGrad as _FullGrad

class FullGrad(CheckedCall, _FullGrad):
    ...
from stochx.attributions.gradcam import GradCAM as _GradCAM

class GradCAM(CheckedCall, _GradCAM):
    ...
from stochx.attributions.gradient import Gradient as _Gradient

class Gradient(CheckedCall, _Gradient):
    ...
from stochx.attributions.gradxinput import GradientTimesInput as _GradientTimesInput

class GradientTimesInput(CheckedCall, _GradientTimesInput):
    ...
from stochx.attributions.guided_ig import GuidedIG as _GuidedIG

class GuidedIG(CheckedCall, _GuidedIG):
    ...
from stochx.attributions.idgi import IDGI as _IDGI

class IDGI(CheckedCall, _IDGI):
    ...
from stochx.attributions.ig import IntegratedGradients as _IntegratedGradients

class IntegratedGradients(CheckedCall, _IntegratedGradients):
    ...
from stochx.attributions.lrp import LRP as _LRP

class LRP(CheckedCall, _LRP):
    ...
from stochx.attributions.occlusion import Occlusion as _Occlusion

class Occlusion(CheckedCall, _Occlusion):
    ...
from stochx.attributions.random import RandomMap as _RandomMap

class RandomMap(CheckedCall, _RandomMap):
    ...
from stochx.attributions.smoothgrad import SmoothGrad as _SmoothGrad

class SmoothGrad(CheckedCall, _SmoothGrad):
    ...
from stochx.attributions.smoothtaylor import SmoothTaylor as _SmoothTaylor

class SmoothTaylor(CheckedCall, _SmoothTaylor):
    ...
from stochx.attributions.sobel import SobelEdges as _SobelEdges

class SobelEdges(CheckedCall, _SobelEdges):
    ...
