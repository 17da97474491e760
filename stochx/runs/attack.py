"""Run `stochx attack`: attack every network at every point, check the evaluation, write the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stochx import attacks
from stochx.catalog import ATTACKS
from stochx.classes import in_order_of, with_classes_of
from stochx.engine.device import select_runtime
from stochx.engine.expectation import Draws
from stochx.engine.io.data import Data
from stochx.engine.io.files import write_json, write_text
from stochx.engine.io.images import RGB, channels_text
from stochx.engine.io.lines import Record
from stochx.engine.io.store import RunFolder, to_toml
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import at_scale
from stochx.engine.threat import Ball
from stochx.engine.world import World
from stochx.errors import UsageError
from stochx.reports.attacks import EXAMPLES, Saved, draw_examples, draw_sweep, save_images
from stochx.reports.curve import draw_curves
from stochx.reports.inputs import save_triples
from stochx.reports.maps import file_names
from stochx.runs import Document, Outcome
from stochx.runs._card import write_card
from stochx.runs._evaluation import Part, describe_evaluation, record_kind
from stochx.runs._networks import class_index, data_sources, open_network
from stochx.runs._noise import REALISATIONS, budget_of, check_noise, degree_of, draws_of_a_gradient, estimand_of
from stochx.runs._results import (
    exit_code,
    inference_facts,
    label_names,
    labelled_records,
    make_document,
    merge_records,
    open_folder,
    raise_lone_failure,
)
from stochx.runs._samples import count_trained, take, unseen_data
from stochx.runs.watch import Watch
from stochx.settings import Attack
from stochx.settings.attack import Point
from stochx.tasks.attack import Attacked, attack, joined
from stochx.tasks.batches import Failed, Source
from stochx.tasks.checks import CHECKED, check_evaluation
from stochx.tasks.correct_images import Check
from stochx.tasks.robustness import summarise

Attacks = Mapping[str, attacks.Attack]


@dataclass(frozen=True)
class Case:
    """One network to attack at one point, by the settings that would attack it there alone."""

    settings: Attack
    point: Point
    model: Classifier
    data: Data
    source: Classifier | None
    methods: Attacks


def run(settings: Attack, world: World, watch: Watch) -> Outcome:
    """Attack all networks at all points; a folder for each where there are several."""
    methods = {text: ATTACKS.make(text) for text in settings.attacks}
    runtime = select_runtime(settings.device, settings.precision, settings.rows)
    names = [name for name in (settings.model, settings.versus) if name is not None]
    networks = {name: open_network(name, settings, runtime.device) for name in names}
    source = None if settings.source is None else open_network(settings.source, settings, runtime.device).model
    models = {name: loaded.model for name, loaded in networks.items()}
    first = models[settings.model]
    check_noise(settings, models)
    _check_savable(settings, models)
    data, sample = take(unseen_data(settings.data, models), settings, settings.data)
    with runtime.scope():
        seen = [(name, model, data_sources(data, settings.data, model)) for name, model in models.items()]
        sample = dataclasses.replace(sample, trained=count_trained(seen, world, watch))
        parts = [
            _attack(
                Case(_at(settings, name, file, point), point, networks[name].model, data, source, methods), world, watch
            )
            for name, file in zip(names, file_names(names), strict=True)
            for point in settings.points
        ]
        rows = [row for part in parts for row in part.rows]
        failed = [failure for part in parts for failure in part.failed]
        if not world.leads:
            return Outcome(None, exit_code(rows, failed))
        raise_lone_failure(rows, failed)
        with watch.progress("checking"), at_scale(first, degree_of(settings)):
            verdicts = _check(settings, methods, first, data, rows, _checked_part(settings, parts).needed.draws)
        document = make_document(settings, watch, inference_facts(settings, first), rows, failed)
    with watch.progress("writing"):
        document |= describe_evaluation(settings, networks, parts, verdicts)
        document["sample"] = dataclasses.asdict(sample)
        document["labels"] = label_names(first.classes, _labels(parts))
        _write(settings, parts, document)
    gate = document["gate"]
    missed = gate is not None and gate["missed"]
    invalid = any(verdict.verdict == "fail" for verdict in verdicts)
    code = exit_code(rows, failed) or (4 if invalid else 3 if missed else 0)
    return Outcome(document, code)


def _check_savable(settings: Attack, models: Mapping[str, Classifier]) -> None:
    """Raise `UsageError` for adversarial images that cannot be PNG files."""
    for name, model in models.items():
        if settings.save_adversarial and model.channels not in (1, RGB):
            raise UsageError(
                f"`{name}` takes images of {channels_text(model.channels)}, which PNG files do not have",
                "leave out `--save-adversarial`",
            )


def _at(settings: Attack, name: str, file: str, point: Point) -> Attack:
    """Return the settings that attack one of several networks, at one of several points, alone."""
    if len(settings.points) == 1 and settings.versus is None:
        return settings
    degree = f"eps={point.eps:.4g}" if point.noise is None else f"noise={point.noise:.4g}"
    folder = settings.folder / f"{file}-{degree}"
    if point.noise is None:
        return dataclasses.replace(settings, model=name, output=folder, eps=point.text)
    return dataclasses.replace(settings, model=name, output=folder, sweep=f"noise={point.text}")


def _attack(case: Case, world: World, watch: Watch) -> Part:
    """Attack one network at one point."""
    settings, model = case.settings, case.model
    ball = Ball(case.point.eps, settings.norm)
    sources = _labelled_sources(settings, model, case.data)
    source = None if case.source is None else in_order_of(model, case.source, str(settings.source))
    folder = open_folder(settings, world, record_kind(len(model.classes), case.methods))
    before = labelled_records(folder, model, sources)
    saved: dict[int, Saved] = {}
    files = file_names([source.name for source in sources])
    keep = _keeper(case, folder, ball, files, saved, draws=settings.figure and world.leads)
    known = settings.randomness == "known"
    with (
        at_scale(model, degree_of(settings, case.point.noise)),
        watch.progress("attacking", -(-len(sources) // world.size)) as advance,
    ):
        needed = Draws(1) if known else draws_of_a_gradient(model, sources, ball, settings.seed)

        def report(results: Sequence[Any], count: int) -> None:
            folder.append(_records(results, saved))
            advance(count)

        results = attack(
            model,
            case.methods,
            sources,
            ball,
            source_model=source,
            target=class_index(settings.target, model),
            judge_any=settings.judge == "any",
            curve=settings.curve,
            seed=settings.seed,
            draws=settings.draws,
            eot=needed.draws,
            realisations=REALISATIONS if known and model.noise != "none" else 0,
            world=world,
            done=before.images,
            keep=keep,
            report=report,
        )
        noisy = model.noise != "none"
    failed = [result for result in results if isinstance(result, Failed)]
    saved = {index: facts for part in world.gather([saved]) for index, facts in part.items()}
    records = merge_records(before, _records(results, saved))
    rows = _rows(case, records, noisy, needed) if world.leads and records else []
    return Part(folder, records, failed, rows, needed)


def _records(results: Sequence[Any], saved: Mapping[int, Saved]) -> list[Record]:
    """Return the records of images that were attacked, with what rounding changed where they were saved."""
    attacked = [result for result in results if not isinstance(result, Failed)]
    return [
        dataclasses.asdict(result)
        | ({"saved": dataclasses.asdict(saved[result.index])} if result.index in saved else {})
        for result in attacked
    ]


def _keeper(
    case: Case, folder: RunFolder, ball: Ball, files: Sequence[str], saved: dict[int, Saved], *, draws: bool
) -> Callable[[Attacked], None]:
    """Return what is done with a batch of adversarial images: they are saved, and the first few drawn, as asked."""
    settings = case.settings
    figure = settings.figure_file(folder.folder, "examples")
    examples: list[Attacked] = []  # batches of large images hold few: the figure grows until it is full
    draws = draws and not (settings.resume and figure.exists())

    def keep(attacked: Attacked) -> None:
        folder.begin()
        if settings.save_adversarial:
            saved.update(save_images(folder.folder / "adversarial", case.model, attacked, ball, files))
        if case.settings.figure:
            save_triples(folder.folder / "examples", attacked, files)
        if draws and sum(len(batch.records) for batch in examples) < EXAMPLES:
            examples.append(attacked)
            draw_examples(figure, joined(examples), case.model.classes, settings.look)

    return keep


def _rows(case: Case, records: Sequence[Record], noisy: bool, needed: Draws) -> list[Record]:
    """Return the table of one network at one point; each row names the attack's settings, defaults included.

    It names what is estimated, too, and the budget: steps, draws a gradient and restarts, where an attack has them.
    """
    settings, point = case.settings, case.point
    where: Record = {"model": settings.model, "eps": point.eps, "norm": settings.norm, "degree": point.noise}
    where["typed"] = point.text
    rows = summarise(records, list(case.methods), noisy, settings.target is not None)
    estimand = estimand_of(settings, case.model)
    return [
        where
        | dataclasses.asdict(row)
        | {"estimand": estimand}
        | budget_of(case.methods.get(row.attack), needed.draws, noisy and settings.randomness == "secret")
        for row in rows
    ]


def _labelled_sources(settings: Attack, model: Classifier, data: Data) -> list[Source]:
    """Return the images, labelled with classes of the network."""
    return data_sources(with_classes_of(model, data, settings.data), settings.data, model)


def _check(
    settings: Attack, methods: Attacks, model: Classifier, data: Data, rows: Sequence[Record], draws: int
) -> list[Check]:
    """Check the evaluation of the first network at the largest radius."""
    if settings.checks == "none" or not rows:
        return []
    ball = Ball(max(point.eps for point in settings.points), settings.norm)
    sources = _labelled_sources(settings, model, data.limited(CHECKED))
    full, secret = settings.checks == "full", settings.randomness == "secret"
    return check_evaluation(model, methods, sources, ball, rows, settings.seed, draws, full=full, secret=secret)


def _labels(parts: Sequence[Part]) -> Iterator[int]:
    """Yield the labels and the predictions of all records."""
    for record in (record for part in parts for record in part.records):
        yield record["label"]
        yield record["prediction"]
        yield from (outcome["prediction"] for outcome in record["attacks"].values())


def _checked_part(settings: Attack, parts: Sequence[Part]) -> Part:
    """Return the part of the first network at the largest radius, or at the degree of noise nearest to its own."""
    first = list(zip(settings.points, parts, strict=False))
    return max(first, key=lambda at: (at[0].eps, -abs(1 - (at[0].noise if at[0].noise is not None else 1))))[1]


def _write(settings: Attack, parts: Sequence[Part], document: Document) -> None:
    """Finish every part's folder; where there are several, the folder around them gets config and result too."""
    for part in parts:
        part.folder.finish(part.records, document)
    if len(parts) > 1:
        config = {key: value for key, value in settings.recorded().items() if value not in (None, [], "")}
        write_text(settings.folder / "config.toml", to_toml(config))
        write_json(settings.folder / "result.json", document)
    if document["results"]:
        write_card(settings.folder, document)
    if settings.figure and len(settings.points) > 1:
        draw_sweep(settings.figure_file(settings.folder, "sweep"), document["results"], look=settings.look)
    if settings.figure and settings.curve:
        path, point = settings.figure_file(settings.folder, "curve"), settings.points[0]
        draw_curves(path, document["curve"], point.eps, point.text, settings.look)
