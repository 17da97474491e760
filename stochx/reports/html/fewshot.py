"""The sections of few-shot networks: accuracies on every domain, and heatmaps of queries and their support."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stochx.reports.colours import colours_of, scale_of
from stochx.reports.html.blocks import Block, GalleryBlock, Item, Part, Record, Run, Stat, Tile
from stochx.reports.html.charts import Mean, interval_chart
from stochx.reports.html.images import file_of, read_arrays, read_picture
from stochx.reports.html.pictures import Album, is_crisp
from stochx.reports.html.tables import result_table
from stochx.reports.html.text import listed, percent, short, within
from stochx.tables.quantities import plural


def about(run: Run) -> str:
    """Say what was tested, or explained."""
    if run.command == "fsc-test":
        domains = listed(dict.fromkeys(str(row["domain"]) for row in run.rows))
        return f"{short(run.setting('model'))} on {plural(run.rows[0]['n'], 'episode')} of {domains}."
    queries = plural(len({row["image"] for row in run.rows}), "query image")
    return f"The evidence that {short(run.setting('model'))} sees in {queries}, and in the support of each class."


def stats(run: Run) -> list[Stat]:
    """Return the accuracy on each domain and its difference to the other network, or the number of queries."""
    if run.command == "fsc-explain":
        return [Stat("Queries", str(len({row["image"] for row in run.rows})), _classes(run))]
    numbers = []
    for row in run.rows[:4]:
        name = f"{row['way']}-way {row['shot']}-shot, {row['domain']}"
        numbers.append(Stat(name, percent(row["accuracy"]), within(row)))
        if row.get("difference") is not None:
            ends = f"{100 * row['low_difference']:+.1f} to {100 * row['high_difference']:+.1f}"
            note = f"95 % interval {ends}, p = {row['p']:.2g}, paired by episode"
            numbers.append(Stat("First minus second network", f"{100 * row['difference']:+.1f} points", note))
    return numbers


def _classes(run: Run) -> str:
    return plural(len({row["class_name"] for row in run.rows}), "class").replace("classs", "classes")


def facts(run: Run) -> list[tuple[str, str]]:
    """Return how episodes are made, or what the support is."""
    if run.command == "fsc-explain":
        return [("Support", str(run.setting("support"))), ("Rules", str(run.setting("method")))]
    row = run.rows[0]
    pairs = [("Inference", str(row["inference"])), ("Queries", f"{row['queries']} of each class in an episode")]
    return [*pairs, ("Second network", str(run.setting("versus")))] if run.setting("versus") else pairs


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the accuracies and their table, or the heatmaps."""
    if run.command == "fsc-test":
        yield _accuracies(run)
    else:
        items = [item for part in run.parts for item in _items(part, album)]
        total = len({row["image"] for row in run.rows})
        yield GalleryBlock(
            "Queries and support",
            "Evidence in the query for each class rather than the others, most probable first, and in the first "
            "support image of each class for its own score. Red: for the class, blue: against it.",
            items,
            total - len(items),
            album.why,
            1 + len({row["class_name"] for row in run.rows}),
        )
    yield result_table(run, folded=run.command == "fsc-explain")


def _accuracies(run: Run) -> Block:
    """Draw the accuracies of all networks."""
    means = []
    for row in run.rows:
        name = f"{row['domain']}, {row['shot']}-shot"
        means.append(Mean(name, row["accuracy"], row["low"], row["high"], 0, percent(row["accuracy"])))
        if row.get("accuracy_versus") is not None:
            other = row["accuracy_versus"]
            means.append(
                Mean(f"{name}, second network", other, row["low_versus"], row["high_versus"], 1, percent(other))
            )
    caption = f"Mean accuracy over {run.rows[0]['n']} episodes, with 95 % intervals."
    return interval_chart("Accuracy by domain", caption, means, share=True)


def _items(part: Part, album: Album) -> Iterator[Item]:
    """Yield each query with the evidence for every class, and the support."""
    sheet = read_picture(part.folder / "support.png")
    for image in dict.fromkeys(str(record["image"]) for record in part.records):
        rows = [record for record in part.records if record["image"] == image]
        arrays = read_arrays(file_of(part.folder, image, ".matched.npz"))
        query = read_picture(file_of(part.folder, image, ".query.png"))
        if arrays is None or query is None or not {"query", "support"} <= arrays.keys():
            continue
        if arrays["query"].ndim != 4 or len(arrays["query"]) != len(rows):
            continue
        item = _item(image, rows, (query, _first_of_each(sheet, arrays["support"])), arrays, album)
        if item is not None:
            yield item


def _item(
    image: str,
    rows: Sequence[Record],
    pictures: tuple[np.ndarray, list[np.ndarray]],
    arrays: dict[str, np.ndarray],
    album: Album,
) -> Item | None:
    query, support = pictures
    order = sorted(range(len(rows)), key=lambda k: -rows[k]["probability"])
    of_query, of_support = arrays["query"].sum(1), arrays["support"].sum(2)
    scales = scale_of(of_query), scale_of(of_support)
    maps = [colours_of(of_query[k], scales[0]) for k in order]
    examples = [colours_of(of_support[k, 0], scales[1]) for k in order] if support else []
    uris = album.take([query, *maps, *(support[k] for k in order if support), *examples])
    if uris is None:
        return None
    n, crisp = len(rows), is_crisp(query)
    tiles = [Tile("query", f"{image} as the network saw it", uris[0], crisp=crisp)]
    for place, k in enumerate(order):
        name = rows[k]["class_name"]
        note = f"p = {rows[k]['probability']:.3f}"
        tiles.append(
            Tile(name, f"evidence for {name} in {image}", None, uris[1 + place], note, crisp=crisp, shared=True)
        )
    if support:
        tiles.append(Tile("", "", None))
        for place, k in enumerate(order):
            name, base, over = rows[k]["class_name"], uris[1 + n + place], uris[1 + 2 * n + place]
            tiles.append(
                Tile("", f"evidence in a support image of {name}", base, over, f"support: {name}", crisp=crisp)
            )
    best = rows[order[0]]
    line = f"predicted: {best['class_name']} (p = {best['probability']:.2f})"
    return Item(image, line, tiles, (), str(best["class_name"]))


def _first_of_each(sheet: np.ndarray | None, support: np.ndarray) -> list[np.ndarray]:
    """Return the first support image of each class; none where the sheet does not fit the maps."""
    ways, shots, _, high, wide = support.shape if support.ndim == 5 else (0, 0, 0, 0, 0)
    if sheet is None or sheet.shape[:2] != (ways * high, shots * wide):
        return []
    return [sheet[k * high : (k + 1) * high, :wide] for k in range(ways)]
