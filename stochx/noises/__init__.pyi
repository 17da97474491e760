# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Noises: layers that make a network stochastic.

Add one by writing `stochx/noises/<name>.py` with one frozen dataclass that fits `Noise`.
"""
from __future__ import annotations
from typing import TYPE_CHECKING, Protocol
from torch import nn
from stochx.engine.network.sites import Site as Site
from stochx.engine.network.stochastic import drawn as drawn

class Noise(Protocol):
    """place in a network -> a module that maps the value there, (N, *shape) or a weight, to the noise added to it.

    The noise has mean zero over draws from torch's global generator, is drawn in eval mode too, and independently for
    every image unless `share` says otherwise. `site` is a kind of place (see `engine.network.sites.sites`),
    `layers` a pattern of module names. A module may have `penalty(layer)`, a term of the loss, and `fixed_std()`: the
    standard deviation of its noise, if that is normal and does not depend on the value now, else None; a frozen network
    then adds the noise in one operation.
    """

    @property
    def site(self) -> str:
        ...

    @property
    def layers(self) -> str:
        ...

    def __call__(self, place: Site) -> nn.Module:
        ...
from stochx.noises.adaptive import Adaptive as Adaptive
from stochx.noises.bayes import Bayes as Bayes
from stochx.noises.ctrw import CTRW as CTRW
from stochx.noises.dropout import Dropout as Dropout
from stochx.noises.feature_wise import FeatureWise as FeatureWise
from stochx.noises.gaussian import Gaussian as Gaussian
from stochx.noises.learn2perturb import Learn2Perturb as Learn2Perturb
from stochx.noises.lowrank import LowRank as LowRank
from stochx.noises.multiplicative import Multiplicative as Multiplicative
from stochx.noises.pni import PNI as PNI
from stochx.noises.rna import RNA as RNA
from stochx.noises.rpf import RPF as RPF
from stochx.noises.wca import WCA as WCA
