# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Metrics: the quality of a map, judged by the network's response, by localisation, or by the map alone.

Add one by writing `stochx/metrics/<name>.py` with one frozen dataclass that fits `Metric`.
"""
from __future__ import annotations
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol
from torch import Tensor, nn
from stochx.engine.maps import Explainer as Explainer
from stochx.engine.maps import Maps as Maps
from stochx.engine.parts import Parts as Parts
from stochx.engine.seeds import Key as Key
Need = Literal['model', 'explain', 'mask', 'parts']

@dataclass(frozen=True)
class Evidence:
    """The inputs of a metric, for N images of one size; the name of the explanation method is not among them.

    `x` (N, C, H, W) in [0, 1], `target` (N,), `map` (N, C or 1, H, W) signed and finite. `keys`, one per image, seed
    its random draws: methods evaluated under the same keys get the same draws. `explain(model, x, target)` recomputes
    the map, with the same draws, for another network or other pixels. `mask` (N, H, W) is true on the object, and
    `parts` are the parts that it can be drawn without. Fields that a metric does not list in `needs` may be None.
    """
    map: Tensor
    keys: Sequence[Key]
    x: Tensor | None = None
    target: Tensor | None = None
    model: nn.Module | None = None
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    mask: Tensor | None = None
    parts: Sequence[Parts] | None = None

@dataclass(frozen=True)
class Score:
    """One number per image, and the curve behind it.

    `value` (N,) is NaN where the metric is undefined; `why` maps the index of each such image to the reason.
    `curve` (N, P) over `places` (P,). `setting` describes sizes that were derived from the image's size.
    """
    value: Tensor
    curve: Tensor | None = None
    places: Tensor | None = None
    why: dict[int, str] = field(default_factory=dict)
    setting: str = ''

class Metric(Protocol):
    """`Evidence` -> `Score`; attributes of the class or of the entry declare its properties.

    A metric may also declare `bounds`, the least and the greatest value that its value and its curve can have, such as
    `(0.0, 1.0)`: then no interval leaves them, and that of a share is valid near its ends.
    `height`, the label of the curve's y axis, may be left out where it is what the field `read` says. `replaces` names
    the field that says what stands in the place of removed pixels: `--removals all` scores with each of its choices.
    """
    needs: ClassVar[frozenset[Need]]
    axis: ClassVar[str]

    @property
    def higher_is_better(self) -> bool | None:
        """True if higher is better, False if lower is; None for a number that only serves comparison."""

    @property
    def reduction(self) -> str:
        """Description of how a map (C, H, W) is reduced before scoring."""

    def __call__(self, evidence: Evidence) -> Score:
        ...
from stochx.metrics._call import CheckedCall
from stochx.metrics.aupc import AUPC as _AUPC

class AUPC(CheckedCall, _AUPC):
    ...
from stochx.metrics.autvc import AUTVC as _AUTVC

class AUTVC(CheckedCall, _AUTVC):
    ...
from stochx.metrics.background_independence import BackgroundIndependence as _BackgroundIndependence

class BackgroundIndependence(CheckedCall, _BackgroundIndependence):
    ...
from stochx.metrics.completeness import Completeness as _Completeness

class Completeness(CheckedCall, _Completeness):
    ...
from stochx.metrics.complexity import Complexity as _Complexity

class Complexity(CheckedCall, _Complexity):
    ...
from stochx.metrics.csdc import CSDC as _CSDC

class CSDC(CheckedCall, _CSDC):
    ...
from stochx.metrics.deletion import Deletion as _Deletion

class Deletion(CheckedCall, _Deletion):
    ...
from stochx.metrics.deletion_check import DeletionCheck as _DeletionCheck

class DeletionCheck(CheckedCall, _DeletionCheck):
    ...
from stochx.metrics.distractibility import Distractibility as _Distractibility

class Distractibility(CheckedCall, _Distractibility):
    ...
from stochx.metrics.emprt import EMPRT as _EMPRT

class EMPRT(CheckedCall, _EMPRT):
    ...
from stochx.metrics.f_fidelity import FFidelity as _FFidelity

class FFidelity(CheckedCall, _FFidelity):
    ...
from stochx.metrics.infidelity import Infidelity as _Infidelity

class Infidelity(CheckedCall, _Infidelity):
    ...
from stochx.metrics.insertion import Insertion as _Insertion

class Insertion(CheckedCall, _Insertion):
    ...
from stochx.metrics.irof import IROF as _IROF

class IROF(CheckedCall, _IROF):
    ...
from stochx.metrics.max_sensitivity import MaxSensitivity as _MaxSensitivity

class MaxSensitivity(CheckedCall, _MaxSensitivity):
    ...
from stochx.metrics.pixel_flipping import PixelFlipping as _PixelFlipping

class PixelFlipping(CheckedCall, _PixelFlipping):
    ...
from stochx.metrics.pointing_game import PointingGame as _PointingGame

class PointingGame(CheckedCall, _PointingGame):
    ...
from stochx.metrics.preservation_check import PreservationCheck as _PreservationCheck

class PreservationCheck(CheckedCall, _PreservationCheck):
    ...
from stochx.metrics.r_oms import ROMS as _ROMS

class ROMS(CheckedCall, _ROMS):
    ...
from stochx.metrics.randomisation import Randomisation as _Randomisation

class Randomisation(CheckedCall, _Randomisation):
    ...
from stochx.metrics.region_perturbation import RegionPerturbation as _RegionPerturbation

class RegionPerturbation(CheckedCall, _RegionPerturbation):
    ...
from stochx.metrics.relevance_mass import RelevanceMass as _RelevanceMass

class RelevanceMass(CheckedCall, _RelevanceMass):
    ...
from stochx.metrics.relevance_rank import RelevanceRank as _RelevanceRank

class RelevanceRank(CheckedCall, _RelevanceRank):
    ...
from stochx.metrics.road import ROAD as _ROAD

class ROAD(CheckedCall, _ROAD):
    ...
from stochx.metrics.sensitivity_n import SensitivityN as _SensitivityN

class SensitivityN(CheckedCall, _SensitivityN):
    ...
from stochx.metrics.single_deletion import SingleDeletion as _SingleDeletion

class SingleDeletion(CheckedCall, _SingleDeletion):
    ...
from stochx.metrics.smprt import SMPRT as _SMPRT

class SMPRT(CheckedCall, _SMPRT):
    ...
from stochx.metrics.sparseness import Sparseness as _Sparseness

class Sparseness(CheckedCall, _Sparseness):
    ...
from stochx.metrics.srg import SRG as _SRG

class SRG(CheckedCall, _SRG):
    ...
from stochx.metrics.target_sensitivity import TargetSensitivity as _TargetSensitivity

class TargetSensitivity(CheckedCall, _TargetSensitivity):
    ...
