"""Few-shot episodes: classes and images drawn as tensors of places, and pixels fetched by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator
from stochx.engine.training.augment import views
from stochx.errors import InputError, UsageError, printable

BLOCK = 100  # episodes drawn by one generator: more episodes begin with the same ones


@dataclass(frozen=True)
class Task:
    """What an episode asks: `way` classes by `shot` labelled images each, for `queries` further images of each."""

    way: int = 5
    shot: int = 5
    queries: int = 16

    def __post_init__(self) -> None:
        for name, least in (("way", 2), ("shot", 1), ("queries", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"`--{name} {getattr(self, name)}` is too few", f"at least {least}")


@dataclass(frozen=True)
class Pool:
    """The images of a domain by class: `table` (K, M) has the places of each class's images, `counts` (K,) of them."""

    name: str
    classes: tuple[str, ...]
    table: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Drawn:
    """E episodes: places of images, support (E, N, K) and query (E, N q), class major, and their classes (E, N)."""

    support: Tensor
    query: Tensor
    classes: Tensor


def pool(name: str, classes: Sequence[str], labels: Tensor) -> Pool:
    """The pool of images with these labels (n,); classes without an image are left out."""
    kept = sorted({*labels.tolist()})
    places = [(labels == k).nonzero().flatten() for k in kept]
    if not places:
        raise InputError(f"`{name}` has no images", "check the data set")
    return Pool(
        name,
        tuple(classes[k] for k in kept),
        torch.nn.utils.rnn.pad_sequence(places, batch_first=True),
        torch.tensor([len(part) for part in places]),
    )


def check_pool(source: Pool, task: Task) -> None:
    """Raises `InputError`, with names, for a pool that episodes cannot be drawn from."""
    if len(source.classes) < task.way:
        raise InputError(
            f"`{source.name}` has {len(source.classes)} classes, an episode needs {task.way}",
            f"use `--way {len(source.classes)}`" if len(source.classes) > 1 else "use a data set of more classes",
        )
    need = task.shot + task.queries
    few = [f"`{printable(c)}` has {n}" for c, n in zip(source.classes, source.counts.tolist(), strict=True) if n < need]
    if few:
        more = f" and {len(few) - 1} more classes have too few" if len(few) > 1 else ""
        raise InputError(
            f"`{source.name}`: the class {few[0]} images, an episode takes {task.shot} + {task.queries}{more}",
            "use fewer `--queries` or a smaller `--shot`, or leave such classes out",
        )


def draw(source: Pool, task: Task, count: int, *keys: Key) -> Drawn:
    """`count` episodes that depend on the keys alone: distinct classes, and distinct images of each."""
    check_pool(source, task)
    blocks = [_block(source, task, *keys, block) for block in range(-(-count // BLOCK))]
    parts = (torch.cat(part)[:count] for part in zip(*blocks, strict=True))
    return Drawn(*parts)


def _block(source: Pool, task: Task, *keys: Key) -> tuple[Tensor, Tensor, Tensor]:
    chance = generator(*keys)
    classes = torch.rand(BLOCK, len(source.classes), generator=chance).argsort(1)[:, : task.way]
    order = torch.rand(BLOCK, task.way, source.table.shape[1], generator=chance)
    absent = torch.arange(source.table.shape[1]) >= source.counts[classes, None]
    chosen = order.masked_fill(absent, 2.0).topk(task.shot + task.queries, 2, largest=False).indices
    places = source.table[classes].gather(2, chosen)
    return places[..., : task.shot], places[..., task.shot :].flatten(1), classes


def answers(task: Task, episodes: int) -> Tensor:
    """The classes (E, N q) of the queries, in 0..N-1."""
    return torch.arange(task.way).repeat_interleave(task.queries).expand(episodes, -1)


@dataclass(frozen=True)
class Domain:
    """A pool with its pixels (n, 3, H, W) uint8; its classes are numbered from `first` among those of all domains."""

    pool: Pool
    pixels: Tensor
    first: int = 0


class Episodes:
    """What few-shot training learns from: `count` episodes an epoch, whose domains take turns.

    x are the images (E, N K + N q, 3, H, W) of E episodes, support first; y (E, N q) the queries' classes.
    """

    minimum: ClassVar[int] = 1

    def __init__(self, domains: Sequence[Domain], task: Task, count: int, seed: int) -> None:
        self.domains, self.task, self.count, self.seed = domains, task, count, seed
        self._last: tuple[int, list[Drawn]] = (-1, [])

    def __len__(self) -> int:
        return self.count

    def drawn(self, epoch: int) -> list[Drawn]:
        """The episodes of an epoch by domain: the i-th of all is the (i // D)-th of domain i % D."""
        if self._last[0] != epoch:
            share = -(-self.count // len(self.domains))
            keys = [(self.seed, "episodes", domain.pool.name, epoch) for domain in self.domains]
            found = [draw(one.pool, self.task, share, *key) for one, key in zip(self.domains, keys, strict=True)]
            self._last = epoch, found
        return self._last[1]

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Images and answers; `source` draws the views of each image."""
        drawn, episodes = self.drawn(epoch), []
        for i in whole.tolist()[mine]:
            at, one = divmod(i, len(self.domains))
            places = torch.cat([drawn[one].support[at].flatten(), drawn[one].query[at]])
            episodes.append(self.domains[one].pixels[places].to(like.device, non_blocking=True))
        x = torch.stack(episodes).to(like.dtype) / 255
        if source is not None:
            x = views(x, mine, len(whole), source)
        return x, answers(self.task, len(x)).to(like.device)

    def base(self, index: Tensor, epoch: int) -> Tensor:
        """The queries' classes (E, N q) among those of all domains, for episodes `index` (E,) of an epoch."""
        drawn, count = self.drawn(epoch), len(self.domains)
        rows = [drawn[i % count].classes[i // count] + self.domains[i % count].first for i in index.tolist()]
        return torch.stack(rows).repeat_interleave(self.task.queries, 1)
