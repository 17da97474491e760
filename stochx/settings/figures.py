"""Settings of commands that draw figures: format, size, resolution and title."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from stochx.errors import UsageError
from stochx.settings.base import OUTPUT, Option, Settings, settings_of
from stochx.settings.choices import FigureFormat


@dataclass(frozen=True)
class Look:
    """The look of a figure: dots per inch, its width in inches where it is not its own, and a title above it."""

    dpi: int = 120
    width: float | None = None
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawing(Settings):
    """The look of a command's figures."""

    figure_format: Annotated[FigureFormat, Option(OUTPUT, "Format of the figures.", free=True)] = "png"
    figure_width: Annotated[
        float | None,
        Option(
            OUTPUT,
            "Width of each figure in inches, to which everything in it is scaled.",
            metavar="INCHES",
            minimum=1,
            maximum=40,
            free=True,
        ),
    ] = None
    figure_dpi: Annotated[
        int, Option(OUTPUT, "Resolution of the figures in dots per inch.", minimum=30, maximum=600, free=True)
    ] = 120
    figure_title: Annotated[str | None, Option(OUTPUT, "Title above each figure.", free=True)] = None

    @property
    def look(self) -> Look:
        """The look of the figures."""
        return Look(self.figure_dpi, self.figure_width, self.figure_title or "")

    def figure_file(self, folder: Path, name: str) -> Path:
        """Return the file of a figure, with the suffix of its format."""
        return folder / f"{name}.{self.figure_format}"


@dataclass(frozen=True, kw_only=True)
class Figures(Drawing):
    """The look of figures that may be left out."""

    figure: Annotated[bool, Option(OUTPUT, "Draw figures.")] = True

    def check(self) -> None:
        super().check()
        for setting in () if self.figure else settings_of(Drawing):
            if setting.name.startswith("figure_") and getattr(self, setting.name) != setting.default:
                raise UsageError(f"`{setting.flag}` asks for figures, `--no-figure` for none", "leave out one of them")
