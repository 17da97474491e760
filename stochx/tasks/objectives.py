"""Training objectives: a criterion on logits of clean or adversarial images.

    objective(Teaching(teacher, SoftLabels()), Adversarial(PGD(steps=7), Ball(8 / 255), "ard"))

A criterion is called with the network, its logits (N, K) for the images it was shown, the clean images (N, 3, H, W)
and the labels (N,), and returns a scalar. Teachers always see the clean images.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from torch import Tensor, nn
from torch.nn import functional as F

from stochx.attacks import Attack, Context
from stochx.engine.gradients import logits as logits_of
from stochx.engine.losses import divergence
from stochx.engine.modes import frozen_weights
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.visits import evaluating
from stochx.engine.threat import Ball
from stochx.engine.training.awp import at_worst_weights
from stochx.engine.training.fit import Objective, Step, TrainingBatch, forward
from stochx.errors import UsageError
from stochx.lessons import Lesson

Criterion = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
Recipe = Literal["madry", "mixed", "trades", "ard"]
Lowered = Callable[[], Step]  # a loss of images that are made already, at whatever weights the network has


@dataclass(frozen=True)
class CrossEntropy:
    """The mean -log p(y); smoothed by s, (1 - s) of it and s times the mean -log p over classes.

    (Szegedy et al., 2016.)
    """

    smoothing: float = 0.0

    def __call__(self, model: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class Teaching:
    """A teacher's lesson as a criterion."""

    teacher: Classifier
    lesson: Lesson

    def show(self, x: Tensor) -> Tensor:
        """Return the images that the student is shown for x."""
        show: Callable[[Tensor], Tensor] | None = getattr(self.lesson, "show", None)
        return x if show is None else show(x)

    def __call__(self, model: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        return self.lesson(self.teacher, model, logits, clean, y)


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training, after `delay` epochs of plain training.

    madry   criterion(x')                                    (Madry et al., 2018)
    mixed   0.5 criterion(x) + 0.5 criterion(x'), x' crafted from the clean prediction to avoid label leaking
            (Kurakin et al., 2017; the recipe of PNI, He et al., 2019)
    trades  criterion(x) + trades KL(p(x) || p(x')), x' crafted to maximise that divergence  (Zhang et al., 2019)
    ard     (1 - w) CE(x) + w lesson(x'), for the lesson of a teacher and its weight w: labels are learnt on the clean
            image, the teacher's answer to it on x'  (Goldblum et al., 2020); `madry` learns both on x'

    Attacks run on the network in eval mode, with frozen weights and noise on. Random starts depend on the seed, the
    epoch and the image. No image stops early. With `awp` above 0 the loss of these images is that of weights which move
    against it (`at_worst_weights`), after `awp_delay` epochs; each part of a batch moves them on its own.
    """

    attack: Attack
    ball: Ball
    recipe: Recipe = "madry"
    trades: float = 6.0  # weight of the divergence
    delay: int = 0  # epochs of plain training at the start
    awp: float = 0.0  # size of the adversarial weight perturbation, relative to the weights
    awp_delay: int = 0  # epochs without it at the start

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UsageError(f"unknown recipe `{self.recipe}`", "choose from: " + ", ".join(RECIPES))
        if min(self.trades, self.delay, self.awp, self.awp_delay) < 0:
            raise UsageError("the weight of `trades`, `awp` and the delays must not be negative")
        if self.recipe == "trades":
            object.__setattr__(self, "attack", _raising_divergence(self.attack))

    def craft(self, model: nn.Module, batch: TrainingBatch, y: Tensor, seed: int) -> Tensor:
        """Return x' (N, 3, H, W), in the ball around `batch.x` and in [0, 1], crafted away from classes y (N,)."""
        keys = [f"{seed}/{batch.epoch}/{image}" for image in batch.index.tolist()]
        with frozen(model):
            return self.attack(model, batch.x, y, self.ball, Context(keys)).x

    def lower(self, part: _Part, seed: int) -> Step:
        """Return the recipe's loss of a batch: its images are made at the network's weights, once."""
        lowered = RECIPES[self.recipe](part, self, seed)
        if self.awp and part.batch.epoch >= self.awp_delay:
            return at_worst_weights(part.model, self.awp, lowered)
        return lowered()


def _raising_divergence(attack: Any) -> Attack:
    """Return the attack with the loss of TRADES."""
    if "kl" not in get_args(get_type_hints(type(attack)).get("loss")):
        raise UsageError(
            "`trades` maximises a divergence, which this attack does not support", "use `--adversarial pgd`"
        )
    try:
        kl_attack: Attack = dataclasses.replace(attack, loss="kl")
    except ValueError as error:
        raise UsageError(f"`trades`: {error}") from None
    return kl_attack


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put the network in eval mode and freeze its weights for the block; restore all modes and flags afterwards."""
    with evaluating(model), frozen_weights(model):
        yield


@dataclass(frozen=True)
class _Part:
    """A criterion on one batch."""

    criterion: Criterion
    model: nn.Module
    batch: TrainingBatch

    def on(self, x: Tensor) -> Step:
        """Return its value for the images x, clean or adversarial."""
        shown = self.criterion.show(x) if isinstance(self.criterion, Teaching) else x
        logits = forward(self.model, shown)
        return Step(self.criterion(self.model, logits, self.batch.x, self.batch.y), logits)


def _madry(part: _Part, adversarial: Adversarial, seed: int) -> Lowered:
    adv = adversarial.craft(part.model, part.batch, part.batch.y, seed)
    return lambda: part.on(adv)


def _mixed(part: _Part, adversarial: Adversarial, seed: int) -> Lowered:
    with frozen(part.model):
        predictions = logits_of(part.model, part.batch.x).argmax(1)
    adversarial_x = adversarial.craft(part.model, part.batch, predictions, seed)

    def lowered() -> Step:
        clean, adv = part.on(part.batch.x), part.on(adversarial_x)
        return Step(0.5 * (clean.loss + adv.loss), clean.logits)

    return lowered


def _trades(part: _Part, adversarial: Adversarial, seed: int) -> Lowered:
    adv = adversarial.craft(part.model, part.batch, part.batch.y, seed)

    def lowered() -> Step:
        clean = part.on(part.batch.x)
        distance = divergence(forward(part.model, adv), clean.logits)
        return Step(clean.loss + adversarial.trades * distance, clean.logits)

    return lowered


def _ard(part: _Part, adversarial: Adversarial, seed: int) -> Lowered:
    teaching, weight = _lesson_alone(part.criterion)
    taught_part = dataclasses.replace(part, criterion=teaching)
    adv = adversarial.craft(part.model, part.batch, part.batch.y, seed)

    def lowered() -> Step:
        taught = taught_part.on(adv)
        plain = F.cross_entropy(forward(part.model, part.batch.x), part.batch.y)
        return Step((1 - weight) * plain + weight * taught.loss, taught.logits)

    return lowered


def _lesson_alone(criterion: Criterion) -> tuple[Teaching, float]:
    """Return the criterion with nothing but the teacher's term, and the weight that it had."""
    lesson: Any = criterion.lesson if isinstance(criterion, Teaching) else None
    if not hasattr(lesson, "weight"):
        raise UsageError(
            "the recipe `ard` needs a teacher whose lesson has a `weight`", "use `distill --kd soft-labels`"
        )
    assert isinstance(criterion, Teaching)
    return dataclasses.replace(criterion, lesson=dataclasses.replace(lesson, weight=1.0)), lesson.weight


RECIPES: dict[str, Callable[[_Part, Adversarial, int], Lowered]] = {
    "madry": _madry,
    "mixed": _mixed,
    "trades": _trades,
    "ard": _ard,
}


def objective(
    criterion: Criterion = CrossEntropy(),
    adversarial: Adversarial | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    seed: int = 0,
) -> Objective:
    """Return the objective of `fit`: the criterion, on adversarial images if set, plus the penalty of the noise.

    Raises `UsageError` for the recipe `ard` without a lesson.
    """
    if adversarial is not None and adversarial.recipe == "ard":
        _lesson_alone(criterion)

    def lowered(model: nn.Module, batch: TrainingBatch) -> Step:
        part = _Part(criterion, model, batch)
        if adversarial is None or batch.epoch < adversarial.delay:
            step = part.on(batch.x)
        else:
            step = adversarial.lower(part, seed)
        return step if penalty is None else Step(step.loss + penalty(model), step.logits)

    return lowered
