# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Guides: weights of a few-shot head's features in training, from explanations or from controls.

Add one by writing `stochx/guides/<name>.py` with one frozen dataclass that fits `Guide`.
"""
from __future__ import annotations
from typing import TYPE_CHECKING
from stochx.engine.fewshot.head import FewShotHead as FewShotHead
from stochx.engine.fewshot.head import Guide as Guide
from stochx.engine.fewshot.head import scaled as scaled
from stochx.engine.seeds import Key as Key
from stochx.guides.gradcam import GradCAM as GradCAM
from stochx.guides.gradxinput import GradXInput as GradXInput
from stochx.guides.lrp import LRP as LRP
from stochx.guides.none import NoGuide as NoGuide
from stochx.guides.random import Random as Random
from stochx.guides.shuffled import Shuffled as Shuffled
