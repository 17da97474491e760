"""The section that compares two runs of a command, from the document of `stochx compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stochx.reports.html.blocks import Block, Record, Run, Stat, TableBlock
from stochx.reports.html.charts import Mean, interval_chart
from stochx.reports.html.pictures import Album
from stochx.reports.html.tables import Shown, image_table, result_table
from stochx.reports.html.text import folder_names, listed
from stochx.tables.quantities import plural


def title(run: Run) -> str:
    """Name the two runs."""
    return listed(_names(run))


def _names(run: Run) -> list[str]:
    """Return the names of the old and the new run."""
    return folder_names([Path(str(run.setting(side))) for side in ("old", "new")])


def about(run: Run) -> str:
    """Say what is compared, and how."""
    paired = max((row["paired"] for row in run.rows), default=0)
    unit = "episode" if run.document["of"].startswith("fsc") else "image"
    old, new = _names(run)
    how = f"paired over {plural(paired, unit)}" if paired else "as independent means"
    return f"Two runs of {run.document['of']}, compared {how}: {new} minus {old}."


def stats(run: Run) -> list[Stat]:
    """Return the differences that are significant, the largest first; else say that there is none."""
    sure = sorted((row for row in run.rows if row["significant"]), key=lambda row: -abs(row["difference"]))
    if sure:
        return [Stat(_label(row), f"{row['difference']:+.3f}", _interval(row)) for row in sure[:3]]
    return [Stat("Significant differences", "none", f"of {plural(len(run.rows), 'measure')}")]


def _label(row: Record) -> str:
    return ", ".join(part for part in (row["label"], row["measure"]) if part)


def _interval(row: Record) -> str:
    parts = [] if row["low"] is None else [f"95 % interval {row['low']:+.3f} to {row['high']:+.3f}"]
    return ", ".join([*parts, *([f"p = {row['p']:.2g}"] if row["p"] is not None else [])])


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the folders."""
    return [("Old", str(run.setting("old"))), ("New", str(run.setting("new")))]


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the differences of shares, and the table."""
    rows = [row for row in run.rows if _is_share(row)]
    if rows:
        means = [
            Mean(_label(row), row["difference"], row["low"], row["high"], place, f"{row['difference']:+.3f}")
            for place, row in enumerate(rows)
        ]
        yield interval_chart("Differences", "New minus old, with 95 % intervals.", means, zero=True)
    yield result_table(run)


def _is_share(row: Record) -> bool:
    return all(row[side] is not None and 0 <= row[side] <= 1 for side in ("old", "new"))


Fate = Callable[[Record], Sequence[str]]


def changed_images(old: Run, new: Run, fate: Fate) -> TableBlock | None:
    """Return the images of both runs whose outcomes differ; None where the runs have several points, or no images."""
    before, after = _outcomes(old, fate), _outcomes(new, fate)
    common = [image for image in before if image in after]
    if not common:
        return None
    changed = [image for image in common if before[image] != after[image]]
    columns = [
        Shown("image", str),
        Shown("old", lambda image: before[image]),
        Shown("new", lambda image: after[image]),
    ]
    title = f"Images whose outcome changed: {len(changed)} of {len(common)}"
    return image_table(title, columns, changed, lambda image: (), lambda image: "")


def _outcomes(run: Run, fate: Fate) -> dict[str, str]:
    """Return the outcome of each image, as far as it has one."""
    if len(run.parts) != 1:
        return {}
    fates = {str(record["image"]): fate(record) for record in run.parts[0].records}
    return {image: tags[0] for image, tags in fates.items() if tags}
