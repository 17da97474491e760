"""The section of an attack: robust accuracy, what it rests on, and images with their adversarial images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stochx.reports.html.blocks import (
    Block,
    GalleryBlock,
    Item,
    Part,
    Record,
    Run,
    Stat,
    Tile,
)
from stochx.reports.html.charts import PLAIN, Axes, Mean, Series, interval_chart, line_chart
from stochx.reports.html.images import file_of, read_picture, split_across
from stochx.reports.html.pictures import Album, is_crisp
from stochx.reports.html.tables import Shown, image_table, result_table
from stochx.reports.html.text import listed, percent, short, within
from stochx.reports.maps import file_names
from stochx.tables.quantities import plural

WORST = "worst"


def about(run: Run) -> str:
    """Say what was attacked, and by what."""
    names = list(dict.fromkeys(str(row["attack"]) for row in run.rows if row["attack"] != WORST))
    models = [short(model["model"]) for model in run.document["models"]]
    n = run.rows[0]["n"] if run.rows else 0
    return f"{listed(models)} on {plural(n, 'image')} of {run.setting('data')}, attacked by {listed(names)}."


def headline(run: Run) -> Record | None:
    """Return the row that answers the question: the worst case of the first network at the largest radius."""
    first = [row for row in run.rows if row["model"] == run.rows[0]["model"]]
    degrees = [abs(1 - row["degree"]) for row in first if row["degree"] is not None]
    at = [row for row in first if row["degree"] is None or abs(1 - row["degree"]) == min(degrees)]
    return min(at, key=lambda row: (-row["eps"], row["attack"] != WORST, row["robust"]), default=None)


def stats(run: Run) -> list[Stat]:
    """Return the robust and the clean accuracy."""
    row = headline(run)
    if row is None:
        return []
    radius = f"{row['norm']} radius {radius_of(run, row)}"
    numbers = [
        Stat("Robust accuracy", percent(row["robust"]), f"{within(row)}, {radius}{_doubt(run)}"),
        Stat("Clean accuracy", percent(row["clean"]), within(row, "clean_low", "clean_high")),
    ]
    versus = run.document.get("versus")
    if versus is not None:
        note = f"95 % interval {100 * versus['low']:+.1f} to {100 * versus['high']:+.1f}, p = {versus['p']:.2g}"
        numbers.append(Stat("First minus second network", f"{100 * versus['difference']:+.1f} points", note))
    return numbers


def _doubt(run: Run) -> str:
    """Say that the number cannot be believed, where a check says so."""
    failed = any(check["verdict"] == "fail" for check in run.document["checks"])
    return "; a check failed: an upper bound at best" if failed else ""


def radius_of(run: Run, row: Record) -> str:
    """Return a radius as it was typed, also in a sweep over noise."""
    return str(row["typed"] if row["degree"] is None else run.setting("eps"))


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the threat model."""
    threat = run.document["threat"]
    radii = list(dict.fromkeys(radius_of(run, row) for row in run.rows))
    noisy = [model for model in run.document["models"] if model["noise"] != "none"]
    pairs = [
        ("Norm", str(threat["norm"])),
        ("Radius", f"{listed(radii)}, {threat['space']}"),
        ("Goal", f"reach the class {run.setting('target')}" if run.setting("target") else "any wrong class"),
        ("Data", f"{run.document['dataset']['name']}, {plural(run.document['dataset']['n'], 'image')}"),
    ]
    if noisy:
        estimand = next((str(row["estimand"]) for row in run.rows if row["estimand"]), "")
        draws = next(model["draws"] for model in noisy)
        pairs += [("Noise of the network", f"{run.setting('randomness')}; judged on {plural(draws, 'fresh draw')}")]
        pairs += [("Estimand", estimand)] if estimand else []
    return pairs


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the table, the curves, the images."""
    if run.rows:
        yield _chart(run)
    yield from _curves(run)
    yield result_table(run)
    triples = [item for part in run.parts for item in _triples(run, part, album)]
    if triples or album.left_out:
        yield GalleryBlock(
            "Images and their adversarial images",
            "Each image as the network saw it, the strongest attack on it, and what that changed: grey is no change, "
            "and the largest change spans the whole range. Red captions are wrong predictions.",
            triples,
            *_left_out(run, triples, album),
        )
    yield from (_images(run, part) for part in run.parts)


def _left_out(run: Run, triples: Sequence[Item], album: Album) -> tuple[int, str]:
    """Return how many images are not shown, and why."""
    total = sum(len(part.records) for part in run.parts)
    kept = "the run keeps the first images beside their adversarial images"
    return total - len(triples), album.why if album.left_out else kept


def _chart(run: Run) -> Block:
    """Draw accuracy over the radius or the degree of noise, or each attack's at the only point."""
    key = "eps" if run.rows[0]["degree"] is None else "degree"
    points = sorted({row[key] for row in run.rows})
    n = run.rows[0]["n"]
    if len(points) == 1:
        means = [Mean("no attack", run.rows[0]["clean"], run.rows[0]["clean_low"], run.rows[0]["clean_high"], PLAIN,
                      percent(run.rows[0]["clean"]))]  # fmt: skip
        means += [
            Mean(_name(run, row), row["robust"], row["low"], row["high"], place, percent(row["robust"]))
            for place, row in enumerate(run.rows)
        ]
        caption = f"Share of {n} images that stay right, with 95 % intervals."
        return interval_chart("Accuracy by attack", caption, means, share=True)
    series = [_over(key, "no attack", run.rows, ("clean", "clean_low", "clean_high"), plain=True)]
    names = list(dict.fromkeys(_name(run, row) for row in run.rows))
    for name in names:
        rows = [row for row in run.rows if _name(run, row) == name]
        series.append(_over(key, name, rows, ("robust", "low", "high")))
    ticks = {row[key]: row["typed"] if key == "eps" else f"{row[key]:.4g}" for row in run.rows}
    where = f"radius ({run.rows[0]['norm']})" if key == "eps" else "degree of noise (1: as trained)"
    caption = f"Share of {n} images that stay right over the {where}, with 95 % intervals."
    return line_chart("Accuracy under attack", caption, Axes(where, "accuracy", True, ticks), series)


def _over(key: str, name: str, rows: Sequence[Record], of: tuple[str, str, str], plain: bool = False) -> Series:
    at = {row[key]: row for row in sorted(rows, key=lambda row: row[key])}
    mean, low, high = of
    points = [(x, row[mean]) for x, row in at.items()]
    return Series(name, points, [(row[low], row[high]) for row in at.values()], marks=True, plain=plain)


def _name(run: Run, row: Record) -> str:
    """Return the attack, with its network where there are several."""
    name = "worst case of all" if row["attack"] == WORST else str(row["attack"])
    return f"{name}, {short(row['model'])}" if len(run.document["models"]) > 1 else name


def _curves(run: Run) -> Iterator[Block]:
    """Draw robust accuracy at every radius."""
    curves = run.document.get("curve")
    if curves:
        series = [
            Series(
                short(curve["model"]),
                list(zip(curve["eps"], curve["accuracy"], strict=True)),
                list(zip(curve["low"], curve["high"], strict=True)),
                step=True,
            )
            for curve in curves
        ]
        caption = (
            f"Share of {curves[0]['n']} images whose nearest misclassified point is farther than the radius, in the "
            "worst case over all attacks; 95 % intervals at each radius."
        )
        axes = Axes(f"radius ({curves[0]['norm']}, pixels in [0, 1])", "accuracy", True)
        yield line_chart("Robust accuracy at every radius", caption, axes, series)


def fate(record: Record) -> tuple[str, ...]:
    """Return right, wrong or fooled: most draws, without noise the only one, decide."""
    if record["clean"] < 0.5:
        return ("wrong",)
    return ("fooled",) if record["worst"] < 0.5 else ("right",)


def _triples(run: Run, part: Part, album: Album) -> Iterator[Item]:
    """Yield image, adversarial image and difference, of the images that the run has kept."""
    names = run.document.get("labels", {})
    for record in part.records:
        picture = read_picture(file_of(part.folder / "examples", record["image"], ".webp"))
        uris = None if picture is None else album.take(split_across(picture, 3))
        if picture is None or uris is None:
            continue
        outcome = record["attacks"][record["worst_attack"] or next(iter(record["attacks"]))]
        true, before, after = (_class(names, k) for k in (record["label"], record["prediction"], outcome["prediction"]))
        crisp, fated = is_crisp(split_across(picture, 3)[0]), fate(record)
        notes = [
            ("image", before, record["prediction"] != record["label"]),
            ("attacked", after, outcome["prediction"] != record["label"]),
            ("difference", f"up to {255 * outcome['linf']:.3g}/255" if outcome["linf"] else "unchanged", False),
        ]
        tiles = [
            Tile(title, f"{title} of {record['image']}: {note}", uri, note=note, wrong=wrong, crisp=crisp)
            for (title, note, wrong), uri in zip(notes, uris, strict=True)
        ]
        where = f"{_point(run, part)}, " if part.name else ""
        by = f", by {record['worst_attack']}" if fated == ("fooled",) else ""
        yield Item(str(record["image"]), f"{where}true class: {true}{by}", tiles, fated, true)


def _point(run: Run, part: Part) -> str:
    """Name the point of a sweep, and the network where there are several, as they were typed."""
    for row in run.rows:
        swept = f"eps={row['eps']:.4g}" if row["degree"] is None else f"noise={row['degree']:.4g}"
        if part.name.endswith(f"-{swept}") and part.name.startswith(file_names([str(row["model"])])[0]):
            point = f"radius {row['typed']}" if row["degree"] is None else f"degree of noise {row['degree']:.4g}"
            return f"{point}, {short(row['model'])}" if len(run.document["models"]) > 1 else point
    return part.name


def _class(names: Mapping[str, str], label: int) -> str:
    return names.get(str(label), f"class {label}")


def _images(run: Run, part: Part) -> Block:
    """Return the table of all images."""
    names = run.document.get("labels", {})
    columns = [
        Shown("image", lambda record: str(record["image"])),
        Shown("true", lambda record: _class(names, record["label"])),
        Shown("predicted", lambda record: _class(names, record["prediction"])),
        Shown("outcome", lambda record: fate(record)[0]),
        Shown("margin", lambda record: f"{record['margin']:.2f}", True, "logit of the true class minus the next one"),
    ]
    for name in part.records[0]["attacks"] if part.records else ():
        columns.append(
            Shown(name, lambda record, name=name: _outcome(names, record, record["attacks"][name]))  # type: ignore[misc]
        )
    title = f"Every image, {_point(run, part)}" if part.name else "Every image"
    return image_table(
        title,
        columns,
        part.records,
        fate,
        lambda record: _class(names, record["label"]),
    )


def _outcome(names: Mapping[str, str], record: Record, outcome: Record) -> str:
    if record["clean"] == 0:
        return "–"
    share = f" ({outcome['correct']:.2f})" if 0 < outcome["correct"] < 1 else ""
    return f"{'holds' if outcome['correct'] >= 0.5 else _class(names, outcome['prediction'])}{share}"
