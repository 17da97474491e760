"""The section of scores: means of every metric, the curves behind them, and the maps that were scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stochx.engine.statistics import interval
from stochx.reports.html.blocks import Block, GalleryBlock, Item, Record, Run, Stat, Tile
from stochx.reports.html.charts import Axes, Mean, Series, interval_chart, line_chart
from stochx.reports.html.images import file_of, read_picture
from stochx.reports.html.pictures import Album
from stochx.reports.html.tables import Shown, image_table, result_table
from stochx.reports.html.text import listed, short
from stochx.tables.quantities import plural

BETTER = {"higher": "higher is better", "lower": "lower is better", "none": "for comparison"}
GAP = 4  # pixels between the tiles of a strip
Curve = tuple[list[float], np.ndarray]


def methods_of(run: Run) -> list[str]:
    """Return the methods in the order of the table."""
    return list(dict.fromkeys(str(row["method"]) for row in run.rows))


def metrics_of(run: Run) -> list[str]:
    """Return the metrics in the order of the table."""
    return list(dict.fromkeys(str(row["metric"]) for row in run.rows))


def about(run: Run) -> str:
    """Say what was measured."""
    where = f" of {short(run.setting('model'))}" if run.setting("model") else ""
    images = plural(run.document["images"], "image")
    return f"Maps{where} of {images} by {listed(methods_of(run))}, measured by {listed(metrics_of(run))}."


def stats(run: Run) -> list[Stat]:
    """Return the best method of each metric, where one is significantly better than all others."""
    numbers = []
    for metric in metrics_of(run):
        rows = [row for row in run.rows if row["metric"] == metric]
        best = next((row for row in rows if row["best"]), None)
        if best is not None:
            numbers.append(Stat(f"Best by {metric}", best["method"], f"mean {best['mean']:.4g}, n = {best['n']}"))
    return numbers[:3] or [Stat("Images", f"{run.document['images']:,}", "no method is significantly the best")]


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what was scored."""
    where = run.setting("data") or run.setting("maps") or plural(len(run.setting("images") or ()), "file")
    return [("Images", str(where)), ("Methods", str(len(methods_of(run)))), ("Metrics", str(len(metrics_of(run))))]


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the means, the table, the curves, the gallery."""
    yield result_table(run)
    for metric in metrics_of(run):
        yield from _means(run, metric)
    for part in run.parts:
        for metric in metrics_of(run):
            yield from _curves(run, metric, part.records)
        yield from _gallery(run, part.records, album)
        yield image_table("Every image", _columns(run), part.records, fate, _group)


def _means(run: Run, metric: str) -> Iterator[Block]:
    """Draw the means of all methods."""
    rows = [row for row in run.rows if row["metric"] == metric and row["mean"] is not None]
    if rows:
        methods = methods_of(run)
        means = [
            Mean(
                row["method"], row["mean"], row["low"], row["high"], methods.index(row["method"]), f"{row['mean']:.4g}"
            )
            for row in rows
        ]
        caption = f"Mean over {rows[0]['n']} images with 95 % intervals; {BETTER[rows[0]['better']]}."
        yield interval_chart(metric, caption, means)


def _curves(run: Run, metric: str, records: Sequence[Record]) -> Iterator[Block]:
    """Draw the mean curves behind a metric, over the images for which every method has one."""
    curves = _stacked(records, methods_of(run), metric)
    if curves:
        series = []
        for method, (places, heights) in curves.items():
            mean = heights.mean(0).tolist()
            band = [interval(column) for column in heights.T.tolist()] if len(heights) > 2 else []
            ends = [(each.low, each.high) for each in band]
            series.append(Series(method, list(zip(places, mean, strict=True)), ends, marks=len(places) < 12))
        n = len(next(iter(curves.values()))[1])
        better = next(BETTER[row["better"]] for row in run.rows if row["metric"] == metric)
        caption = f"Mean curves over {n} images, with 95 % intervals. The metric: {better}."
        yield line_chart(f"Curves of {metric}", caption, Axes("place", "value"), series)


def _stacked(records: Sequence[Record], methods: Sequence[str], metric: str) -> dict[str, Curve]:
    """Return each method's places (P,) and curves (n, P)."""
    table: dict[int, dict[str, Mapping[str, object]]] = {}
    for record in records:
        value = record["scores"][metric]
        if value["value"] is not None and value["curve"]:
            table.setdefault(record["index"], {})[record["method"]] = value
    whole = [row for row in table.values() if all(method in row for method in methods)]
    if not whole:
        return {}
    places: list[float] = list(whole[0][methods[0]]["places"])  # type: ignore[call-overload]
    whole = [row for row in whole if all(len(row[m]["curve"]) == len(places) for m in methods)]  # type: ignore[arg-type]
    return {method: (places, np.array([row[method]["curve"] for row in whole])) for method in methods if whole}


def fate(record: Record) -> tuple[str, ...]:
    """Return right or wrong: whether the explained class is the true one, where that is known."""
    if record.get("true") is None:
        return ()
    return ("right",) if record["true"] == record["class_name"] else ("wrong",)


def _group(record: Record) -> str:
    return str(record.get("true") or record["class_name"])


def _gallery(run: Run, records: Sequence[Record], album: Album) -> Iterator[Block]:
    """Show the strips of the run, which hold the image and its maps side by side."""
    methods, items = methods_of(run), []
    for record in {record["index"]: record for record in records}.values():
        strip = read_picture(file_of(run.folder / "strips", record["image"], ".png"))
        tiles = None if strip is None else _tiles_of(strip, 1 + len(methods))
        uris = None if tiles is None else album.take(tiles)
        if uris is None:
            continue
        image, *maps = uris
        first = Tile("network input", f"{record['image']} as the network saw it", image)
        rest = [
            Tile(method, f"map of {record['image']} by {method}", None, uri, shared=True)
            for method, uri in zip(methods, maps, strict=True)
        ]
        words = [f"true: {record['true']}"] if record.get("true") is not None else []
        words.append(f"explained: {record['class_name']} (p = {record['probability']:.2f})")
        if record.get("disagreement") is not None:
            words.append(f"disagreement {record['disagreement']:.2f}")
        items.append(Item(str(record["image"]), ", ".join(words), [first, *rest], fate(record), _group(record)))
    if items or album.left_out:
        caption = "The image, and the maps that were scored. Disagreement is high where the methods rank pixels apart."
        yield GalleryBlock("Images and maps", caption, items, run.document["images"] - len(items), album.why)


def _tiles_of(strip: np.ndarray, count: int) -> list[np.ndarray] | None:
    """Return the tiles of a strip, None where it has another number of them."""
    wide, rest = divmod(strip.shape[1] - GAP * (count - 1), count)
    if rest or wide < 1:
        return None
    return [strip[:, k * (wide + GAP) : k * (wide + GAP) + wide] for k in range(count)]


def _columns(run: Run) -> list[Shown]:
    """Return the columns of the table of images: the value of each metric."""
    columns = [
        Shown("image", lambda record: str(record["image"])),
        Shown("method", lambda record: str(record["method"])),
        Shown("class", _group),
    ]
    return columns + [
        Shown(metric, lambda record, metric=metric: _value(record["scores"][metric]), True)  # type: ignore[misc]
        for metric in metrics_of(run)
    ]


def _value(score: Mapping[str, float | None]) -> str:
    return "–" if score["value"] is None else f"{score['value']:.4g}"
