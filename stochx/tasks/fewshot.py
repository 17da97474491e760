"""Few-shot training by episodes, and what a few-shot network is worth on a domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stochx.engine.device import full_precision, in_batches
from stochx.engine.fewshot.episodes import Domain, Episodes, Pool, Task, answers, draw, pool
from stochx.engine.fewshot.head import Guide, guided_loss
from stochx.engine.fewshot.network import FewShotNetwork, cached_features, scores_of
from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation
from stochx.engine.network.stochastic import at_scale
from stochx.engine.training.fit import Objective, Step, TrainingBatch, Validate
from stochx.engine.world import World
from stochx.errors import InputError, printable
from stochx.tasks.train import stack

# Bytes that the episodes compared at once may take, roughly: on a CPU few enough for its caches
AT_ONCE, AT_ONCE_CPU = 256 * 2**20, 4 * 2**20


def domain_of(name: str, data: Data, preparation: Preparation, first: int = 0) -> Domain:
    """The images of a data set by class, ready for episodes; its classes are numbered from `first`."""
    pixels, labels = stack(data, preparation)
    return Domain(pool(name, data.classes, labels), pixels, first)


def domains_of(named: Mapping[str, Data], preparation: Preparation) -> list[Domain]:
    """All of them, their classes numbered one after the other."""
    found: list[Domain] = []
    for name, data in named.items():
        first = found[-1].first + len(found[-1].pool.classes) if found else 0
        found.append(domain_of(name, data, preparation, first))
    return found


def apart(learnt: Pool, other: Pool) -> bool:
    """Whether two splits of a domain have no class in common; False where they have the same classes.

    Raises `InputError` where some classes are in both: accuracy on them would not be few-shot.
    """
    shared = sorted({*learnt.classes} & {*other.classes})
    if shared and {*learnt.classes} != {*other.classes}:
        raise InputError(
            f"`{learnt.name}`: {len(shared)} classes are in two splits, e.g. `{printable(shared[0])}`",
            "give every class to one split",
        )
    return not shared


def episodic(model: FewShotNetwork, guide: Guide, episodes: Episodes, seed: int) -> Objective:
    """The loss of a batch of episodes: xi L + lambda L_guided of the head (Sun et al., 2020)."""

    def lowered(network: nn.Module, batch: TrainingBatch) -> Step:
        task = episodes.task
        given = task.way * task.shot
        maps = network(batch.x)
        support = torch.unflatten(maps[:, :given], 1, (task.way, task.shot))
        base = episodes.base(batch.index, batch.epoch).to(batch.y.device)
        keys = seed, "guide", batch.epoch, batch.step
        loss, scores = guided_loss(model.head, guide, support, maps[:, given:], batch.y, keys, base)
        return Step(loss, scores)

    return lowered


def accuracies(
    model: FewShotNetwork,
    domain: Domain,
    tasks: Sequence[Task],
    count: int,
    seed: int,
    transductive: bool = False,
    world: World | None = None,
) -> list[Tensor]:
    """For each task the accuracy in each of `count` episodes (count,), which depend on domain, task and seed alone.

    Every image passes the backbone once, without noise. The ranks share the episodes. Verdicts are in full precision.
    """
    world = world or World()
    episodes = []
    for task in tasks:
        drawn = draw(domain.pool, task, count, seed, "test", domain.pool.name)
        episodes.append(torch.cat([drawn.support.flatten(1), drawn.query], 1)[world.rank :: world.size])
    places = torch.unique(torch.cat([part.flatten() for part in episodes]))
    with at_scale(model, 0.0):
        maps = cached_features(model, domain.pixels, places)
    found = []
    for task, images in zip(tasks, episodes, strict=True):
        mine = compared(model, maps, torch.searchsorted(places, images.contiguous()), task, transductive)
        result = torch.empty(count, dtype=torch.float64)
        for rank, part in enumerate(world.gather([mine])):
            result[rank :: world.size] = part
        found.append(result)
    return found


def compared(model: FewShotNetwork, maps: Tensor, at: Tensor, task: Task, transductive: bool) -> Tensor:
    """The accuracy in each episode (E,), whose images are `maps[at]`, `at` (E, N K + N q)."""
    found = torch.empty(len(at), dtype=torch.float64)
    device = next(model.parameters()).device
    given = task.way * task.shot

    def compare(start: int, stop: int) -> None:
        images = maps[at[start:stop]].to(device)
        support = torch.unflatten(images[:, :given], 1, (task.way, task.shot))
        said = scores_of(model.head, support, images[:, given:], transductive).argmax(2).cpu()
        found[start:stop] = (said == answers(task, stop - start)).double().mean(1)

    pairs = (task.way + task.shot) * task.queries * task.way * maps[0].numel() * maps.element_size()
    with full_precision(), torch.inference_mode():
        in_batches(len(at), max(1, (AT_ONCE_CPU if device.type == "cpu" else AT_ONCE) // pairs), compare)
    return found


def validation(model: FewShotNetwork, domains: Sequence[Domain], task: Task, count: int, seed: int) -> Validate:
    """What is measured after an epoch: `validation`, the mean accuracy in `count` episodes of each domain."""

    def measure(network: nn.Module) -> Mapping[str, float]:
        found = [float(accuracies(model, domain, [task], count, seed)[0].double().mean()) for domain in domains]
        return {"validation": sum(found) / len(found)}

    return measure
