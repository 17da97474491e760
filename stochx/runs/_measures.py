"""The measures of finished runs, which `stochx compare` compares: a function a command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stochx.engine.statistics import SHARE
from stochx.runs.folders import RunRecord
from stochx.tables import view_of
from stochx.tasks.certify import is_certified
from stochx.tasks.compare import Better, Measured

Record = Mapping[str, Any]
Measures = Iterator[Measured]


def _by_image(records: Sequence[Record]) -> Iterator[tuple[str, Record]]:
    """Yield records with the name of their image; one that was given twice gets a number."""
    seen: Counter[str] = Counter()
    for record in records:
        seen[record["image"]] += 1
        yield f"{record['image']}#{seen[record['image']]}", record


def _rows(run: RunRecord) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a run with their labels."""
    rows = run.document["results"]
    return zip(view_of(run.command).labels(rows), rows, strict=True)


def attack(run: RunRecord) -> Measures:
    """Yield robust accuracy under each attack, and once for each network clean accuracy.

    Networks are the same if they have the same place: their files often differ from run to run.
    """
    models = list(dict.fromkeys(row["model"] for row in run.document["results"]))
    seen = set[object]()
    for label, row in _rows(run):
        place, name = models.index(row["model"]), row["attack"]
        records = list(_by_image(_records_at(run, row)))
        key = ("clean", place, row["degree"])
        at = f"{row['norm']} eps {row['eps']:.4g}" if row["degree"] is None else f"degree {row['degree']:.4g}"
        if key not in seen:
            seen.add(key)
            clean = {image: float(record["clean"]) for image, record in records}
            where = row["model"] if len(models) > 1 else ""
            ends = row["clean_low"], row["clean_high"]
            yield Measured(key, where, "clean", "higher", row["clean"], *ends, row["n"], SHARE, clean, at)
        worst = name == "worst"
        robust = {
            image: float(record["worst"] if worst else record["attacks"][name]["correct"]) for image, record in records
        }
        ends = row["low"], row["high"]
        point = ("robust", place, round(row["eps"], 9), row["degree"], name)
        yield Measured(point, label, "robust", "higher", row["robust"], *ends, row["n"], SHARE, robust, at)


def _records_at(run: RunRecord, row: Record) -> Sequence[Record]:
    """Return the records behind a row: those of the run, or of its part with this network and point."""
    for part in run.parts:
        points = (part.config.get("eps"), str(part.config.get("sweep")).removeprefix("noise="))
        if part.config.get("model") == row["model"] and row["typed"] in points:
            return part.records
    return run.records


def score(run: RunRecord) -> Measures:
    """Yield the mean of each metric for each method."""
    for row in run.document["results"]:
        if row["mean"] is None:
            continue
        method, metric = row["method"], row["metric"]
        mine = _by_image([record for record in run.records if record["method"] == method])
        scores = {image: record["scores"][metric]["value"] for image, record in mine}
        values = {image: value for image, value in scores.items() if value is not None}
        key, ends = (method, metric), (row["low"], row["high"])
        yield Measured(key, method, metric, row["better"], row["mean"], *ends, row["n"], values=values)


def certify(run: RunRecord) -> Measures:
    """Yield certified accuracy at each radius, and the average certified radius."""
    records, overview = list(_by_image(run.records)), run.document["overview"]
    for label, row in _rows(run):
        certified = {image: float(is_certified(record, row["radius"])) for image, record in records}
        key, ends = round(row["radius"], 9), (row["low"], row["high"])
        label = f"radius {label}"
        yield Measured(key, label, "certified", "higher", row["certified"], *ends, row["n"], SHARE, certified)
    if overview is not None:
        radii = {image: record["radius"] if is_certified(record, 0.0) else 0.0 for image, record in records}
        yield Measured("acr", "", "average radius", "higher", overview["acr"], n=len(radii) or None, values=radii)


def fsc_test(run: RunRecord) -> Measures:
    """Yield the accuracy in each domain; two runs have the same episodes if they have the same seed and shape."""
    records = {record["domain"]: record for record in run.records}
    first = next((row.get("network") for _, row in _rows(run)), None)
    for label, row in _rows(run):
        if row.get("network") != first:  # the frozen baseline beside it
            continue
        record = records.get(row["domain"], {"episodes": [{}]})
        values = record["episodes"][0].get(str(row["shot"]), [])
        shape = f"{run.document['seed']} {row['way']} {row['queries']}"
        episodes = {f"{shape} {place}": value for place, value in enumerate(values)}
        key, ends = (row["domain"], row["way"], row["shot"], row["inference"]), (row["low"], row["high"])
        at = f"{row['way']}-way {row['shot']}-shot, {row['inference']}"
        yield Measured(key, label, "accuracy", "higher", row["accuracy"], *ends, row["n"], SHARE, episodes, at)


def explain(run: RunRecord) -> Measures:
    """Yield the mean error of each method's maps, and the mean probability of the explained classes."""
    measures: tuple[tuple[str, Better], ...] = (("error", "lower"), ("probability", "none"))
    rows = run.document["results"]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = list(_by_image([row for row in rows if row["method"] == method]))
        for name, better in measures:
            values = {image: row[name] for image, row in mine if row[name] is not None}
            if values:
                mean = sum(values.values()) / len(values)
                yield Measured((method, name), method, name, better, mean, n=len(values), values=values)


def _plain(*measures: tuple[str, Better, str]) -> Callable[[RunRecord], Measures]:
    """Make the measures of a command without values of images: each with the end of the names of its interval's keys.

    A `-` says that there is no interval.
    """

    def measured(run: RunRecord) -> Measures:
        for label, row in _rows(run):
            for name, better, end in measures:
                if row.get(name) is not None:
                    ends = (row[f"low{end}"], row[f"high{end}"], row["n"]) if end != "-" else ()
                    yield Measured((label, name), label, name, better, row[name], *ends)

    return measured


MEASURES: dict[str, Callable[[RunRecord], Measures]] = {
    "attack": attack,
    "certify": certify,
    "score": score,
    "explain": explain,
    "fsc-test": fsc_test,
    "train": _plain(("accuracy", "higher", ""), ("robust", "higher", "-"), ("loss", "lower", "-")),
    "distill": _plain(
        ("accuracy", "higher", ""),
        ("accuracy_off", "higher", "_off"),
        ("robust", "higher", "-"),
        ("loss", "lower", "-"),
    ),
    "fsc-train": _plain(("validation", "higher", "-"), ("train_accuracy", "higher", "-"), ("loss", "lower", "-")),
    "boundary": _plain(*((name, "none", "-") for name in ("agreement", "confidence", "disagreement", "distance"))),
}
