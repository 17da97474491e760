"""Tables that fit a terminal: names are broken at their joints, numbers never."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stochx.errors import printable
from stochx.tables.view import Column, Row
from stochx.wrapping import longest_piece, width, wrap

GAP = 2  # spaces between columns
NARROWEST = 14  # places below which no name is broken, if it has no joint
INTERVAL = re.compile(r" (?=[\[±])")  # where a number with its interval may break


@dataclass(frozen=True)
class _Block:
    """A column with its cells, the heading among them, and its width, which may shrink to `floor`."""

    column: Column
    cells: tuple[str, ...]
    width: int
    floor: int

    def lines(self, cell: str) -> list[str]:
        """Return the lines of a cell, each as wide as the column; numbers stand at its right."""
        lines = list[str]()
        for line in cell.split("\n"):  # a heading may have several
            interval = self.column.numeric and width(line) > self.width and INTERVAL.search(line)
            lines += INTERVAL.split(line) if interval else wrap(line, self.width)
        blanks = [" " * (self.width - width(line)) for line in lines]
        if self.column.numeric:
            return [blank + line for blank, line in zip(blanks, lines, strict=True)]
        return [line + blank for blank, line in zip(blanks, lines, strict=True)]


@dataclass(frozen=True)
class Table:
    """The lines of a table's heading, and those of its rows."""

    heading: list[str]
    body: list[str]


def fit_table(rows: Sequence[Row], columns: Sequence[Column], places: int) -> tuple[list[Table], list[Column]]:
    """Return the tables that show all rows within a width, and the columns that are in them.

    A column without a single text is left out. Where even broken names leave no room, minor columns go too, and the
    others continue in a second table, which repeats the names.
    """
    blocks = [_measure(column, rows) for column in columns]
    blocks = [block for block in blocks if not rows or any(block.cells[1:])]
    while _room(blocks) > places and (minor := [block for block in blocks if block.column.minor]):
        blocks.remove(minor[-1])
    tables = [_lay_out(_shrink(part, places)) for part in _parts(blocks, places)]
    return tables, [block.column for block in blocks]


def _measure(column: Column, rows: Sequence[Row]) -> _Block:
    heading = "\n".join(map(printable, column.name.split("\n")))
    cells = (heading, *(printable(column.cell(row)) for row in rows))
    natural = max(width(line) for cell in cells for line in cell.split("\n"))
    if column.numeric:
        narrow = max(width(part) for cell in cells[1:] for part in INTERVAL.split(cell)) if rows else 0
        return _Block(column, cells, natural, max(narrow, longest_piece(cells[0])))
    return _Block(column, cells, natural, min(natural, max(NARROWEST, *map(longest_piece, cells))))


def _room(blocks: Sequence[_Block]) -> int:
    """Return the places that the columns take at least."""
    return sum(block.floor for block in blocks) + GAP * (len(blocks) - 1)


def _parts(blocks: Sequence[_Block], places: int) -> list[list[_Block]]:
    """Part columns into tables, each with the names at the left, as few as there is room for."""
    count = next((n for n, block in enumerate(blocks) if block.column.numeric), len(blocks))
    names, numbers = list(blocks[:count]), blocks[count:]
    parts = [names]
    for block in numbers:
        if len(parts[-1]) > count and _room([*parts[-1], block]) > places:
            parts.append(names)
        parts[-1] = [*parts[-1], block]
    return parts


def _shrink(blocks: Sequence[_Block], places: int) -> list[_Block]:
    """Narrow the widest columns, as far as they can, until all fit."""
    widths = [block.width for block in blocks]
    while sum(widths) + GAP * (len(blocks) - 1) > places:
        wide = [n for n, block in enumerate(blocks) if widths[n] > block.floor]
        if not wide:
            break
        widths[max(wide, key=lambda n: widths[n])] -= 1
    narrowed = [replace(b, width=w) for b, w in zip(blocks, widths, strict=True)]
    return [_tighten(block) for block in narrowed]


def _tighten(block: _Block) -> _Block:
    """Give back the room that broken names do not use."""
    used = max(width(line.strip()) for cell in block.cells for line in block.lines(cell))
    return replace(block, width=max(used, 1))


def _lay_out(blocks: Sequence[_Block]) -> Table:
    heading, *body = (_lines(blocks, row) for row in range(len(blocks[0].cells)))
    return Table(heading, [line for lines in body for line in lines])


def _lines(blocks: Sequence[_Block], row: int) -> list[str]:
    """Return the lines of a row, as many as its highest cell has."""
    cells = [block.lines(block.cells[row]) for block in blocks]
    filled = [
        [*cell, *[" " * block.width] * (max(map(len, cells)) - len(cell))]
        for cell, block in zip(cells, blocks, strict=True)
    ]
    return [(" " * GAP).join(parts).rstrip() for parts in zip(*filled, strict=True)]
