"""Charts as SVG: lines with bands, and means with intervals. Colours follow the page, as classes name them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stochx.errors import printable
from stochx.reports.html.blocks import ChartBlock, Legend
from stochx.wrapping import shorten, width

WIDTH, HEIGHT = 440, 280
NAME, RIGHT, TOP, BOTTOM = 36, 16, 12, 44  # NAME: the room of the name of y
DASHES = ("", "6 4", "2 3", "8 3 2 3")
COLOURS = 10
PLAIN = -1  # the colour of what stands beside all others
LETTER = 6.4  # units of a letter, at the size of labels
ROW, LINE = 24, 18  # heights of the rows of an interval chart
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line through points, with its band (low, high); `step` keeps a value up to the next point."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    step: bool = False
    marks: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Axes:
    """Names of the axes; the range of y where it is fixed; ticks of x where they have texts of their own."""

    x: str
    y: str
    share: bool = False  # y lies in [0, 1]
    ticks: Mapping[float, str] | None = None
    whole: bool = False  # x counts


def line_chart(title: str, caption: str, axes: Axes, series: Sequence[Series]) -> ChartBlock:
    """Draw lines over one another."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points] + [y for line in series for ends in line.band for y in ends]
    low, high = (0.0, 1.0) if axes.share else _padded(min(ys), max(ys))
    left = NAME + LETTER * max(len(text) for _, text in _labelled_ticks(low, high))
    scale_x = _Scale(min(xs), max(xs), left, WIDTH - RIGHT)
    scale_y = _Scale(low, high, HEIGHT - BOTTOM, TOP)
    legend = list(_legend(series))
    parts = [_grid(scale_x, scale_y, axes)]
    parts += [_band(line, scale_x, scale_y, entry) for line, entry in zip(series, legend, strict=True)]
    parts += [_line(line, scale_x, scale_y, entry) for line, entry in zip(series, legend, strict=True)]
    return ChartBlock(title, _svg(title, caption, WIDTH, HEIGHT, parts), caption, legend)


@dataclass(frozen=True)
class Mean:
    """A mean and the ends of its interval, None where there is none; `place` is that of its colour."""

    name: str
    value: float
    low: float | None
    high: float | None
    place: int = 0
    text: str = ""


def interval_chart(
    title: str, caption: str, means: Sequence[Mean], share: bool = False, zero: bool = False
) -> ChartBlock:
    """Draw means with their intervals, one below the other, each under its name; `zero` marks that of no difference."""
    ends = [end for mean in means for end in (mean.value, mean.low, mean.high) if end is not None]
    ends += [0.0] if zero else []
    low, high = (0.0, 1.0) if share else _padded(min(ends), max(ends))
    height = TOP + len(means) * (ROW + LINE) + 30
    scale = _Scale(low, high, 12, WIDTH - 12)
    bottom = height - 24
    parts = [
        f'<line class="{"axis" if zero and tick == 0 else "grid"}" x1="{_n(scale(tick))}" '
        f'x2="{_n(scale(tick))}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{_n(scale(tick))}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        for tick, text in _labelled_ticks(low, high)
    ]
    for row, mean in enumerate(means):
        y = TOP + row * (ROW + LINE) + LINE - 4
        left, right = (scale(mean.value if end is None else end) for end in (mean.low, mean.high))
        name, value = _text(shorten(printable(mean.name), 52)), _text(mean.text)
        parts.append(
            f'<g class="{_colour(mean.place)}"><text class="label" x="12" y="{y}">{name}</text>'
            f'<text class="value" x="{WIDTH - 12}" y="{y}" text-anchor="end">{value}</text>'
            f'<line class="range" x1="{_n(left)}" x2="{_n(right)}" y1="{y + 13}" y2="{y + 13}"/>'
            f'<circle class="dot" cx="{_n(scale(mean.value))}" cy="{y + 13}" r="5"/></g>'
        )
    return ChartBlock(title, _svg(title, caption, WIDTH, height, parts), caption)


@dataclass(frozen=True)
class _Scale:
    """Values as places of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two, at most `most`."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * k for k in (1, 2, 2.5, 5, 10, 20) if span / (power * k) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _labelled_ticks(low: float, high: float) -> list[tuple[float, str]]:
    return [(tick, f"{tick:.10g}") for tick in ticks(low, high)]


def _grid(x: _Scale, y: _Scale, axes: Axes) -> str:
    """Draw the ticks, their lines and texts, and the names of the axes."""
    bottom = HEIGHT - BOTTOM
    across = _with_room(axes.ticks, x) if axes.ticks else _labelled_ticks(x.low, x.high)
    if axes.whole:
        across = [(tick, text) for tick, text in across if tick == round(tick)]
    parts = [
        f'<line class="grid" x1="{_n(x.start)}" x2="{WIDTH - RIGHT}" y1="{_n(y(tick))}" y2="{_n(y(tick))}"/>'
        f'<text class="tick" x="{_n(x.start - 8)}" y="{_n(y(tick) + 4)}" text-anchor="end">{text}</text>'
        for tick, text in _labelled_ticks(y.low, y.high)
    ]
    parts += [
        f'<line class="axis" x1="{_n(x(tick))}" x2="{_n(x(tick))}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text class="tick" x="{_n(x(tick))}" y="{bottom + 18}" text-anchor="middle">{_text(text)}</text>'
        for tick, text in across
    ]
    middle = (TOP + bottom) / 2
    parts += [
        f'<line class="axis" x1="{_n(x.start)}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        f'<text class="name" x="{_n((x.start + x.end) / 2)}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{_text(axes.x)}</text>",
        f'<text class="name" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{_text(axes.y)}</text>",
    ]
    return "".join(parts)


def _with_room(texts: Mapping[float, str], x: _Scale) -> list[tuple[float, str]]:
    """Return the ticks that have room, from the right, where the points of most sweeps are far apart."""
    kept: list[tuple[float, str]] = []
    for tick in sorted(texts, reverse=True):
        if not kept or x(kept[-1][0]) - x(tick) > LETTER * (width(texts[tick]) + width(kept[-1][1])) / 2 + 6:
            kept.append((tick, texts[tick]))
    return kept


def _legend(series: Sequence[Series]) -> Iterable[Legend]:
    place = 0
    for line in series:
        if line.plain:
            yield Legend(line.name, PLAIN, "2 3")
        else:
            yield Legend(line.name, place % COLOURS, DASHES[place // COLOURS % len(DASHES)])
            place += 1


def _colour(place: int) -> str:
    return "plain" if place == PLAIN else f"s{place % COLOURS}"


def _line(line: Series, x: _Scale, y: _Scale, entry: Legend) -> str:
    """Draw a line with its points, each of which says its values to a pointer."""
    points = [(x(a), y(b)) for a, b in line.points]
    dashes = f' stroke-dasharray="{entry.dashes}"' if entry.dashes else ""
    path = f'<path class="line" d="{_path(points, line.step)}"{dashes}/>'
    marks = ""
    if line.marks or len(points) == 1:
        marks = "".join(
            f'<circle class="dot" cx="{_n(px)}" cy="{_n(py)}" r="3.5">'
            f"<title>{_text(line.name)}: {b:.4g} at {a:.4g}</title></circle>"
            for (px, py), (a, b) in zip(points, line.points, strict=True)
        )
    return f'<g class="{_colour(entry.colour)}">{path}{marks}</g>'


def _band(line: Series, x: _Scale, y: _Scale, entry: Legend) -> str:
    if not line.band:
        return ""
    xs = [x(a) for a, _ in line.points]
    lower = list(zip(xs, (y(low) for low, _ in line.band), strict=True))
    upper = list(zip(xs, (y(high) for _, high in line.band), strict=True))
    if line.step:
        lower, upper = _steps(lower), _steps(upper)
    return (
        f'<g class="{_colour(entry.colour)}"><path class="band" d="{_path([*upper, *reversed(lower)], False)}Z"/></g>'
    )


def _steps(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a step function, which keeps a value up to the next point."""
    corners = list(points[:1])
    for (_, before), (x, y) in itertools.pairwise(points):
        corners += [(x, before), (x, y)]
    return corners


def _path(points: Sequence[Point], step: bool) -> str:
    corners = _steps(points) if step else points
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in corners)


def _svg(title: str, caption: str, across: float, down: float, parts: Sequence[str]) -> Markup:
    """Compose a drawing that says to a screen reader what it shows."""
    head = f"<title>{_text(title)}</title><desc>{_text(caption)}</desc>"
    return Markup(f'<svg class="plot" role="img" viewBox="0 0 {across} {_n(down)}">{head}{"".join(parts)}</svg>')


def _text(text: str) -> str:
    """Return a text as SVG holds it: control characters and markup become harmless."""
    return str(Markup.escape(printable(text)))


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
