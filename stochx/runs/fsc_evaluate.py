"""Run `stochx fsc-test`: measure few-shot networks on every domain, on the same episodes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from stochx.classes import in_both
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.episodes import Domain, Task
from stochx.engine.fewshot.intervals import open_interval
from stochx.engine.fewshot.network import FewShotNetwork, check_transductive
from stochx.engine.io.forms import Count, Share, form, keyed, listed
from stochx.engine.io.images import Preparation
from stochx.engine.io.lines import Record
from stochx.engine.power import power_of, power_of_two
from stochx.engine.statistics import SHARE, Bounds, Estimate, estimate, mean_share, paired_p
from stochx.engine.world import World
from stochx.errors import printable
from stochx.fewshot_networks import load_fewshot, make_frozen
from stochx.loading import Given, load_data
from stochx.runs import Outcome
from stochx.runs._results import describe_failed, machine_facts, make_document, open_folder
from stochx.runs.watch import Watch
from stochx.settings import FscTest
from stochx.settings.fsc_evaluate import USUAL_HEAD
from stochx.tasks.fewshot import accuracies, domain_of, test_episodes

USUAL_WAY = 5
OTHER = 1  # place of the network that the others are compared with

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Network:
    """A few-shot network under the name by which it was given; `frozen`: nothing of it was trained on episodes."""

    name: str
    model: FewShotNetwork
    frozen: bool = False


class DomainRecord(TypedDict):
    """A line of records.jsonl: the accuracies in a domain, and what of it could not be used."""

    domain: str
    failed: list[FailedRecord]


class FailedRecord(TypedDict):
    """An image that could not be used, as JSON."""

    image: str
    error: str
    hint: str


def run(settings: FscTest, world: World, watch: Watch) -> Outcome:
    """Measure; `records.jsonl` gets a line for each domain, with every episode's accuracy."""
    runtime = select_runtime(settings.device)
    networks = _networks(settings, runtime.device)
    if settings.transductive:
        for network in networks:
            check_transductive(network.model.head, network.model.head_text)
    folder = open_folder(settings, world, _kind(settings, networks))
    records = world.leading({record["domain"]: record for record in folder.lines})
    with runtime.scope(), watch.progress("domains", len(settings.data)) as advance:
        for text in settings.data:
            if text not in records:
                records[text] = {"domain": text, **_measure(settings, networks, text, world, watch)}
                if world.leads:
                    folder.append([records[text]])
            advance(1)
        machine = machine_facts(settings)
    if not world.leads:
        return Outcome(None)
    rows = [
        row
        for text in settings.data
        for shot in settings.shot
        for row in _rows(settings, networks, text, shot, records[text])
    ]
    document = make_document(settings, watch, machine, rows, [])
    document["power"] = [
        row
        for text in settings.data
        for shot in settings.shot
        for row in _power(settings, networks, text, shot, records[text])
    ]
    document["failed"] = failed = [each for text in settings.data for each in records[text]["failed"]]
    folder.finish([records[text] for text in settings.data], document)
    return Outcome(document, 1 if failed else 0)


def _networks(settings: FscTest, device: torch.device) -> list[Network]:
    """Return the few-shot network, that of `--versus` and the frozen baseline, as far as they are given.

    Without a few-shot network the frozen one is the first.
    """
    arch = settings.arch if settings.backbone is None else None
    files = [file for file in (settings.model, settings.versus) if file is not None]
    networks = [Network(file, load_fewshot(file, arch=arch, device=device)) for file in files]
    if settings.backbone is not None:
        way = settings.way or (networks[0].model.way if networks else USUAL_WAY)
        mean, std = settings.normalisation
        given = Given(settings.arch, mean, std)
        head = settings.head or USUAL_HEAD
        frozen = make_frozen(settings.backbone, head, way, settings.size, given, device)
        networks.insert(len(networks) if settings.model else 0, Network(settings.backbone, frozen, frozen=True))
    return networks


def _kind(settings: FscTest, networks: Sequence[Network]) -> Any:
    """Return the kind of a record, which holds every episode of each network by shot."""
    shots, way = [str(shot) for shot in settings.shot], settings.way or networks[0].model.way
    values = keyed(shots, listed(Share, settings.episodes))
    classes = keyed(shots, listed(listed(Count, way), settings.episodes))
    return form(DomainRecord, episodes=listed(values, len(networks)), classes=classes)


def _measure(settings: FscTest, networks: list[Network], text: str, world: World, watch: Watch) -> Record:
    """Return for each network the accuracy in every episode of a domain, by shot, and the images that are unusable.

    Where a network prepares images as the one before it, they are read once.
    """
    data, by_network = load_data(text, "test", innermost=True), []
    failed: list[Record] = []
    domain: Domain | None = None
    prepared: Preparation | None = None
    tasks = [Task(settings.way or networks[0].model.way, shot, settings.queries) for shot in settings.shot]
    for network in networks:
        preparation = network.model.backbone.model.preparation
        if domain is None or preparation != prepared:
            with watch.progress("reading images", len(data)) as advance:
                domain, unusable = domain_of(text, data, preparation, report=advance)
            failed += [each for each in describe_failed(unusable) if each not in failed]
            prepared = preparation
        _warn_of_known_classes(network.model, text, domain.pool.classes)
        episodes = len(range(world.rank, settings.episodes, world.size)) * len(tasks)
        with watch.progress("measuring", len(data) + episodes) as advance:
            counts = settings.episodes, settings.seed
            values = accuracies(network.model, domain, tasks, *counts, settings.transductive, world, advance)
        by_network.append({str(task.shot): value.tolist() for task, value in zip(tasks, values, strict=True)})
    assert domain is not None, "the settings name a network"
    drawn = {str(t.shot): test_episodes(domain, t, settings.episodes, settings.seed).classes.tolist() for t in tasks}
    return {"episodes": by_network, "classes": drawn, "failed": failed}


def _warn_of_known_classes(model: FewShotNetwork, text: str, classes: tuple[str, ...]) -> None:
    known = in_both(classes, (name for names in model.facts.get("classes", {}).values() for name in names))
    if known:
        log.warning(
            "`%s`: %d of %d classes have the name of a training class, e.g. `%s`",
            text,
            len(known),
            len(classes),
            printable(known[0]),
        )


def _rows(settings: FscTest, networks: list[Network], text: str, shot: int, record: Record) -> Iterator[Record]:
    """Yield the accuracy in a domain of the few-shot network, and of the frozen one.

    Beside it stands the paired difference to the network of `--versus`, or else to the frozen one.
    """
    values = [by_shot[str(shot)] for by_shot in record["episodes"]]
    classes = record["classes"][str(shot)]
    for place, network in enumerate(networks):
        if place and not network.frozen:
            continue  # that of `--versus`
        others = values[OTHER] if len(values) > OTHER and place != OTHER else None
        yield {
            "network": network.name,
            "frozen": network.frozen,
            "head": network.model.head_text,
            "inference": "transductive" if settings.transductive else network.model.head.inference,
            "domain": text,
            "way": settings.way or networks[0].model.way,
            "shot": shot,
            "queries": settings.queries,
            **_accuracy(values[place], classes),
            **(_versus(networks[OTHER].name, values[place], others, classes) if len(networks) > OTHER else {}),
        }


def _power(settings: FscTest, networks: list[Network], text: str, shot: int, record: Record) -> Iterator[Record]:
    """Yield what the comparison of the networks on these episodes could have found, or one with another network."""
    values = [by_shot[str(shot)] for by_shot in record["episodes"]]
    if len(values) > OTHER:
        gaps = [a - b for a, b in zip(values[0], values[OTHER], strict=True)]
        found, versus = power_of(gaps, 1, settings.power), networks[OTHER].name
    else:
        found, versus = power_of_two(values[0], settings.power), None
    if found is not None:
        way = settings.way or networks[0].model.way
        yield {"domain": text, "way": way, "shot": shot, "versus": versus, **dataclasses.asdict(found)}


def _accuracy(values: list[float], classes: list[list[int]]) -> Record:
    """Return the mean accuracy with its intervals over episodes, and over classes."""
    closed, open_ = mean_share(values), _open(values, classes, SHARE)
    return {
        "accuracy": closed.mean,
        "low": closed.low,
        "high": closed.high,
        "n": closed.n,
        "low_open": open_.low if open_ else None,
        "high_open": open_.high if open_ else None,
        "classes": open_.n if open_ else None,
    }


def _versus(other: str, values: list[float], others: list[float] | None, classes: list[list[int]]) -> Record:
    """Return the accuracy of another network, and the difference to it, paired by episode; None to itself."""
    ends = ("low_difference", "high_difference", "low_difference_open", "high_difference_open", "p")
    row: Record = dict.fromkeys(("accuracy_versus", "low_versus", "high_versus", "difference", *ends))
    row = {"versus": other if others is not None else None, **row}
    if others is None:
        return row
    differences = [a - b for a, b in zip(values, others, strict=True)]
    versus, closed = mean_share(others), estimate(differences, (-1.0, 1.0))
    open_ = _open(differences, classes, (-1.0, 1.0))
    row |= {"accuracy_versus": versus.mean, "low_versus": versus.low, "high_versus": versus.high}
    row |= {"difference": closed.mean, "low_difference": closed.low, "high_difference": closed.high}
    if open_ is not None:
        row |= {"low_difference_open": open_.low, "high_difference_open": open_.high}
    return row | {"p": paired_p(differences)}


def _open(values: list[float], classes: list[list[int]], bounds: Bounds) -> Estimate | None:
    """Return the interval over classes; None where it cannot be known."""
    return open_interval(torch.tensor(values), torch.tensor(classes), bounds)
