"""Settings of `stochx report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import OUTPUT, WHAT, Option, Settings

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, kw_only=True)
class Report(Settings):
    """Put runs into one HTML file: numbers, curves, images and maps, to read in a browser without a network.

    Examples:
      stochx report stochx-out/attack

      stochx report teacher-attack/ student-attack/ --title "Teacher and student" -o report.html

      stochx report stochx-out/ -o everything.html
    """

    command: ClassVar[str] = "report"

    runs: Annotated[
        tuple[Path, ...],
        Option(
            WHAT,
            "Run folders, or a folder of them; two of one command are compared.",
            metavar="RUN...",
            positional=True,
        ),
    ]
    title: Annotated[str | None, Option(OUTPUT, "Title of the report.")] = None
    limit: Annotated[int, Option(OUTPUT, "Show at most N images of each run, the first ones.", minimum=0)] = 200
    output: Annotated[
        Path | None,
        Option(
            OUTPUT,
            "HTML file to write; default: report.html in the folder RUN, for several runs in the current one.",
            short="-o",
            metavar="FILE",
        ),
    ] = None

    def check(self) -> None:
        super().check()
        if not self.runs:
            raise UsageError("no run is given", "name the folder of a run, e.g. `stochx-out/attack`")
        twice = next((run for run in self.runs if self.runs.count(run) > 1), None)
        if twice is not None:
            raise UsageError(f"`{twice}` is given twice", "name each run once")
        if self.output is not None and self.output.suffix.lower() not in SUFFIXES:
            raise UsageError(f"`--output {self.output}` is not an HTML file", "let its name end with `.html`")

    def prepare(self) -> None:
        if self.file.is_dir():
            raise UsageError(f"`{self.file}` is a folder", "name another file with `--output`")

    @property
    def file(self) -> Path:
        """The file of the report."""
        if self.output is not None:
            return self.output
        if len(self.runs) > 1:
            return Path("report.html")
        (run,) = self.runs
        return (run if run.is_dir() else run.parent) / "report.html"
