"""Few-shot episodes: classes and images drawn as tensors of indices, which select the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator
from stochx.engine.training.augment import views
from stochx.errors import InputError, UsageError, printable

BLOCK = 100  # episodes per generator, so that a longer sequence begins with the same episodes


@dataclass(frozen=True)
class Task:
    """The shape of an episode: `way` classes with `shot` labelled images and `queries` query images each."""

    way: int = 5
    shot: int = 5
    queries: int = 16

    def __post_init__(self) -> None:
        for name, minimum in (("way", 2), ("shot", 1), ("queries", 1)):
            if getattr(self, name) < minimum:
                raise UsageError(f"`--{name} {getattr(self, name)}` is too few", f"use at least {minimum}")


@dataclass(frozen=True)
class Pool:
    """The images of a domain: `table` (K, M) holds the indices of each class's images, `counts` (K,) their number."""

    name: str
    classes: tuple[str, ...]
    table: Tensor
    counts: Tensor


@dataclass(frozen=True)
class EpisodeIndices:
    """E episodes: indices of support images (E, N, K) and queries (E, N q), class-major, and classes (E, N)."""

    support: Tensor
    query: Tensor
    classes: Tensor


def pool(name: str, classes: Sequence[str], labels: Tensor) -> Pool:
    """Return the pool of images with labels (n,); classes without images are left out."""
    used = sorted({*labels.tolist()})
    places = [(labels == k).nonzero().flatten() for k in used]
    if not places:
        raise InputError(f"`{name}` has no images", "check the data set")
    return Pool(
        name,
        tuple(classes[k] for k in used),
        torch.nn.utils.rnn.pad_sequence(places, batch_first=True),
        torch.tensor([len(part) for part in places]),
    )


def check_pool(source: Pool, task: Task) -> None:
    """Raise `InputError` for a pool with too few classes, or too few images of a class, for such episodes."""
    if len(source.classes) < task.way:
        raise InputError(
            f"`{source.name}` has {len(source.classes)} classes, but an episode needs {task.way}",
            f"use `--way {len(source.classes)}`" if len(source.classes) > 1 else "use a data set with more classes",
        )
    need = task.shot + task.queries
    few = [f"`{printable(c)}` has {n}" for c, n in zip(source.classes, source.counts.tolist(), strict=True) if n < need]
    if few:
        more = f"; {len(few) - 1} more classes have too few" if len(few) > 1 else ""
        raise InputError(
            f"`{source.name}`: the class {few[0]} images, but an episode needs {task.shot} + {task.queries}{more}",
            "use a smaller `--queries` or `--shot`, or leave these classes out",
        )


def draw(source: Pool, task: Task, count: int, *keys: Key) -> EpisodeIndices:
    """Draw `count` episodes that depend on the keys alone: distinct classes, and distinct images of each."""
    check_pool(source, task)
    blocks = [_block(source, task, *keys, block) for block in range(-(-count // BLOCK))]
    parts = (torch.cat(part)[:count] for part in zip(*blocks, strict=True))
    return EpisodeIndices(*parts)


def _block(source: Pool, task: Task, *keys: Key) -> tuple[Tensor, Tensor, Tensor]:
    chance = generator(*keys)
    classes = torch.rand(BLOCK, len(source.classes), generator=chance).argsort(1)[:, : task.way]
    order = torch.rand(BLOCK, task.way, source.table.shape[1], generator=chance)
    absent = torch.arange(source.table.shape[1]) >= source.counts[classes, None]
    chosen = order.masked_fill(absent, 2.0).topk(task.shot + task.queries, 2, largest=False).indices
    places = source.table[classes].gather(2, chosen)
    return places[..., : task.shot], places[..., task.shot :].flatten(1), classes


def answers(task: Task, episodes: int) -> Tensor:
    """Return the classes (E, N q) of the queries, in 0..N-1."""
    return torch.arange(task.way).repeat_interleave(task.queries).expand(episodes, -1)


@dataclass(frozen=True)
class Domain:
    """A pool with its pixels (n, 3, H, W) uint8; `first` is the index of its first class among those of all domains."""

    pool: Pool
    pixels: Tensor
    first: int = 0


class Episodes:
    """Training items of few-shot learning: `count` episodes per epoch, from the domains in turn.

    x are the images (E, N K + N q, 3, H, W) of E episodes, support first; y (E, N q) are the queries' classes.
    """

    minimum: ClassVar[int] = 1

    def __init__(self, domains: Sequence[Domain], task: Task, count: int, seed: int) -> None:
        self.domains, self.task, self.count, self.seed = domains, task, count, seed
        self._last: tuple[int, list[EpisodeIndices]] = (-1, [])

    def __len__(self) -> int:
        return self.count

    def indices(self, epoch: int) -> list[EpisodeIndices]:
        """Return the episodes of an epoch by domain: episode i is number i // D of domain i % D."""
        if self._last[0] != epoch:
            share = -(-self.count // len(self.domains))
            keys = [(self.seed, "episodes", domain.pool.name, epoch) for domain in self.domains]
            episodes = [draw(d.pool, self.task, share, *key) for d, key in zip(self.domains, keys, strict=True)]
            self._last = epoch, episodes
        return self._last[1]

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return images and the queries' classes; `source` seeds the augmentation of each image."""
        indices, episodes = self.indices(epoch), []
        for i in whole.tolist()[mine]:
            number, domain = divmod(i, len(self.domains))
            places = torch.cat([indices[domain].support[number].flatten(), indices[domain].query[number]])
            episodes.append(self.domains[domain].pixels[places].to(like.device, non_blocking=True))
        x = torch.stack(episodes).to(like.dtype) / 255
        if source is not None:
            x = views(x, mine, len(whole), source)
        return x, answers(self.task, len(x)).to(like.device)

    def base(self, index: Tensor, epoch: int) -> Tensor:
        """Return the queries' classes (E, N q) among those of all domains, for episodes `index` (E,) of an epoch."""
        indices, count = self.indices(epoch), len(self.domains)
        rows = [indices[i % count].classes[i // count] + self.domains[i % count].first for i in index.tolist()]
        return torch.stack(rows).repeat_interleave(self.task.queries, 1)
