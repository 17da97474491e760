"""The section of decision boundaries: planes with a slider over networks, and how far the networks agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from markupsafe import Markup

from stochx.engine.io.images import to_picture
from stochx.errors import printable
from stochx.reports.boundary import palette, short_names
from stochx.reports.colours import colours_of
from stochx.reports.html.blocks import Block, Frame, FramesBlock, Record, Run, Stat, Tile
from stochx.reports.html.charts import Axes, Series, line_chart, ticks
from stochx.reports.html.images import read_arrays, within
from stochx.reports.html.pictures import Album, is_crisp, to_uri
from stochx.reports.html.tables import result_table
from stochx.reports.html.text import percent, shared_folder, short
from stochx.reports.maps import file_names
from stochx.reports.shading import shade
from stochx.tables.quantities import plural

SIDE = 400  # pixels of the longer side of a plane
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 42
AXES = {
    "images": ("L2 distance from image 1 towards image 2", "L2 distance, towards image 3"),
    "gradient": ("sign of the loss gradient, in eps = {eps}", "a random orthogonal direction"),
    "attack": ("towards the adversarial image, in eps = {eps}", "a random orthogonal direction"),
}
ANGLES = 180  # corners of the outline of the ball


def about(run: Run) -> str:
    """Say what was drawn."""
    networks, planes = len(run.setting("models")), len(run.document["planes"])
    return f"{plural(networks, 'network')} on {plural(planes, 'plane')} through images of {run.setting('data')}."


def stats(run: Run) -> list[Stat]:
    """Return how far the last network agrees with the first, over all planes."""
    if len(run.setting("models")) < 2:
        row = run.rows[-1]
        return [Stat("Regions", str(row["regions"]), "connected areas of one class")]
    row = run.rows[-1]
    note = f"{short(row['model'])} and {short(run.setting('models')[0])}: share of the points with the same class"
    return [Stat("Agreement", percent(row["agreement"]), note)]


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what the planes are."""
    across, up = (text.format(eps=run.setting("eps")) for text in AXES[run.setting("plane")])
    return [
        ("Across", across),
        ("Up", up),
        ("Images", "; ".join(", ".join(p["images"]) for p in run.document["planes"])),
    ]


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield the planes, agreement over the networks, the table."""
    for plane in run.document["planes"]:
        block = _plane(run, plane, album)
        if block is not None:
            yield block
    if len(run.setting("models")) > 2:
        yield _evolution(run)
    yield result_table(run)


def _evolution(run: Run) -> Block:
    """Draw agreement and confidence over the networks."""
    rows = run.rows[-len(run.setting("models")) :]
    names = short_names([str(row["model"]) for row in rows])
    keys = {"agreement": "agreement with the first", "confidence": "mean confidence"}
    series = [
        Series(name, [(place, row[key]) for place, row in enumerate(rows)], marks=True) for key, name in keys.items()
    ]
    axes = Axes("network", "share", True, {place: name.rpartition("/")[2] for place, name in enumerate(names)})
    return line_chart("Over the networks", "Mean over the points of the planes, for each network.", axes, series)


@dataclass(frozen=True)
class _Scene:
    """The grid of a plane in units of its axes, and what is drawn over every network's classes."""

    a: np.ndarray
    b: np.ndarray
    marks: np.ndarray
    ball: np.ndarray | None
    names: tuple[str, str]


def _plane(run: Run, plane: Record, album: Album) -> Block | None:
    """Return a plane with a frame for each network, None where its files cannot be read or have no room."""
    folder = run.folder / "planes"
    arrays = read_arrays(within(folder, f"{plane['name']}.npz"))
    names = short_names([str(name) for name in run.setting("models")])
    files = file_names([name.replace("/", "-") for name in names])
    maps = {
        name: read_arrays(within(folder, f"{plane['name']}.{file}.npz"))
        for name, file in zip(names, files, strict=True)
    }
    found = {name: arrays for name, arrays in maps.items() if arrays and {"labels", "confidence"} <= arrays.keys()}
    if not found or arrays is None or not {"origin", "axes", "a", "b", "marks"} <= arrays.keys():
        return None
    scene = _scene(run, arrays)
    colours = palette([torch.from_numpy(each["labels"]) for each in found.values()])
    classes = max(len(plane.get("labels", {})), 2)
    frames = []
    for name, each in found.items():
        row = _row(run, plane, name, names)
        pictures = [shade(each["labels"], each["confidence"], colours, classes, SIDE)]
        if row["disagreement"] is not None and "disagreement" in each:
            times = max(1, -(-SIDE // max(each["labels"].shape)))
            shares = colours_of(each["disagreement"], max(0.1, float(each["disagreement"].max())), signed=False)
            pictures.append(shares.repeat(times, 0).repeat(times, 1))
        uris = album.fit([picture[::-1] for picture in pictures])
        if uris is None:
            return None
        titles = ("predicted class", "share of draws that disagree")
        drawings = [_draw(scene, uri, f"{title} of {name}") for uri, title in zip(uris, titles, strict=False)]
        frames.append(Frame(name, drawings, _numbers(row)))
    legend = [(_class(plane, k), colour) for k, colour in colours.items()]
    caption = "The class that each network predicts at every point, paler where it is less confident."
    if scene.ball is not None:
        caption += " Dashed: the ball of radius eps."
    if any(len(frame.drawings) > 1 for frame in frames):
        caption += " At the right, the share of draws of the noise that differ from the most frequent class."
    keys = [str(key) for key in plane["images"]]
    title = f"Plane through {', '.join(key.removeprefix(shared_folder(keys)) for key in keys)}"
    return FramesBlock(title, caption, frames, _pictures(plane, arrays), legend)


def _class(plane: Record, label: int) -> str:
    return str(plane.get("labels", {}).get(str(label), f"class {label}"))


def _row(run: Run, plane: Record, name: str, names: Sequence[str]) -> Record:
    """Return the row of a network on a plane."""
    model = run.setting("models")[names.index(name)]
    return next(row for row in run.rows if row["plane"] == plane["name"] and row["model"] == model)


def _numbers(row: Record) -> str:
    parts = [f"agreement with the first {row['agreement']:.2f}", plural(row["regions"], "region")]
    if row["disagreement"] is not None:
        parts.append(f"mean disagreement {row['disagreement']:.3f}")
    distance, unit = (row["distance_eps"], " eps") if row["distance_eps"] is not None else (row["distance"], "")
    parts.append("no boundary on the axis" if distance is None else f"boundary at {distance:.2f}{unit}")
    return ", ".join(parts)


def _scene(run: Run, arrays: Mapping[str, np.ndarray]) -> _Scene:
    unit = 1.0 if run.setting("plane") == "images" else float(Fraction(str(run.setting("eps"))))
    across, up = (text.format(eps=run.setting("eps")) for text in AXES[run.setting("plane")])
    ball = None if run.setting("plane") == "images" else _outline(arrays["axes"])
    return _Scene(arrays["a"] / unit, arrays["b"] / unit, arrays["marks"] / unit, ball, (across, up))


def _outline(axes: np.ndarray) -> np.ndarray:
    """Return the points (N, 2) of the plane at which the largest change of a value is 1, around the origin."""
    angles = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    reach = np.array([np.abs(np.tensordot(direction, axes, 1)).max() for direction in directions])
    outline: np.ndarray = directions / reach[:, None]
    return outline


def _pictures(plane: Record, arrays: Mapping[str, np.ndarray]) -> list[Tile]:
    """Return the images of a plane."""
    tiles = []
    for n, (mark, key) in enumerate(zip(arrays["marks"], plane["images"], strict=False), 1):
        image = to_picture(torch.from_numpy(arrays["origin"] + np.tensordot(mark, arrays["axes"], 1)))
        true = plane["classes"][n - 1]
        title = f"{n}" if len(arrays["marks"]) > 1 else ""
        note = f"true: {true}" if true is not None else str(key)
        tiles.append(Tile(title, f"image {key}, {note}", to_uri(image), note=note, crisp=is_crisp(image)))
    return tiles


def _draw(scene: _Scene, uri: str, title: str) -> Markup:
    """Draw a plane with its axes, the places of the images, and the ball."""
    wide, high = len(scene.a), len(scene.b)
    pixels = SIDE / max(wide, high)
    width, height = wide * pixels, high * pixels
    pitch = float(scene.a[1] - scene.a[0])
    left, low = float(scene.a[0]) - pitch / 2, float(scene.b[0]) - pitch / 2

    def x(value: float) -> float:
        return LEFT + (value - left) / pitch * pixels

    def y(value: float) -> float:
        return TOP + height - (value - low) / pitch * pixels

    parts = [
        f'<image href="{uri}" x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{height:.1f}" '
        f'preserveAspectRatio="none"/>'
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{height:.1f}"/>'
    ]
    if scene.ball is not None:
        corners = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in scene.ball.tolist())
        parts.append(
            f'<svg x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{height:.1f}" '
            f'viewBox="{LEFT} {TOP} {width:.1f} {height:.1f}"><path class="ball" d="M{corners}Z"/></svg>'
        )
    several = len(scene.marks) > 1
    for n, (a, b) in enumerate(scene.marks.tolist(), 1):
        radius, label = (9, f'<text x="{x(a):.1f}" y="{y(b) + 4:.1f}">{n}</text>') if several else (5, "")
        parts.append(f'<g class="mark"><circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="{radius}"/>{label}</g>')
    bottom = TOP + height
    for tick in ticks(left, left + wide * pitch, 7):
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{tick:.6g}</text>'
        )
    for tick in ticks(low, low + high * pitch, 7):
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    across, up = (str(Markup.escape(printable(name))) for name in scene.names)
    parts.append(
        f'<text class="name" x="{LEFT + width / 2:.1f}" y="{bottom + 34:.1f}" text-anchor="middle">{across}</text>'
    )
    parts.append(
        f'<text class="name" transform="translate(12 {TOP + height / 2:.1f}) rotate(-90)" text-anchor="middle">'
        f"{up}</text>"
    )
    box = f"0 0 {LEFT + width + RIGHT:.0f} {TOP + height + BOTTOM:.0f}"
    name = Markup.escape(printable(title))
    return Markup(f'<svg class="plane" role="img" viewBox="{box}"><title>{name}</title>{"".join(parts)}</svg>')
