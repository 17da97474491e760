# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Lessons: losses by which a student learns from its teacher, beside the labels.

Add one by writing `stochx/lessons/<name>.py` with one frozen dataclass that fits `Lesson`.
"""
from __future__ import annotations
from typing import TYPE_CHECKING, Protocol
from torch import Tensor, nn
from stochx.engine.network.classifier import Classifier as Classifier

class Lesson(Protocol):
    """teacher, student, the student's logits (N, K), images (N, 3, H, W) and labels (N,) -> the loss, a scalar.

    The teacher is frozen. The images are the clean ones, even in adversarial training. A lesson with a method
    `show(x)` changes the images that the student is trained on.
    """

    def __call__(self, teacher: Classifier, student: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        ...
from stochx.lessons.features import Features as Features
from stochx.lessons.logits import Logits as Logits
from stochx.lessons.soft_labels import SoftLabels as SoftLabels
from stochx.lessons.soft_randomisation import SoftRandomisation as SoftRandomisation
