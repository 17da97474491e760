"""The section of explanations: a gallery where the maps of all methods stand side by side over the image."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from stochx.attributions import is_signed
from stochx.catalog import ATTRIBUTIONS
from stochx.errors import StochxError
from stochx.reports.colours import colours_of, legend_of_colours, scale_of
from stochx.reports.html.blocks import Block, GalleryBlock, Item, Part, Record, Run, Stat, Tile
from stochx.reports.html.images import file_of, read_arrays, read_picture, within
from stochx.reports.html.pictures import Album, is_crisp
from stochx.reports.html.tables import result_table
from stochx.reports.html.text import listed, short
from stochx.tables.quantities import plural


def about(run: Run) -> str:
    """Say what was explained, and by what."""
    methods = [str(method) for method in run.setting("method")]
    count = len({row["index"] for row in run.rows})
    return f"Maps of {plural(count, 'image')} for {short(run.setting('model'))}, by {listed(methods)}."


def stats(run: Run) -> list[Stat]:
    """Return how many images were explained, and how many of them are right, where their classes are known."""
    first = list({row["index"]: row for row in run.rows}.values())
    known = [row for row in first if row.get("true") is not None]
    numbers = [Stat("Images", f"{len(first):,}", plural(len(run.setting("method")), "method"))]
    if known:
        right = sum(row["true"] == row["predicted"] for row in known)
        numbers.append(Stat("Classified correctly", f"{right} of {len(known)}", "of the images in this run"))
    return numbers


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what was explained."""
    target = run.setting("target")
    where = run.setting("data") or plural(len(run.setting("images") or ()), "file")
    return [
        ("Explained class", f"`{target}`" if target else "the most probable one of each image"),
        ("Images", str(where)),
        *([("Draws of the network", str(run.setting("draws")))] if run.document.get("noise", "none") != "none" else []),
    ]


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the gallery, and the table of all maps."""
    unsigned = _unsigned([str(method) for method in run.setting("method")])
    for part in run.parts:
        items = list(_items(part, album, unsigned))
        images = len({record["index"] for record in part.records})
        signed = any(record["method"] not in unsigned for record in part.records)
        caption = f"The evidence in each image for its class. {_sentence(legend_of_colours(signed, bool(unsigned)))}"
        yield GalleryBlock("Images and maps", caption, items, images - len(items), album.why)
    yield result_table(run, "Every map", folded=True)


def _unsigned(methods: Sequence[str]) -> set[str]:
    """Return the methods whose maps count by their absolute value, as far as they are known here."""
    unsigned = set[str]()
    for text in methods:
        with contextlib.suppress(StochxError):  # one that was included from a file
            if not is_signed(ATTRIBUTIONS.make(text)):
                unsigned.add(text)
    return unsigned


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def fate(record: Record) -> tuple[str, ...]:
    """Return right or wrong, where the class is known."""
    if record.get("true") is None or not record.get("predicted"):
        return ()
    return ("right",) if record["true"] == record["predicted"] else ("wrong",)


def _items(part: Part, album: Album, unsigned: Collection[str]) -> Iterator[Item]:
    by_image: dict[int, list[Record]] = {}
    for record in part.records:
        by_image.setdefault(record["index"], []).append(record)
    for records in by_image.values():
        item = _item(part, records, album, unsigned)
        if item is not None:
            yield item


def _item(part: Part, records: Sequence[Record], album: Album, unsigned: Collection[str]) -> Item | None:
    """Return the image and its maps; None where there is no room for them, or nothing is left of them."""
    first = records[0]
    image = read_picture(file_of(part.folder, first["image"], ".input.png"))
    maps = {record["method"]: _map_colours(part, record, unsigned) for record in records}
    shown = {method: colours for method, colours in maps.items() if colours is not None}
    if not shown:
        return None
    pictures = [*([image] if image is not None else []), *shown.values()]
    uris = album.take(pictures)
    if uris is None:
        return None
    base = uris[0] if image is not None else None
    crisp = is_crisp(pictures[0])
    tiles = [Tile("network input", f"{first['image']} as the network saw it", base, crisp=crisp)] if base else []
    overs = dict(zip(shown, uris[1:] if base else uris, strict=True))
    tiles += [
        Tile(
            record["method"],
            f"map of {record['image']} by {record['method']} for {record['class_name']}",
            None,
            overs[record["method"]],
            _quality(record),
            crisp=crisp,
            shared=base is not None,
        )
        for record in records
        if record["method"] in overs
    ]
    return Item(str(first["image"]), _line(first), tiles, fate(first), str(first.get("true") or first["class_name"]))


def _map_colours(part: Part, record: Record, unsigned: Collection[str]) -> np.ndarray | None:
    """Return a stored map in colours (H, W, 3), None where it cannot be read."""
    arrays = read_arrays(within(part.folder, record["map"]))
    values = None if arrays is None else arrays.get("sum")
    if values is None or values.ndim != 2 or values.dtype.kind != "f" or not np.isfinite(values).all():
        return None
    return colours_of(values, scale_of(values), record["method"] not in unsigned)


def _line(record: Record) -> str:
    """Return the true class, the predicted one, and the explained one where it is another."""
    parts = [f"true: {record['true']}"] if record.get("true") is not None else []
    predicted = record.get("predicted")
    if predicted and predicted != record["class_name"]:
        parts.append(f"predicted: {predicted}")
    word = "predicted" if predicted == record["class_name"] else "explained"
    return ", ".join([*parts, f"{word}: {record['class_name']} (p = {record['probability']:.2f})"])


def _quality(record: Mapping[str, object]) -> str:
    """Return what is known of the accuracy of a map."""
    parts = [f"Monte-Carlo error {record['error']:.2f}"] if record["error"] is not None else []
    parts += [f"gap {record['gap']:+.2f}"] if record["gap"] is not None else []
    return ", ".join(parts)
