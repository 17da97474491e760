"""The training loop: seeded, checkpointed after every epoch, resumable bit for bit, on one or several ranks."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx import interrupts
from stochx.engine.device import current, fast_layout, in_parts, lay_out
from stochx.engine.network.reading import SINGLE_VALUE, output_in_training
from stochx.engine.seeds import generator, seeded
from stochx.engine.training import checkpoint
from stochx.engine.training.average import Average, put, tensors_of
from stochx.engine.training.items import Items
from stochx.engine.training.malloc import retain_freed_memory
from stochx.engine.training.schedule import SCHEDULES, Schedule
from stochx.engine.whole import has_finite_gradients, share_buffers, shared_by, sum_gradients
from stochx.engine.world import World
from stochx.errors import InputError, LostRankError, RunError


@dataclass(frozen=True)
class Plan:
    """Training settings: `rate` is the peak learning rate, `batch` the number of items per step over all ranks.

    `accumulate` splits a batch into parts whose gradients are summed, to save memory; once it runs out there are more.
    `average` is the EMA decay of the weights (0: none), `patience` the number of epochs without improvement before an
    early stop (0: never). SGD uses Nesterov momentum, AdamW (Loshchilov & Hutter, 2019) torch's betas.
    """

    epochs: int
    batch: int = 128
    rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Schedule = "one-cycle"
    momentum: float = 0.9
    decay: float = 5e-4
    accumulate: int = 1
    augment: bool = False  # augment the images
    average: float = 0.0
    patience: int = 0


@dataclass(frozen=True)
class TrainingBatch:
    """The batch of a step: x (N, 3, H, W) in [0, 1], y (N,), and the items' indices `index` (N,) on the CPU.

    Items of several images have further axes after the first. Epochs and steps count from 0.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    step: int


@dataclass(frozen=True)
class Step:
    """The mean loss of a batch, and the logits (*y.shape, K) for training accuracy."""

    loss: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Epoch:
    """The result of one pass over the data; `epoch` counts from 1, `measures` come from the validation."""

    epoch: int
    loss: float
    accuracy: float
    images_per_second: float  # or items per second
    measures: Mapping[str, float] = field(default_factory=dict)


Objective = Callable[[nn.Module, TrainingBatch], Step]
Validate = Callable[[nn.Module], Mapping[str, float]]


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits (N, K) in the type of x, computed in the runtime's precision."""
    with current().autocast():
        return output_in_training(model, x).to(x.dtype)


def cross_entropy(model: nn.Module, batch: TrainingBatch) -> Step:
    """Return the classification loss, mean -log p(y)."""
    logits = forward(model, batch.x)
    return Step(F.cross_entropy(logits, batch.y), logits)


def fit(
    model: nn.Module,
    items: Items,
    plan: Plan,
    seed: int,
    state: Path | None = None,
    resume: bool = False,
    world: World | None = None,
    *,
    objective: Objective = cross_entropy,
    groups: Sequence[Mapping[str, Any]] | None = None,
    validate: Validate | None = None,
    best: str | None = None,
) -> Iterator[Epoch]:
    """Train `model` on `items`; yield after each epoch, once its checkpoint is stored.

    At a yield the model is in eval mode with its final weights (the average, if there is one); at the end it has those
    of the epoch with the largest `validate(model)[best]`. `groups` are the optimizer's, by default all trainable
    weights. With `resume` the last stored epoch is yielded again first, as the caller may not have processed it. With
    several ranks each takes its share of every batch; gradients and the statistics of batches are summed (`whole`).

    Raises `RunError` for a loss, gradient or weight that is not finite, which leaves the last checkpoint; `InputError`
    for batches too small for batch norms and for a checkpoint of another training run.
    """
    world = world or World()
    retain_freed_memory()
    _check_sizes(model, items, plan, world)
    optimizer = _optimizer(groups or [{"params": [p for p in model.parameters() if p.requires_grad]}], plan)
    lay_out(model, fast_layout(model))
    average = Average(model, plan.average)
    loop = _Loop(model, items, plan, seed, world, objective, optimizer, average)
    return _epochs(loop, state, resume, validate, best)


def _epochs(
    loop: _Loop, state: Path | None, resume: bool, validate: Validate | None, best: str | None
) -> Iterator[Epoch]:
    """Run the epochs of `fit`."""
    model, plan, average, progress = loop.model, loop.plan, loop.average, checkpoint.Progress()
    if resume and state is not None:
        progress = checkpoint.read(state, model, loop.optimizer, average.values)
    model.eval()
    average.show()
    if progress.last:
        yield Epoch(**progress.last)
    for epoch in range(int(progress.last.get("epoch", 0)), plan.epochs):
        if best is not None and plan.patience and epoch - progress.best_epoch >= plan.patience:
            break
        average.hide()
        model.train()
        trained = loop.run(epoch)
        model.eval()
        average.show()
        measures: Mapping[str, float] = {}
        if validate is not None:
            with seeded(loop.seed, "validate", epoch):
                measures = loop.world.gather([_validated(model, validate, epoch)])[0]  # all ranks use the leader's
        trained = dataclasses.replace(trained, measures=measures)
        progress.last = dataclasses.asdict(trained)
        if best is not None and measures[best] > progress.best_value:
            progress.best_epoch, progress.best_value, progress.best = epoch + 1, measures[best], tensors_of(model)
        if state is not None and loop.world.leads:
            average.hide()
            checkpoint.write(state, model, loop.optimizer, average.values, progress)
            average.show()
        yield trained
    put(model, progress.best)


def _validated(model: nn.Module, validate: Validate, epoch: int) -> dict[str, float]:
    try:
        return dict(validate(model))
    except RunError as error:  # finite weights that overflow
        raise RunError(f"{error} after epoch {epoch + 1}", "lower the learning rate") from None


def _check_weights(model: nn.Module, where: str) -> None:
    """Raise `RunError` for weights that are not finite: the last step's show in no loss."""
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise RunError(f"`{name}` is not finite {where}", "lower the learning rate")


def _check_sizes(model: nn.Module, items: Items, plan: Plan, world: World) -> None:
    if not len(items):
        raise InputError("there are no training images", "check the data set")
    images, parts = min(plan.batch, len(items)), world.size * plan.accumulate
    norms = items.minimum > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    norms = norms and images // plan.accumulate < 2
    if norms or images < parts:
        need = "batch norms need two images per part" if norms else "there are more parts than images"
        raise InputError(f"a step has {images} images in {parts} parts: {need}", "use a larger batch, or fewer parts")


def _optimizer(groups: Sequence[Mapping[str, Any]], plan: Plan) -> torch.optim.Optimizer:
    parameters = [{**group, "params": [*group["params"]]} for group in groups]
    fused = all(p.is_cuda for group in parameters for p in group["params"])
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(parameters, plan.rate, weight_decay=plan.decay, fused=fused)
    nesterov = plan.momentum > 0
    return torch.optim.SGD(
        parameters, plan.rate, plan.momentum, weight_decay=plan.decay, nesterov=nesterov, fused=fused
    )


@dataclass
class _Loop:
    """The steps of an epoch."""

    model: nn.Module
    items: Items
    plan: Plan
    seed: int
    world: World
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: Average

    def __post_init__(self) -> None:
        self.layout = fast_layout(self.model)
        self.parts = self.plan.accumulate  # of a batch; fewer if batch norms need larger ones

    def run(self, epoch: int) -> Epoch:
        """Run one pass over the data in random order; a last batch that is too small is left out."""
        start, plan = time.perf_counter(), self.plan
        order = torch.randperm(len(self.items), generator=generator(self.seed, "order", epoch))
        minimum = self.items.minimum
        batches = [part for part in torch.split(order, plan.batch) if len(part) >= minimum or len(order) <= plan.batch]
        loss_sum, correct_sum, total = 0.0, 0, 0
        with seeded(self.seed, "epoch", epoch, self.world.rank):
            for step, whole in enumerate(batches):
                interrupts.check()
                done = epoch * len(batches) + step
                for group in self.optimizer.param_groups:
                    group["lr"] = plan.rate * SCHEDULES[plan.schedule](done, plan.epochs * len(batches))
                loss, correct, count = self._descend(whole, epoch, step)
                self.average.update(done)
                loss_sum, correct_sum, total = loss_sum + loss * len(whole), correct_sum + correct, total + count
        share_buffers(self.model, self.world)
        _check_weights(self.model, f"after epoch {epoch + 1}, step {len(batches)}")
        seen, counts = sum(map(len, batches)), self.world.gather([(correct_sum, total)])
        correct_sum, total = (sum(part) for part in zip(*counts, strict=True))
        return Epoch(epoch + 1, loss_sum / seen, correct_sum / total, seen / (time.perf_counter() - start))

    def _descend(self, whole: Tensor, epoch: int, step: int) -> tuple[float, int, int]:
        """Take a step on the items `whole` (N,); return the loss of all ranks, and this rank's correct and total."""
        where = f"in epoch {epoch + 1}, step {step + 1}"
        losses, correct, count = list[Tensor](), list[Tensor](), 0

        def climb(parts: int) -> None:
            nonlocal losses, correct, count
            self.optimizer.zero_grad()
            losses, correct, count = [], [], 0
            for batch, ranks in self._batches(whole, epoch, step, parts):
                with shared_by(self.world, ranks):
                    result = self.objective(self.model, batch)
                    share = result.loss * (len(batch.y) / len(whole) / ranks)
                    share.backward()  # type: ignore[no-untyped-call]
                losses.append(share.detach())
                if ranks == 1 or self.world.leads:
                    correct.append((result.logits.argmax(-1) == batch.y).sum())
                    count += batch.y.numel()

        most = max(1, len(whole) // self.items.minimum)
        asked = min(self.parts, most)
        try:
            parts = in_parts(self.model, asked, most if self.world.size == 1 else asked, climb)
            self.parts = max(self.parts, parts)
        except LostRankError:
            raise
        except RunError as error:  # an attack in the objective met non-finite values
            raise RunError(f"{error} {where}", "lower the learning rate") from None
        except ValueError as error:
            if SINGLE_VALUE not in str(error):
                raise
            raise InputError("a batch norm got a single value per channel", "use another batch size") from None
        loss = sum_gradients(self.optimizer, losses, self.world)
        if not math.isfinite(loss):
            raise RunError(f"the loss is not finite {where}", "lower the learning rate")
        if not has_finite_gradients(self.optimizer):
            raise RunError(f"the gradient is not finite {where}", "lower the learning rate")
        self.optimizer.step()
        return loss, int(sum(correct)), count

    def _batches(self, whole: Tensor, epoch: int, step: int, parts: int) -> Iterator[tuple[TrainingBatch, int]]:
        """Yield this rank's share of each part of the items `whole` of a step, and how many ranks have the same.

        All do where there are too few items for each to have one: in every part they meet.
        """
        like = self.optimizer.param_groups[0]["params"][0]
        for part in torch.tensor_split(torch.arange(len(whole)), parts):
            start, stop, ranks = int(part[0]), int(part[-1]) + 1, self.world.size
            shared = len(part) >= ranks
            mine = slice(start + self.world.rank, stop, ranks) if shared else slice(start, stop)
            source = generator(self.seed, "augment", epoch, step) if self.plan.augment else None
            x, y = self.items.batch(whole, mine, epoch, like, source)
            x = x.contiguous(memory_format=self.layout) if x.dim() == 4 else x  # episodes lay theirs out themselves
            yield TrainingBatch(x, y, whole[mine], epoch, step), 1 if shared else ranks
