"""What a training lowers: a criterion on logits, on clean images or on ones that an attack has changed.

    objective(Teaching(teacher, SoftLabels()), Adversarial(PGD(steps=7), Ball(8 / 255)))   # ARD (Goldblum et al., 2020)

A criterion is called with the network, its logits (N, K) for what it was shown, the clean images (N, 3, H, W) and the
labels (N,), and returns a scalar. The teachers of criteria see the clean images, also where the student does not.
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
from stochx.engine.network.classifier import Classifier
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Objective, Step, TrainingBatch, forward
from stochx.errors import UsageError
from stochx.lessons import Lesson

Criterion = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
Recipe = Literal["madry", "mixed", "trades"]


def cross_entropy(model: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """Mean -log p(y)."""
    return F.cross_entropy(logits, y)


@dataclass(frozen=True)
class Teaching:
    """A lesson of a teacher, as a criterion."""

    teacher: Classifier
    lesson: Lesson

    def show(self, x: Tensor) -> Tensor:
        """Return what the student is shown of images x."""
        show: Callable[[Tensor], Tensor] | None = getattr(self.lesson, "show", None)
        return x if show is None else show(x)

    def __call__(self, model: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        return self.lesson(self.teacher, model, logits, clean, y)


@dataclass(frozen=True)
class Adversarial:
    """Training on what an attack makes of each batch; `delay` epochs of plain training come first.

    madry   criterion(x')                                    (Madry et al., 2018)
    mixed   0.5 criterion(x) + 0.5 criterion(x'), x' crafted away from the clean prediction, which leaks no label
            (Kurakin et al., 2017; the recipe of PNI, He et al., 2019)
    trades  criterion(x) + trades KL(p(x) || p(x')), x' crafted to raise that divergence  (Zhang et al., 2019)

    Attacks see the network in eval mode, with frozen weights and its noise on. Random starts depend on the seed, the
    epoch and the image. No image leaves the attack early.
    """

    attack: Attack
    ball: Ball
    recipe: Recipe = "madry"
    trades: float = 6.0  # weight of the divergence
    delay: int = 0  # epochs

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UsageError(f"there is no recipe `{self.recipe}`", "choose from: " + ", ".join(RECIPES))
        if self.trades < 0 or self.delay < 0:
            raise UsageError("neither the weight of `trades` nor the delay may be negative")
        if self.recipe == "trades":
            object.__setattr__(self, "attack", _raising_divergence(self.attack))

    def craft(self, model: nn.Module, batch: TrainingBatch, y: Tensor, seed: int) -> Tensor:
        """X' (N, 3, H, W), in the ball around `batch.x` and in [0, 1], away from classes y (N,)."""
        keys = [f"{seed}/{batch.epoch}/{image}" for image in batch.index.tolist()]
        with at_rest(model):
            return self.attack(model, batch.x, y, self.ball, Context(keys)).x


def _raising_divergence(attack: Any) -> Attack:
    """The attack with the loss that TRADES wants."""
    if "kl" not in get_args(get_type_hints(type(attack)).get("loss")):
        raise UsageError("`trades` raises a divergence, which this attack cannot", "use `--adversarial pgd`")
    try:
        made: Attack = dataclasses.replace(attack, loss="kl")
    except ValueError as error:
        raise UsageError(f"`trades`: {error}") from None
    return made


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode and its weights are frozen; all modes and flags return after."""
    modes = {module: module.training for module in model.modules()}
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class _Part:
    """A criterion on one batch."""

    criterion: Criterion
    model: nn.Module
    batch: TrainingBatch

    def on(self, x: Tensor) -> Step:
        """Its value where the network is shown x, clean or not."""
        shown = self.criterion.show(x) if isinstance(self.criterion, Teaching) else x
        found = forward(self.model, shown)
        return Step(self.criterion(self.model, found, self.batch.x, self.batch.y), found)


def _madry(part: _Part, adversarial: Adversarial, seed: int) -> Step:
    return part.on(adversarial.craft(part.model, part.batch, part.batch.y, seed))


def _mixed(part: _Part, adversarial: Adversarial, seed: int) -> Step:
    with at_rest(part.model):
        said = logits_of(part.model, part.batch.x).argmax(1)
    changed = adversarial.craft(part.model, part.batch, said, seed)
    clean, adv = part.on(part.batch.x), part.on(changed)
    return Step(0.5 * (clean.loss + adv.loss), clean.logits)


def _trades(part: _Part, adversarial: Adversarial, seed: int) -> Step:
    adv = adversarial.craft(part.model, part.batch, part.batch.y, seed)
    clean = part.on(part.batch.x)
    apart = divergence(forward(part.model, adv), clean.logits)
    return Step(clean.loss + adversarial.trades * apart, clean.logits)


RECIPES: dict[str, Callable[[_Part, Adversarial, int], Step]] = {"madry": _madry, "mixed": _mixed, "trades": _trades}


def objective(
    criterion: Criterion = cross_entropy,
    adversarial: Adversarial | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    seed: int = 0,
) -> Objective:
    """What `fit` lowers: the criterion, on attacked images if `adversarial`, plus what the network's noise asks for."""

    def lowered(model: nn.Module, batch: TrainingBatch) -> Step:
        part = _Part(criterion, model, batch)
        if adversarial is None or batch.epoch < adversarial.delay:
            step = part.on(batch.x)
        else:
            step = RECIPES[adversarial.recipe](part, adversarial, seed)
        return step if penalty is None else Step(step.loss + penalty(model), step.logits)

    return lowered
