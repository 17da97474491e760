"""The one training loop: seeded, checkpointed after every epoch, the same bytes when resumed, on one rank or many."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.device import current
from stochx.engine.seeds import generator, seeded
from stochx.engine.training import checkpoint
from stochx.engine.training.average import Average, put, tensors_of
from stochx.engine.training.items import Items
from stochx.engine.training.malloc import retain_freed_memory
from stochx.engine.training.schedule import SCHEDULES, Schedule
from stochx.engine.world import World
from stochx.errors import InputError, RunError


@dataclass(frozen=True)
class Plan:
    """How to train: `rate` is the largest learning rate, `batch` the items of a step, over all ranks.

    `accumulate` cuts a batch into so many parts, whose gradients are summed: less memory, the same step. `average` is
    the decay of a moving average of the weights (0: none), `patience` after how many epochs without a better
    validation to stop (0: never). SGD has Nesterov's momentum; AdamW (Loshchilov & Hutter, 2019) torch's betas.
    """

    epochs: int
    batch: int = 128
    rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Schedule = "one-cycle"
    momentum: float = 0.9
    decay: float = 5e-4
    accumulate: int = 1
    augment: bool = False  # random changes of the images
    average: float = 0.0
    patience: int = 0


@dataclass(frozen=True)
class TrainingBatch:
    """What a step learns from: x (N, 3, H, W) in [0, 1], y (N,), and which items they are, `index` (N,) on the CPU.

    Items that hold several images have further axes after the first. Epochs and steps count from 0.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    epoch: int
    step: int


@dataclass(frozen=True)
class Step:
    """A loss to be lowered, the mean over a batch, and logits (*y.shape, K) that training accuracy is counted on."""

    loss: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to; `epoch` counts from 1, `measures` is what the validation found."""

    epoch: int
    loss: float
    accuracy: float
    images_per_second: float  # or whatever else the items are
    measures: Mapping[str, float] = field(default_factory=dict)


Objective = Callable[[nn.Module, TrainingBatch], Step]
Validate = Callable[[nn.Module], Mapping[str, float]]


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, K) in the precision of x, computed in that of the runtime."""
    with current().autocast():
        found: Tensor = model(x)
    return found.to(x.dtype)


def cross_entropy(model: nn.Module, batch: TrainingBatch) -> Step:
    """Plain classification: mean -log p(y)."""
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
    """Train `model` on `items`; yields after each epoch, when its checkpoint is stored.

    At a yield the model is in eval mode with the weights that count (the average, where there is one); after the last
    one it has those of the epoch with the largest `validate(model)[best]`. `groups` are the optimizer's, all trainable
    weights by default. With `resume` the last stored epoch comes first once more, since what its reader does with it
    may not have been finished. Under several ranks each takes its share of every batch, and gradients are summed.

    Raises `RunError` for a loss that is not finite, and leaves the last checkpoint; `InputError` for batches too
    small for batch norms and for a checkpoint of another training.
    """
    world = world or World()
    retain_freed_memory()
    _check_sizes(model, items, plan, world)
    optimizer = _optimizer(groups or [{"params": [p for p in model.parameters() if p.requires_grad]}], plan)
    average = Average(model.to(memory_format=torch.channels_last), plan.average)
    loop = _Loop(model, items, plan, seed, world, objective, optimizer, average)
    return _epochs(loop, state, resume, validate, best)


def _epochs(
    loop: _Loop, state: Path | None, resume: bool, validate: Validate | None, best: str | None
) -> Iterator[Epoch]:
    """The epochs of `fit`."""
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
                measures = loop.world.gather([dict(validate(model))])[0]  # all ranks go by the leader's
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


def _check_sizes(model: nn.Module, items: Items, plan: Plan, world: World) -> None:
    if not len(items):
        raise InputError("there are no images to train on", "check the data set")
    images, parts = min(plan.batch, len(items)), world.size * plan.accumulate
    norms = items.minimum > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if images // parts < (2 if norms else 1):
        need = "a batch norm needs two at once" if norms else "there are more parts than images"
        raise InputError(f"a step has {images} images in {parts} parts: {need}", "use a larger batch, or fewer parts")


def _optimizer(groups: Sequence[Mapping[str, Any]], plan: Plan) -> torch.optim.Optimizer:
    given = [{**group, "params": [*group["params"]]} for group in groups]
    fused = all(p.is_cuda for group in given for p in group["params"])
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(given, plan.rate, weight_decay=plan.decay, fused=fused)
    nesterov = plan.momentum > 0
    return torch.optim.SGD(given, plan.rate, plan.momentum, weight_decay=plan.decay, nesterov=nesterov, fused=fused)


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

    def run(self, epoch: int) -> Epoch:
        """One pass over the data in an order of its own; a lone last image waits for another epoch."""
        start, plan = time.perf_counter(), self.plan
        order = torch.randperm(len(self.items), generator=generator(self.seed, "order", epoch))
        least = self.items.minimum
        batches = [part for part in torch.split(order, plan.batch) if len(part) >= least or len(order) <= plan.batch]
        lost, right, answers = 0.0, 0, 0
        with seeded(self.seed, "epoch", epoch, self.world.rank):
            for step, whole in enumerate(batches):
                done = epoch * len(batches) + step
                for group in self.optimizer.param_groups:
                    group["lr"] = plan.rate * SCHEDULES[plan.schedule](done, plan.epochs * len(batches))
                loss, correct, asked = self._descend(whole, epoch, step)
                self.average.update(done)
                lost, right, answers = lost + loss * len(whole), right + correct, answers + asked
        _share_buffers(self.model, self.world)
        seen, counts = sum(map(len, batches)), self.world.gather([(right, answers)])
        right, answers = (sum(part) for part in zip(*counts, strict=True))
        return Epoch(epoch + 1, lost / seen, right / answers, seen / (time.perf_counter() - start))

    def _descend(self, whole: Tensor, epoch: int, step: int) -> tuple[float, int, int]:
        """One step on the items `whole` (N,): the loss of all ranks; this one's right answers, and all its answers."""
        where = f"in epoch {epoch + 1}, step {step + 1}"
        self.optimizer.zero_grad()
        losses, correct, asked = list[Tensor](), list[Tensor](), 0
        try:
            for batch in self._parts(whole, epoch, step):
                found = self.objective(self.model, batch)
                share = found.loss * (len(batch.y) / len(whole))
                share.backward()  # type: ignore[no-untyped-call]
                losses.append(share.detach())
                correct.append((found.logits.argmax(-1) == batch.y).sum())
                asked += batch.y.numel()
        except RunError as error:  # an attack inside met what is not finite
            raise RunError(f"{error}, {where}", "lower the learning rate") from None
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError("a batch norm met a single value per channel", "use another batch size") from None
        loss = _sum_over_ranks(self.optimizer, losses, self.world)
        if not math.isfinite(loss):
            raise RunError(f"the loss is not finite {where}", "lower the learning rate")
        self.optimizer.step()
        return loss, int(sum(correct)), asked

    def _parts(self, whole: Tensor, epoch: int, step: int) -> Iterator[TrainingBatch]:
        """The share of this rank in a batch, in `accumulate` parts that a batch norm can take."""
        like = self.optimizer.param_groups[0]["params"][0]
        source = generator(self.seed, "augment", epoch, step) if self.plan.augment else None
        mine = slice(self.world.rank, None, self.world.size)
        index = whole[mine]
        x, y = self.items.batch(whole, mine, epoch, like, source)
        parts = min(self.plan.accumulate, max(1, len(index) // self.items.minimum))
        for images, labels, places in zip(*(torch.tensor_split(v, parts) for v in (x, y, index)), strict=True):
            if len(places):
                yield TrainingBatch(images, labels, places, epoch, step)


def _sum_over_ranks(optimizer: torch.optim.Optimizer, losses: Sequence[Tensor], world: World) -> float:
    """The loss of a whole batch; every rank's gradients become those of all."""
    if world.size == 1:
        return float(sum(losses))
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for p in weights:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    loss = sum(losses, weights[0].new_zeros(()))
    flat = torch.cat([*(p.grad.flatten() for p in weights), loss[None].to(weights[0])])
    dist.all_reduce(flat)
    for p, found in zip(weights, torch.split(flat[:-1], [p.numel() for p in weights]), strict=True):
        p.grad.copy_(found.view_as(p))
    return float(flat[-1])


def _share_buffers(model: nn.Module, world: World) -> None:
    """Running statistics become their mean over the ranks."""
    if world.size > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world.size
