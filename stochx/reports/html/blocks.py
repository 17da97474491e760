"""The parts that a report is composed of, as data: what each says, not how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from markupsafe import Markup

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """Records of one network at one point, in their own folder; most runs have a single part without a name."""

    name: str
    folder: Path
    records: Sequence[Record]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its document, and its records."""

    folder: Path
    document: Mapping[str, Any]
    parts: Sequence[Part]
    name: str = ""  # by which the report calls it

    @property
    def command(self) -> str:
        """The command as typed."""
        return str(self.document["command"])

    def setting(self, name: str) -> Any:
        """Return a setting of the run as its document has it; None where it was not set."""
        return self.document["args"].get(name)

    @property
    def rows(self) -> Sequence[Record]:
        """The rows of the result."""
        rows: Sequence[Record] = self.document["results"]
        return rows


@dataclass(frozen=True)
class Stat:
    """A number that answers the question of a run, with its interval and n in `note`."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table; numbers stand at the right."""

    text: str
    numeric: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table: `tags` such as right and fooled, and the class, are what filters ask for."""

    cells: Sequence[Cell]
    tags: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True)
class Heading:
    """The heading of a column, and what its numbers mean."""

    name: str
    numeric: bool = False
    note: str = ""


@dataclass(frozen=True)
class TableBlock:
    """A table that sorts; `left_out` counts the rows that are not in it."""

    kind: ClassVar[str] = "table"
    title: str
    headings: Sequence[Heading]
    lines: Sequence[Line]
    note: str = ""
    left_out: int = 0
    folded: bool = False  # closed until it is asked for

    @property
    def notes(self) -> list[tuple[str, str]]:
        """The columns with a note."""
        return [(heading.name, heading.note) for heading in self.headings if heading.note]


@dataclass(frozen=True)
class Legend:
    """An entry of a legend: a name, its place among the colours, and its dashes."""

    name: str
    colour: int
    dashes: str = ""


@dataclass(frozen=True)
class ChartBlock:
    """A drawing as SVG, with its legend and a caption that says what one sees."""

    kind: ClassVar[str] = "chart"
    title: str
    svg: Markup
    caption: str
    legend: Sequence[Legend] = ()
    wide: bool = False


@dataclass(frozen=True)
class Tile:
    """A picture, or a map over one: its own `picture`, or `shared`, the first of the image."""

    title: str
    alt: str
    picture: str | None
    over: str | None = None
    note: str = ""
    wrong: bool = False
    crisp: bool = False  # small images keep their pixels
    shared: bool = False

    @property
    def blends(self) -> bool:
        """True for a map over a picture."""
        return self.over is not None and (self.shared or self.picture is not None)


@dataclass(frozen=True)
class Item:
    """An image of a gallery: the tiles that stand side by side."""

    name: str
    line: str
    tiles: Sequence[Tile]
    tags: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True)
class GalleryBlock:
    """Images with their maps or adversarial images; `left_out` counts those that are not shown, and `why`."""

    kind: ClassVar[str] = "gallery"
    title: str
    caption: str
    items: Sequence[Item]
    left_out: int = 0
    why: str = ""
    columns: int = 0  # tiles side by side; 0: all of an image

    @property
    def blends(self) -> bool:
        """True where a tile has a map over its picture."""
        return any(tile.blends for item in self.items for tile in item.tiles)

    @property
    def across(self) -> int:
        """Tiles of an image, side by side."""
        return self.columns or max((len(item.tiles) for item in self.items), default=1)


@dataclass(frozen=True)
class Frame:
    """A position of a slider: a network, or a degree of noise."""

    label: str
    drawings: Sequence[Markup]
    note: str


@dataclass(frozen=True)
class FramesBlock:
    """Drawings of the same thing for several networks, one behind the other."""

    kind: ClassVar[str] = "frames"
    title: str
    caption: str
    frames: Sequence[Frame]
    pictures: Sequence[Tile] = ()
    legend: Sequence[tuple[str, str]] = ()  # names and colours


Block = TableBlock | ChartBlock | GalleryBlock | FramesBlock


@dataclass(frozen=True)
class Note:
    """A verdict or a remark: `tone` is ok, warn, fail or empty."""

    label: str
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """A run as the report shows it."""

    name: str  # in links
    command: str
    title: str
    about: str
    stats: Sequence[Stat]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[Note]
    blocks: Sequence[Block]
    environment: Sequence[tuple[str, str]]
    typed: str
    filters: Sequence[tuple[str, int]] = ()  # tags, with the number of images that have them
    groups: Sequence[str] = ()

    @property
    def blends(self) -> bool:
        """True where maps lie over images."""
        return any(isinstance(block, GalleryBlock) and block.blends for block in self.blocks)

    @property
    def left_out(self) -> int:
        """Images of the run that no gallery shows."""
        return sum(block.left_out for block in self.blocks if isinstance(block, GalleryBlock))

    @property
    def alarming(self) -> bool:
        """True where a note warns."""
        return any(note.tone in ("warn", "fail") for note in self.notes)


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    made: str
    sections: Sequence[Section]
    documents: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    shown: int = 0
    left_out: int = 0
