"""Contract of every lesson."""

from __future__ import annotations

import torch
from torch import Tensor

from stochx.catalog import LESSONS
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.testing.samples import tiny_network, unchanged

Y = torch.tensor([0, 1, 2, 3, 4])


def classifier(seed: int) -> Classifier:
    return Classifier(tiny_network(seed), list("abcde"), Preparation(16, 16), (0.5,) * 3, (0.2,) * 3).double().eval()


def step(spec: str, student: Classifier, teacher: Classifier, x: Tensor) -> Tensor:
    """The loss of one step, as in training."""
    lesson = LESSONS.make(spec)
    show = getattr(lesson, "show", None)
    with seeded(0, "step"):
        seen = x if show is None else show(x)
        assert seen.shape == x.shape, f"`show` gives {tuple(seen.shape)} for {tuple(x.shape)}: keep the shape"
        loss = lesson(teacher, student, student(seen), x, Y)
    shape = getattr(loss, "shape", None)
    assert shape == (), f"`__call__` returned {type(loss).__name__} of shape {shape}: return a loss, a scalar tensor"
    return loss


def test_a_lesson_is_a_loss_of_the_student_and_repeats(lesson: str, images: Tensor) -> None:
    student, teacher = classifier(1), classifier(2).requires_grad_(False)
    loss = step(lesson, student, teacher, images)
    assert loss.isfinite(), f"the loss is {loss.item()}: it must be finite"
    assert loss.requires_grad, "the loss has no gradient: compute it from `logits`, without `detach` or `no_grad`"
    slopes = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    reached = any(slope is not None and bool(slope.abs().sum() > 0) for slope in slopes)
    assert reached, "no weight of the student gets a gradient: compute the loss from `logits`"
    again = step(lesson, student, teacher, images)
    assert torch.equal(loss, again), f"two calls give {loss.item()}, {again.item()}: draw from torch's generator alone"


def test_a_lesson_depends_on_the_teacher(lesson: str, images: Tensor) -> None:
    student, teachers = classifier(1), [classifier(seed).requires_grad_(False) for seed in (2, 3)]
    one, other = (step(lesson, student, teacher, images).item() for teacher in teachers)
    assert one != other, f"with either of two teachers the loss is {one}: use `teacher(clean)`"


def test_a_lesson_leaves_teacher_student_and_images_alone(lesson: str, images: Tensor) -> None:
    student, teacher, before = classifier(1), classifier(2), images.clone()
    with unchanged(student), unchanged(teacher):
        step(lesson, student, teacher, images)
    assert torch.equal(images, before), "the images changed: work on a copy"
