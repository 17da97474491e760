"""Run `stochx fsc-test`: measure few-shot networks on every domain, on the same episodes."""

from __future__ import annotations

import logging

from stochx.classes import in_both
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.episodes import Task
from stochx.engine.fewshot.network import FewShotNetwork, check_transductive
from stochx.engine.statistics import estimate, mean_share, paired_p
from stochx.engine.world import World
from stochx.errors import printable
from stochx.fewshot_networks import load_fewshot
from stochx.loading import load_data
from stochx.runs import Outcome
from stochx.runs._results import Record, describe_failed, machine_facts, make_document, open_folder
from stochx.runs.watch import Watch
from stochx.settings import FscTest
from stochx.tasks.fewshot import accuracies, domain_of

log = logging.getLogger("stochx")


def run(settings: FscTest, world: World, watch: Watch) -> Outcome:
    """Measure; `records.jsonl` gets a line for each domain, with every episode's accuracy."""
    runtime = select_runtime(settings.device)
    files = [settings.model, *([settings.versus] if settings.versus else [])]
    models = [load_fewshot(file, arch=settings.arch, device=runtime.device) for file in files]
    if settings.transductive:
        for model in models:
            check_transductive(model.head, model.head_text)
    folder = open_folder(settings, world)
    records = {record["domain"]: record for record in folder.records}
    with runtime.scope(), watch.progress("domains", len(settings.data)) as advance:
        for text in settings.data:
            if text not in records:
                records[text] = {"domain": text, **_measure(settings, models, text, world, watch)}
                if world.leads:
                    folder.append([records[text]])
            advance(1)
        machine = machine_facts(settings)
    if not world.leads:
        return Outcome(None)
    rows = [_row(settings, models[0], text, shot, records[text]) for text in settings.data for shot in settings.shot]
    document = make_document(settings, watch, machine, rows, [])
    document["failed"] = failed = [each for text in settings.data for each in records[text].get("failed", [])]
    folder.finish([records[text] for text in settings.data], document)
    return Outcome(document, 1 if failed else 0)


def _measure(settings: FscTest, models: list[FewShotNetwork], text: str, world: World, watch: Watch) -> Record:
    """Return for each network the accuracy in every episode of a domain, by shot, and the images that are unusable."""
    data, by_network = load_data(text, "test"), []
    failed: list[Record] = []
    for model in models:
        with watch.progress("reading images", len(data)) as advance:
            domain, unusable = domain_of(text, data, model.backbone.model.preparation, report=advance)
        failed += [each for each in describe_failed(unusable) if each not in failed]
        _warn_of_known_classes(model, text, domain.pool.classes)
        tasks = [Task(settings.way or models[0].way, shot, settings.queries) for shot in settings.shot]
        episodes = len(range(world.rank, settings.episodes, world.size)) * len(tasks)
        with watch.progress("measuring", len(data) + episodes) as advance:
            counts = settings.episodes, settings.seed
            values = accuracies(model, domain, tasks, *counts, settings.transductive, world, advance)
        by_network.append({str(task.shot): value.tolist() for task, value in zip(tasks, values, strict=True)})
    return {"episodes": by_network, "failed": failed}


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


def _row(settings: FscTest, model: FewShotNetwork, text: str, shot: int, record: Record) -> Record:
    """Return the accuracy in a domain, with its interval; and the paired difference to the other network."""
    values = [by_shot[str(shot)] for by_shot in record["episodes"]]
    accuracy = mean_share(values[0])
    row: Record = {
        "inference": "transductive" if settings.transductive else model.head.inference,
        "domain": text,
        "way": settings.way or model.way,
        "shot": shot,
        "queries": settings.queries,
        "accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
        "n": accuracy.n,
    }
    if len(values) > 1:
        differences = [a - b for a, b in zip(*values, strict=True)]
        versus, difference = mean_share(values[1]), estimate(differences, (-1.0, 1.0))
        row |= {"accuracy_versus": versus.mean, "low_versus": versus.low, "high_versus": versus.high}
        row |= {"difference": difference.mean, "low_difference": difference.low, "high_difference": difference.high}
        row |= {"p": paired_p(differences)}
    return row
