"""Small pictures on a colour terminal: two pixels a character."""

from __future__ import annotations

import torch
from rich.text import Text
from torch import Tensor
from torch.nn import functional as F

from stochx.cli import output
from stochx.engine.io.images import visible
from stochx.errors import printable
from stochx.reports.colours import colours_of, scale_of
from stochx.tasks.explain import Explained
from stochx.wrapping import shorten, width

CELLS = 26  # characters of a picture: two fit into 60, three into 80
GAP = 1


def preview(explained: Explained) -> None:
    """Draw the image and its maps side by side on stderr, in several rows if needed; a note where it cannot."""
    if not output.stderr().is_terminal or output.stderr().color_system in (None, "standard"):
        output.remark("note:", "`--show` needs a colour terminal")
        return
    pictures = [(explained.name, visible(explained.image))]
    for row in explained.rows:
        values = explained.maps[row.method].sum(0).numpy()
        colours = colours_of(values, scale_of(values), row.method not in explained.unsigned)
        pictures.append((row.method, torch.from_numpy(colours).permute(2, 0, 1)))
    across = max(1, (output.stderr().width + GAP) // (CELLS + GAP))
    for first in range(0, len(pictures), across):
        _print_row(pictures[first : first + across])


def _print_row(pictures: list[tuple[str, Tensor]]) -> None:
    """Draw pictures beside one another, each under its name."""
    titles = [shorten(printable(name), CELLS) for name, _ in pictures]
    output.stderr().print(Text((" " * GAP).join(title + " " * (CELLS - width(title)) for title in titles).rstrip()))
    small = [_pixels(picture) for _, picture in pictures]
    for y in range(0, CELLS, 2):
        line = Text()
        for place, pixels in enumerate(small):
            line.append(" " * GAP if place else "")
            for (r, g, b), (s, h, c) in zip(pixels[y], pixels[y + 1], strict=True):
                line.append("▀", style=f"rgb({r},{g},{b}) on rgb({s},{h},{c})")
        output.stderr().print(line)


def _pixels(picture: Tensor) -> list[list[tuple[int, int, int]]]:
    """Return a picture (3, H, W) as rows of small 8-bit pixels."""
    small = F.interpolate(picture[None].float(), (CELLS, CELLS), mode="area")[0]
    rows: list[list[tuple[int, int, int]]] = (small.clamp(0, 1) * 255).round().int().permute(1, 2, 0).tolist()
    return rows
