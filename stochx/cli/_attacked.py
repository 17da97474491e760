"""The part of `stochx attack` that needs torch: load, attack, check, write the files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stochx.attacks import Attack
from stochx.cli import output
from stochx.cli._outcome import Document, Record, complain, document, exit_code, merged
from stochx.cli._sources import sources_of, target_of
from stochx.cli.attack import Point
from stochx.engine.device import select_runtime
from stochx.engine.io.store import RunFolder, to_toml, write_text
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import at_scale, noise_layers
from stochx.engine.threat import Ball
from stochx.engine.world import World, process_group
from stochx.errors import InputError, UsageError
from stochx.loading import Loaded, load_data, open_model
from stochx.reports.attacks import Saved, draw_examples, draw_sweep, save_images
from stochx.reports.maps import file_names
from stochx.tasks.attack import Attacked, attack
from stochx.tasks.batches import Failed, Source
from stochx.tasks.checks import Check, check_evaluation
from stochx.tasks.robustness import compare, summarise


def run_attack(
    args: Mapping[str, Any],
    attacks: Mapping[str, Attack],
    points: Sequence[Point],
    normalisation: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
    batch_size: int,
    *,
    resume: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[Record], int]:
    """Attack and write everything; the document, its rows and the exit code (no document off rank 0)."""
    with process_group() as world:
        runtime = select_runtime(args["device"], args["precision"], batch_size)
        load = partial(
            open_model, arch=args["arch"], mean=normalisation[0], std=normalisation[1], device=runtime.device
        )
        loaded = {name: load(name) for name in (args["model"], args["versus"]) if name is not None}
        models = {name: one.model for name, one in loaded.items()}
        source = None if args["source"] is None else load(args["source"]).model
        first, folder, several = models[args["model"]], Path(args["output"]), len(models) * len(points) > 1
        if points[0].noise is not None and not noise_layers(first):
            raise UsageError(
                f"`{args['model']}` has no noise layers whose degree could be swept",
                "make a student with `stochx distill`, or use `--sweep eps=...`",
            )
        rows, records, failed, runs = list[Record](), list[list[Record]](), list[Failed](), list[RunFolder]()
        saved = Saved()
        with runtime.scope():
            for name, model in models.items():
                for point in points:
                    part = f"{file_names([name])[0]}-{_described(point)}" if several else ""
                    settings = {**args, "model": name, "output": str(folder / part)}
                    settings |= {"eps": point.text} if point.noise is None else {"sweep": f"noise={point.text}"}
                    ball = Ball(point.eps, args["norm"])
                    with at_scale(model, 1.0 if point.noise is None else point.noise):
                        run, found, missed, kept = _attack(settings, attacks, model, source, ball, world, resume, quiet)
                        noisy = model.noise != "none"
                    runs, records, failed = [*runs, run], [*records, found], [*failed, *missed]
                    saved += kept
                    if world.leads and found:
                        table = summarise(found, list(attacks), noisy, args["target"] is not None)
                        where = {"model": name, "eps": point.eps, "norm": args["norm"], "degree": point.noise}
                        rows += [{**where, **dataclasses.asdict(row), **_setting(attacks, row.attack)} for row in table]
            if not world.leads:
                return None, [], exit_code(rows, failed)
            complain(rows, failed)
            largest = Ball(max(point.eps for point in points), args["norm"])
            verdicts = _checks(args, attacks, first, largest, rows)
            made = document("attack", args, first, rows, failed, start)
        made |= {
            "threat": {
                "norm": args["norm"],
                "space": "pixels in [0, 1]",
                "eps": [point.eps for point in points],
                "degree": [point.noise for point in points],
                "typed": [point.text for point in points],
            },
            "models": [_identity(name, one, args["draws"]) for name, one in loaded.items()],
            "dataset": _dataset(args["data"], records[0]),
            "checks": [dataclasses.asdict(verdict) for verdict in verdicts],
            "versus": dataclasses.asdict(compare(*records)) if args["versus"] is not None else None,
            "saved": dataclasses.asdict(saved) if args["save_adversarial"] else None,
            "gate": _gate(args, rows),
        }
        for run, found in zip(runs, records, strict=True):
            run.finish(found, made)
        if several:
            write_text(folder / "config.toml", to_toml({k: v for k, v in args.items() if v not in (None, [], "")}))
            write_text(folder / "result.json", json.dumps(made, indent=2, ensure_ascii=False) + "\n")
        if args["figure"] and len(points) > 1:
            draw_sweep(folder / "sweep.png", rows)
        return made, rows, _code(rows, failed, verdicts, made["gate"])


def _setting(attacks: Mapping[str, Attack], name: str) -> Document:
    """What an attack ran with, defaults included; the worst case has nothing of its own."""
    made: Any = attacks.get(name)
    return {"parameters": None if made is None else dataclasses.asdict(made)}


def _described(point: Point) -> str:
    return f"eps={point.eps:.4g}" if point.noise is None else f"noise={point.noise:.4g}"


def _identity(name: str, loaded: Loaded, draws: int) -> Document:
    """Which network it was: as typed, its architecture, the hash of its file, and how its noise is drawn."""
    model, known = loaded.model, {fact.name: fact.value for fact in loaded.facts}
    return {
        "model": name,
        "arch": model.arch,
        "sha256": known.get("sha256"),
        "noise": model.noise,
        "noises": model.noises or None,
        "draws": draws if model.noise != "none" else 1,
    }


def _dataset(name: str, records: Sequence[Record]) -> Document:
    """Which images they were: the hash is over their keys and labels, in order."""
    lines = "".join(f"{record['image']} {record['label']}\n" for record in records)
    return {"name": name, "n": len(records), "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def _checks(
    args: Mapping[str, Any], attacks: Mapping[str, Attack], model: Classifier, ball: Ball, rows: Sequence[Record]
) -> list[Check]:
    if args["checks"] == "none" or not rows:
        return []
    return check_evaluation(
        model, attacks, _labelled(args, model), ball, rows, args["seed"], full=args["checks"] == "full"
    )


def _code(rows: Sequence[Record], failed: Sequence[Failed], verdicts: Sequence[Check], gate: Any) -> int:
    """What went wrong comes first, then a check that fails, then a gate that was missed."""
    missed = gate is not None and gate["missed"]
    if missed:
        value = f"{gate['value']:.4f} ({gate['on']})"
        output.miss(f"robust accuracy {value} is below {gate['bound']:g}")
    invalid = any(verdict.verdict == "fail" for verdict in verdicts)
    return exit_code(rows, failed) or (1 if invalid else 3 if missed else 0)


def _attack(
    args: Mapping[str, Any],
    attacks: Mapping[str, Attack],
    model: Classifier,
    source: Classifier | None,
    ball: Ball,
    world: World,
    resume: bool,
    quiet: bool,
) -> tuple[RunFolder, list[Record], list[Failed], Saved]:
    """One network at one point, with a run folder of its own: all records, what failed, and the images saved."""
    sources = _labelled(args, model)
    run = RunFolder(Path(args["output"]), args, world.rank, resume)
    before = [record for record in run.records if record["index"] < len(sources)]
    files = file_names([source.name for source in sources])
    saved = [Saved()]

    def keep(attacked: Attacked) -> None:
        run.begin()
        if args["save_adversarial"]:
            saved[0] += save_images(run.folder / "adversarial", model, attacked, ball, files)
        if args["figure"] and attacked.records[0].index == 0:
            draw_examples(run.folder / "examples.png", attacked, model.classes)

    with output.progress("attacking", -(-len(sources) // world.size), quiet or not world.leads) as advance:

        def report(found: Sequence[Any], items: int) -> None:
            run.append([dataclasses.asdict(one) for one in found if not isinstance(one, Failed)])
            advance(items)

        found = attack(
            model,
            attacks,
            sources,
            ball,
            source_model=source,
            target=target_of(args["target"], model),
            judge_any=args["judge"] == "any",
            seed=args["seed"],
            draws=args["draws"],
            world=world,
            done={record["index"] for record in before},
            keep=keep,
            report=report,
        )
    failed = [one for one in found if isinstance(one, Failed)]
    new = [dataclasses.asdict(one) for one in found if not isinstance(one, Failed)]
    return run, merged(before, new, []), failed, sum(world.gather(saved), Saved())


def _labelled(args: Mapping[str, Any], model: Classifier) -> list[Source]:
    """The images of the data set, whose labels must be classes of the network."""
    data = load_data(args["data"])
    if data.labels is None:
        raise InputError(f"`{args['data']}` has no labels", "use class folders, or an npz with `labels`")
    highest = max(int(label) for label in data.labels)
    if highest >= len(model.classes):
        raise InputError(
            f"`{args['data']}` has label {highest}, but the network knows {len(model.classes)} classes",
            "use the data set that it was trained on",
        )
    return sources_of({"images": [], "data": args["data"], "limit": args["limit"]}, model)


def _gate(args: Mapping[str, Any], rows: Sequence[Record]) -> dict[str, Any] | None:
    """`--fail-under` on the worst case of the first network at the largest radius."""
    if args["fail_under"] is None or not rows:
        return None
    last = [row for row in rows if row["model"] == args["model"]][-1]
    value = last["robust"] if args["fail_on"] == "point" else last["low"]
    return {"on": args["fail_on"], "bound": args["fail_under"], "value": value, "missed": value < args["fail_under"]}
