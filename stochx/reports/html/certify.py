"""The section of certificates: certified accuracy over the radius."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stochx.reports.html.blocks import Block, Record, Run, Stat
from stochx.reports.html.charts import Axes, Series, line_chart
from stochx.reports.html.pictures import Album
from stochx.reports.html.tables import Shown, image_table, result_table
from stochx.reports.html.text import percent, short, within
from stochx.tables.quantities import plural


def about(run: Run) -> str:
    """Say what was certified."""
    n = run.rows[0]["n"] if run.rows else 0
    return f"The smoothed {short(run.setting('model'))} on {plural(n, 'image')} of {run.setting('data')}."


def stats(run: Run) -> list[Stat]:
    """Return the certified accuracy without a radius and at the middle one, and the average radius."""
    overview = run.document["overview"]
    if overview is None or not run.rows:
        return []
    picked = {row["radius"]: row for row in (run.rows[0], run.rows[len(run.rows) // 2])}
    numbers = [
        Stat(f"Certified accuracy at L2 radius {row['radius']:.4g}", percent(row["certified"]), within(row))
        for row in picked.values()
    ]
    return [*numbers, Stat("Average certified radius", f"{overview['acr']:.3f}", f"n = {run.rows[0]['n']}")]


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the noise, and what is guaranteed."""
    smoothing = run.document["smoothing"]
    own = "of the network itself" if smoothing["own"] else "added to the image"
    return [
        ("Norm", f"{smoothing['norm']}, pixels in [0, 1]"),
        ("Noise", f"Gaussian, sigma {smoothing['sigma']}, {own}"),
        ("Draws", f"{smoothing['selection']:,} to select the class, {smoothing['draws']:,} to certify it"),
        ("Confidence", f"{100 * (1 - smoothing['alpha']):g} % for each image"),
        ("Largest radius that these draws can certify", f"{smoothing['largest']:.4g}"),
    ]


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the curve, the table and all images."""
    yield from (_curve(part.records, float(run.document["smoothing"]["largest"])) for part in run.parts if part.records)
    yield result_table(run)
    names = run.document.get("labels", {})

    def name(label: int) -> str:
        return str(names.get(str(label), f"class {label}"))

    columns = [
        Shown("image", lambda record: str(record["image"])),
        Shown("true", lambda record: name(record["label"])),
        Shown("selected", lambda record: "abstains" if record["abstained"] else name(record["prediction"])),
        Shown("radius", lambda record: f"{record['radius']:.4f}", True, "within which the class is certified"),
        Shown("p", lambda record: f"{record['p']:.4f}", True, "lower bound of the probability of the class"),
    ]
    for part in run.parts:
        yield image_table("Every image", columns, part.records, fate, lambda record: name(record["label"]))


def fate(record: Record) -> tuple[str, ...]:
    """Return right, wrong or abstained."""
    if record["abstained"]:
        return ("abstained",)
    return ("right",) if record["prediction"] == record["label"] else ("wrong",)


def _curve(records: Sequence[Record], largest: float) -> Block:
    """Draw the share of images that are right with a certificate of at least the radius."""
    rows = list(records)
    radii = sorted(row["radius"] for row in rows if fate(row) == ("right",))
    n = len(rows)
    points = [(0.0, len(radii) / n)]
    points += [(radius, (len(radii) - place) / n) for place, radius in enumerate(radii, 1)]
    points.append((max(largest, points[-1][0]), points[-1][1]))
    caption = f"Share of {n} images that are right, with a certificate of at least the radius."
    axes = Axes("L2 radius, pixels in [0, 1]", "certified accuracy", True)
    return line_chart("Certified accuracy", caption, axes, [Series("certified", points, step=True)])
