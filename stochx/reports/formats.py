"""Write figures as PNG, PDF or SVG: at any width the same picture, and the same bytes every time."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO

from matplotlib.figure import Figure

Target = Path | IO[bytes]
PLACES = 5  # of a place, in parts of a figure
IDENTIFIER = re.compile(r'((?:\bid="|url\(#|href="#))([a-z][0-9a-f]{10})\b')  # in an SVG, some by an address in memory


def write_png(target: Target, figure: Figure, dpi: float, scale: float) -> None:
    """Write a figure as a PNG, `scale` times its size."""
    figure.savefig(target, format="png", dpi=dpi * scale, pil_kwargs={"dpi": (dpi, dpi)})


def write_pdf(target: Target, figure: Figure, dpi: float, scale: float) -> None:
    """Write a figure as a PDF; matplotlib's own writer knows no scale."""
    from matplotlib.backends.backend_mixed import MixedModeRenderer  # here, as it takes a tenth of a second
    from matplotlib.backends.backend_pdf import Op, PdfFile, RendererPdf

    _settle(figure)
    width, height = figure.get_size_inches()
    figure.set_dpi(72)  # points
    file = PdfFile(target, metadata={"CreationDate": None})
    try:
        file.newPage(scale * width, scale * height)
        file.width, file.height = width, height  # lines beyond are cut off
        file.output(scale, 0, 0, scale, 0, 0, Op.concat_matrix)
        pages = RendererPdf(file, dpi * scale, height, width)
        renderer = MixedModeRenderer(figure, width, height, dpi * scale, pages)
        figure.draw(renderer)  # type: ignore[arg-type]  # it passes on what a renderer does
        renderer.finalize()
        file.finalize()
    finally:
        file.close()


def write_svg(target: Target, figure: Figure, dpi: float, scale: float) -> None:
    """Write a figure as an SVG, whose coordinates are those of the unscaled figure."""
    _settle(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", dpi=dpi * scale, metadata={"Date": None})

    def scaled(side: re.Match[str]) -> str:
        return f'{side[1]}="{float(side[2]) * scale:g}pt"'

    numbers = defaultdict[str, int](count().__next__)
    content = re.sub(r'\b(width|height)="([\d.]+)pt"', scaled, file.getvalue(), count=2)
    content = IDENTIFIER.sub(lambda found: f"{found[1]}i{numbers[found[2]]}", content)
    if isinstance(target, Path):
        target.write_bytes(content.encode())
    else:
        target.write(content.encode())


def _settle(figure: Figure) -> None:
    """Lay out a figure for good, at places without the rounding errors that the solver makes in another order."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        left, low, across, up = (round(value, PLACES) for value in axis.get_position(original=True).bounds)
        axis.set_position((left, low, across, up))


WRITERS: dict[str, Callable[[Target, Figure, float, float], None]] = {
    ".png": write_png,
    ".pdf": write_pdf,
    ".svg": write_svg,
}
