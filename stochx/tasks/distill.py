"""Distillation of stochastic students: a copy of the teacher, or a new network, with noise layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from stochx.engine.device import in_parts
from stochx.engine.io.data import Data
from stochx.engine.io.images import channels_text
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import at_scale, calibrate, has_mean_network
from stochx.engine.passes import Report, unreported
from stochx.engine.seeds import generator, seeded
from stochx.engine.statistics import Estimate, share, wilson
from stochx.engine.world import World
from stochx.errors import InputError
from stochx.lessons import Lesson
from stochx.tasks.objectives import Criterion, CrossEntropy, Teaching
from stochx.tasks.reading import Stack
from stochx.tasks.train import correct

CALIBRATION = 32  # batches for the statistics of noise layers and batch norms
BATCH = 128


def check_teacher(teacher: Classifier, data: Data) -> Classifier:
    """Check that `teacher` fits `data`, whose labels are its classes.

    Raises `InputError` for a network that is not a classifier, has other classes, or is stochastic.
    """
    with torch.inference_mode():
        out = teacher(teacher.blank())
    if out.dim() != 2:
        raise InputError(f"the teacher returns {tuple(out.shape)} for one image", "it must return logits (N, K)")
    if out.shape[1] != len(data.classes):
        raise InputError(
            f"the teacher has {out.shape[1]} classes, but the data set has {len(data.classes)}",
            "use the data set that it was trained on",
        )
    if teacher.noise != "none":
        raise InputError("the teacher is already stochastic", "start from the network without noise")
    return teacher


def make_student(teacher: Classifier, build: Callable[[], Classifier] | None, seed: int) -> Classifier:
    """Return the student without noise: a copy of the teacher, or a new network whose weights depend on `seed` alone.

    A new one uses the teacher's preparation of images. Raises `InputError` if it takes other channels.
    """
    if build is None:
        student = copy.deepcopy(teacher)
    else:
        with seeded(seed, "weights"):
            student = build().to(teacher.mean.device)
        if student.channels != teacher.channels:
            takes = f"`{student.arch}` takes {channels_text(student.channels)}, the teacher {teacher.channels}"
            raise InputError(takes, "give the student an architecture of your own, as `--arch package.module:function`")
        student.classes, student.preparation = teacher.classes, teacher.preparation
        student.mean, student.std = teacher.mean.clone(), teacher.std.clone()
    return student.eval().requires_grad_(True)


def calibrate_student(student: Classifier, pixels: Tensor, seed: int, report: Report = unreported) -> Classifier:
    """Calibrate the student's statistics on a random part, by seed, of the training images (N, 3, H, W) uint8.

    `report` counts batches; there are `calibration_steps`.
    """
    order = torch.randperm(len(pixels), generator=generator(seed, "calibration"))[: CALIBRATION * BATCH]
    batches = [pixels[indices].to(student.mean.device).float() / 255 for indices in torch.split(order, BATCH)]

    def measured(parts: int) -> None:
        pieces = [piece for batch in batches for piece in batch.tensor_split(min(parts, max(1, len(batch) // 2)))]
        calibrate(student, pieces, report if parts == 1 else unreported)

    with seeded(seed, "calibration"):
        in_parts(student, 1, BATCH // 2, measured)
    return student


def calibration_steps(images: int) -> int:
    """Return the number of batches that `calibrate_student` reports for a number of training images."""
    return 2 * math.ceil(min(images, CALIBRATION * BATCH) / BATCH)


def make_criterion(teacher: Classifier, lesson: Lesson | None) -> Criterion:
    """Return the student's criterion: the lesson of its teacher, or cross-entropy alone."""
    return CrossEntropy() if lesson is None else Teaching(teacher, lesson)


def shared_draws(student: Classifier, draws: int, world: World) -> range:
    """Return the draws of the student's noise that this rank measures."""
    return range(world.rank, draws if student.noise != "none" else 1, world.size)


def measure(
    student: Classifier, images: Stack, draws: int, seed: int, world: World, report: Report = unreported
) -> tuple[Estimate, Estimate | None]:
    """Return the test accuracy of a random draw (a mean over `draws` per image), and without noise.

    The latter is None where the noise cannot be turned off. The ranks share the draws. `report` counts every image in
    each draw.
    """

    def right(draw: int) -> list[bool]:
        with seeded(seed, "accuracy", draw):
            return list(map(bool, correct(student, images, report)))

    mine = shared_draws(student, draws, world)
    noisy = torch.tensor(world.gather([right(draw) for draw in mine])).double().mean(0)
    drawn = share(noisy.tolist(), counts=student.noise == "none")
    if not has_mean_network(student):
        return drawn, None
    with at_scale(student, 0.0):
        quiet = right(0)
    return drawn, wilson(sum(quiet), len(quiet))
