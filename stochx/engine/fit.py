"""The one training loop: seeded, checkpointed after every epoch, the same bytes when resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.seeds import generator, seeded
from stochx.engine.store import atomic
from stochx.engine.world import World
from stochx.errors import FailureError, InputError


@dataclass(frozen=True)
class Plan:
    """How to train: SGD with Nesterov momentum, the rate rising over a fifth of the steps, then falling to zero."""

    epochs: int
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    augment: bool = False  # shifts of up to an eighth of the side, and mirror images

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step: linear up, cosine down."""
        rise = max(1, steps // 5)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data came to."""

    epoch: int
    loss: float
    accuracy: float
    images_per_second: float


def fit(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    plan: Plan,
    seed: int,
    state: Path | None = None,
    resume: bool = False,
    world: World | None = None,
) -> Iterator[Epoch]:
    """Train `model` on (N, 3, H, W) uint8 and (N,) labels; yields after each epoch, when its checkpoint is stored.

    Under several ranks each takes its share of every batch and gradients are averaged. A loss that is not finite
    raises `FailureError`; the last checkpoint stays.
    """
    world = world or World()
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.SGD(parameters, plan.rate, plan.momentum, weight_decay=plan.decay, nesterov=True)
    first = _restore(state, model, optimizer) if resume and state is not None else 0
    steps = math.ceil(len(pixels) / plan.batch)
    for epoch in range(first, plan.epochs):
        start, seen, loss_sum, right = time.perf_counter(), 0, 0.0, 0
        model.train()
        order = torch.randperm(len(pixels), generator=generator(seed, "order", epoch))
        with seeded(seed, "epoch", epoch, world.rank):
            for step in range(steps):
                batch = order[step * plan.batch : (step + 1) * plan.batch][world.rank :: world.size]
                x, y = pixels[batch].to(device).float() / 255, labels[batch].to(device)
                x = _augment(x) if plan.augment else x
                for group in optimizer.param_groups:
                    group["lr"] = plan.rate_at(epoch * steps + step, plan.epochs * steps)
                out = model(x)
                loss = F.cross_entropy(out, y)
                if not loss.isfinite():
                    raise FailureError(
                        f"the loss is not finite in epoch {epoch + 1}, step {step + 1}",
                        "lower the learning rate",
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                _average(parameters, world)
                optimizer.step()
                seen += len(y)
                loss_sum += loss.item() * len(y)
                right += int((out.argmax(1) == y).sum())
        model.eval()
        if state is not None and world.leads:
            _store(state, model, optimizer, epoch + 1)
        seconds = time.perf_counter() - start
        yield Epoch(epoch + 1, loss_sum / max(seen, 1), right / max(seen, 1), len(order) / seconds)


def _average(parameters: list[nn.Parameter], world: World) -> None:
    if world.size == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world.size
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[: p.numel()].view_as(p))
            flat = flat[p.numel() :]


def _augment(x: Tensor) -> Tensor:
    """Each image shifted by up to an eighth of its side, zeros coming in, and mirrored half of the time."""
    reach = x.shape[-1] // 8
    padded = F.pad(x, (reach,) * 4)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, len(x), 1))
    rows = (torch.arange(x.shape[2]) + dy)[:, None, :, None].to(x.device)
    mirrored = torch.rand(len(x), 1) < 0.5
    place = torch.arange(x.shape[3])
    columns = (torch.where(mirrored, place.flip(0), place) + dx)[:, None, None, :].to(x.device)
    image = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def _store(path: Path, model: nn.Module, optimizer: torch.optim.SGD, epoch: int) -> None:
    tensors = {f"model.{k}": v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    for i, p in enumerate(optimizer.param_groups[0]["params"]):
        momentum = optimizer.state[p].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{i}"] = momentum.contiguous().clone()
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"epoch": str(epoch)})


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.SGD) -> int:
    """Load a checkpoint; how many epochs it has seen, 0 where there is none."""
    if not path.exists():
        return 0
    from safetensors import SafetensorError, safe_open

    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            epoch = int(file.metadata()["epoch"])
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    except (SafetensorError, RuntimeError, KeyError, TypeError):
        raise InputError(f"`{path}` does not fit this training", "use `--overwrite` to start again") from None
    for i, p in enumerate(optimizer.param_groups[0]["params"]):
        if f"momentum.{i}" in tensors:
            optimizer.state[p]["momentum_buffer"] = tensors[f"momentum.{i}"].to(p)
    return epoch
