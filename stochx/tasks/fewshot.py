"""Few-shot training by episodes, and evaluation of few-shot networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stochx.engine.device import full_precision, in_batches
from stochx.engine.fewshot.episodes import Domain, EpisodeIndices, Episodes, Pool, Task, answers, draw, pool
from stochx.engine.fewshot.head import Guide, guided_loss
from stochx.engine.fewshot.network import FewShotNetwork, cached_features, scores_of
from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation
from stochx.engine.network.stochastic import at_scale
from stochx.engine.passes import Report, unreported
from stochx.engine.training.fit import Objective, Step, TrainingBatch, Validate
from stochx.engine.world import World
from stochx.errors import InputError, printable
from stochx.tasks.batches import Failed
from stochx.tasks.reading import stack

# Approximate bytes of the episodes compared at once; on a CPU they fit its caches
AT_ONCE, AT_ONCE_CPU = 256 * 2**20, 4 * 2**20


ReadDomain = tuple[Domain, Sequence[Failed]]
"""A domain, and the images that could not be read."""


def domain_of(
    name: str, data: Data, preparation: Preparation, first: int = 0, report: Report = unreported
) -> ReadDomain:
    """Return the images of a data set as a domain, with classes numbered from `first`."""
    images = stack(data, preparation, report)
    return Domain(pool(name, data.classes, images.labels), images.pixels, first), images.failed


def domains_of(named: Mapping[str, Data], preparation: Preparation, report: Report = unreported) -> list[ReadDomain]:
    """Return all data sets as domains, with consecutively numbered classes."""
    domains: list[ReadDomain] = []
    first = 0
    for name, data in named.items():
        domains.append(domain_of(name, data, preparation, first, report))
        first += len(domains[-1][0].pool.classes)
    return domains


def are_disjoint(train: Pool, other: Pool) -> bool:
    """Return True if two splits of a domain share no class, and False if they have the same classes.

    Raises `InputError` if they share only some classes: accuracy on those would not be few-shot.
    """
    shared = sorted({*train.classes} & {*other.classes})
    if shared and {*train.classes} != {*other.classes}:
        raise InputError(
            f"`{train.name}`: {len(shared)} classes are in two splits, e.g. `{printable(shared[0])}`",
            "assign every class to one split",
        )
    return not shared


def episode_objective(model: FewShotNetwork, guide: Guide, episodes: Episodes, seed: int) -> Objective:
    """Return the training objective: xi L + lambda L_guided of the head (Sun et al., 2020)."""

    def lowered(network: nn.Module, batch: TrainingBatch) -> Step:
        task = episodes.task
        examples = task.way * task.shot
        maps = network(batch.x)
        support = torch.unflatten(maps[:, :examples], 1, (task.way, task.shot))
        base = episodes.base(batch.index, batch.epoch).to(batch.y.device)
        keys = seed, "guide", batch.epoch, batch.step
        loss, scores = guided_loss(model.head, guide, support, maps[:, examples:], batch.y, keys, base)
        return Step(loss, scores)

    return lowered


def test_episodes(domain: Domain, task: Task, count: int, seed: int) -> EpisodeIndices:
    """Return the episodes of an evaluation, which depend on domain, task and seed alone."""
    return draw(domain.pool, task, count, seed, "test", domain.pool.name)


def accuracies(
    model: FewShotNetwork,
    domain: Domain,
    tasks: Sequence[Task],
    count: int,
    seed: int,
    transductive: bool = False,
    world: World | None = None,
    report: Report = unreported,
) -> list[Tensor]:
    """Return, per task, the accuracies (count,) in episodes that depend on domain, task and seed alone.

    The features of every image are computed once, without noise. Ranks share the episodes. Predictions are in full
    precision. `report` counts the images of the domain, and the episodes of this rank.
    """
    world = world or World()
    episodes = []
    for task in tasks:
        indices = test_episodes(domain, task, count, seed)
        episodes.append(torch.cat([indices.support.flatten(1), indices.query], 1)[world.rank :: world.size])
    places = torch.unique(torch.cat([part.flatten() for part in episodes]))
    with at_scale(model, 0.0):
        report(len(domain.pixels) - len(places))  # which no episode needs
        maps = cached_features(model, domain.pixels, places, report)
    results = []
    for task, images in zip(tasks, episodes, strict=True):
        at = torch.searchsorted(places, images.contiguous())
        mine = accuracy_per_episode(model, maps, at, task, transductive, report)
        result = torch.empty(count, dtype=torch.float64)
        for rank, part in enumerate(world.gather([mine])):
            result[rank :: world.size] = part
        results.append(result)
    return results


def accuracy_per_episode(
    model: FewShotNetwork, maps: Tensor, at: Tensor, task: Task, transductive: bool, report: Report = unreported
) -> Tensor:
    """Return the accuracy (E,) in episodes whose images are `maps[at]`, `at` (E, N K + N q)."""
    accuracy = torch.empty(len(at), dtype=torch.float64)
    device = next(model.parameters()).device
    examples = task.way * task.shot

    def compare(start: int, stop: int) -> None:
        images = maps[at[start:stop]].to(device)
        support = torch.unflatten(images[:, :examples], 1, (task.way, task.shot))
        predictions = scores_of(model.head, support, images[:, examples:], transductive).argmax(2).cpu()
        accuracy[start:stop] = (predictions == answers(task, stop - start)).double().mean(1)
        report(stop - start)

    pairs = (task.way + task.shot) * task.queries * task.way * maps[0].numel() * maps.element_size()
    with full_precision(), torch.inference_mode():
        in_batches(len(at), max(1, (AT_ONCE_CPU if device.type == "cpu" else AT_ONCE) // pairs), compare)
    return accuracy


def validation(model: FewShotNetwork, domains: Sequence[Domain], task: Task, count: int, seed: int) -> Validate:
    """Return the validation after an epoch: the mean accuracy in `count` episodes of each domain."""

    def measure(network: nn.Module) -> Mapping[str, float]:
        return {"validation": mean_accuracy(model, domains, task, count, seed)}

    return measure


def mean_accuracy(
    model: FewShotNetwork, domains: Sequence[Domain], task: Task, count: int, seed: int, report: Report = unreported
) -> float:
    """Return the mean accuracy in `count` episodes of each domain; `report` counts as that of `accuracies` does."""
    found = [accuracies(model, domain, [task], count, seed, report=report)[0] for domain in domains]
    return sum(float(accuracy.mean()) for accuracy in found) / len(found)
