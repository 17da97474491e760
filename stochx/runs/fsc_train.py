"""Run `stochx fsc-train`: train a few-shot network on episodes, write its weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from stochx.catalog import GUIDES
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.episodes import Domain, Episodes, Task, check_pool
from stochx.engine.fewshot.network import FewShotNetwork
from stochx.engine.io.lines import Record
from stochx.engine.world import World
from stochx.fewshot_networks import as_frozen, load_fewshot, make_fewshot, save_fewshot
from stochx.loading import load_data
from stochx.network_files import install_noise
from stochx.reports.training import draw_curves
from stochx.runs import Outcome
from stochx.runs._results import exit_code, machine_facts, make_document
from stochx.runs._training import TrainingJob, make_plan, train_into
from stochx.runs.watch import Watch
from stochx.settings import FscTrain
from stochx.tasks.fewshot import ReadDomain, are_disjoint, domains_of, episode_objective, mean_accuracy, validation

FEATURE_WISE = "feature-wise:site=block-end,share=batch"  # the noise of `--fwt`

log = logging.getLogger("stochx")


def run(settings: FscTrain, world: World, watch: Watch) -> Outcome:
    """Train, and write `model.safetensors` beside the run's files."""
    task = Task(settings.way, settings.shot, settings.queries)
    runtime = select_runtime(settings.device, settings.precision)
    model = _initial(settings, task)
    read = _domains(settings, model, "train", watch)
    domains, failed = [domain for domain, _ in read], [each for _, unusable in read for each in unusable]
    for domain in domains:
        check_pool(domain.pool, task)
    model.facts["classes"] = model.facts.get("classes", {}) | {
        domain.pool.name: list(domain.pool.classes) for domain in domains
    }
    validated = _held_out(settings, domains, model, task, watch) if settings.validation else []
    held = [domain for domain, _ in validated]
    failed += [each for _, unusable in validated for each in unusable]
    start = as_frozen(model).to(runtime.device)
    if settings.fwt:
        install_noise(model.backbone.model, FEATURE_WISE)
    model.to(runtime.device)
    episodes = Episodes(domains, task, settings.interval, settings.seed)
    job = TrainingJob(
        make_plan(settings, settings.episodes // settings.interval, settings.batch_size, settings.lr),
        episodes,
        episode_objective(model, GUIDES.make(settings.guide), episodes, settings.seed),
        validation(model, held, task, settings.validation, settings.seed) if held else None,
        "validation" if held else None,
        lambda path: save_fewshot(path, model),
        unit="episodes",
    )
    with runtime.scope():
        folder, rows = train_into(settings, model, job, world, watch)
        frozen = _accuracy(settings, start, held, task, watch) if held and world.leads else None
        machine = machine_facts(settings)
    if not world.leads:
        return Outcome(None)
    selected = max(rows, key=lambda row: row["validation"]) if held else rows[-1]
    path = settings.figure_file(folder.folder, "curves")
    draw_curves(path, rows, selected if held else None, attacked=False, look=settings.look)
    path = folder.folder / "model.safetensors"
    save_fewshot(path, model)
    row = _row(settings, model, rows, selected) | {"frozen": frozen, "model": str(path)}
    document = make_document(settings, watch, machine, [row], failed)
    folder.finish(rows, document)
    return Outcome(document, exit_code(rows, failed))


def _row(settings: FscTrain, model: FewShotNetwork, rows: list[Record], selected: Record) -> Record:
    return {
        "head": model.head_text,
        "guide": settings.guide,
        "way": settings.way,
        "shot": settings.shot,
        "queries": settings.queries,
        "episodes": rows[-1]["epoch"] * settings.interval,
        "loss": rows[-1]["loss"],
        "train_accuracy": rows[-1]["accuracy"],
        "validation": selected.get("validation"),
        "kept": selected["epoch"] * settings.interval,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _accuracy(settings: FscTrain, frozen: FewShotNetwork, held: Sequence[Domain], task: Task, watch: Watch) -> float:
    """Return the accuracy on held-out classes of the backbone that the training began with."""
    passes = sum(len(domain.pixels) + settings.validation for domain in held)
    with watch.progress("testing the frozen backbone", passes) as advance:
        return mean_accuracy(frozen, held, task, settings.validation, settings.seed, advance)


def _initial(settings: FscTrain, task: Task) -> FewShotNetwork:
    """Return the network to train: a new one, or `init` with its weights; its facts say how it is trained here."""
    facts: Record = {
        "data": list(settings.data),
        "guide": settings.guide,
        "way": settings.way,
        "shot": settings.shot,
        "episodes": settings.episodes,
        "fwt": settings.fwt,
    }
    if settings.init is None:
        backbone, head = settings.backbone or "conv4", settings.head or "relation"
        return make_fewshot(backbone, head, task.way, settings.size, settings.seed, facts, arch=settings.arch)
    model = load_fewshot(settings.init, arch=settings.arch).requires_grad_(True)
    model.head.check_way(task.way)
    model.way = task.way
    model.facts |= facts | {"init": settings.init}
    return model


def _domains(
    settings: FscTrain, model: FewShotNetwork, split: Literal["train", "val"], watch: Watch
) -> list[ReadDomain]:
    data = {text: load_data(text, split, innermost=True) for text in settings.data}
    with watch.progress("reading images", sum(map(len, data.values()))) as advance:
        return domains_of(data, model.backbone.model.preparation, advance)


def _held_out(
    settings: FscTrain, domains: list[Domain], model: FewShotNetwork, task: Task, watch: Watch
) -> list[ReadDomain]:
    """Return the domains with validation classes of their own."""
    held = []
    for train, (other, failed) in zip(domains, _domains(settings, model, "val", watch), strict=True):
        if are_disjoint(train.pool, other.pool):
            check_pool(other.pool, task)
            held.append((other, failed))
        else:
            log.warning("`%s` has no validation classes: it does not select the best epoch", train.pool.name)
    return held
