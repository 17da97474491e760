"""Output folders of commands, and the options that let them hold files already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from stochx.errors import InputError, UsageError, storable
from stochx.settings.base import OUTPUT, RUN, Option, Settings

LOCK = ".lock"  # held by the process that writes to a folder


def is_filled(folder: Path) -> bool:
    """Return true for a folder that holds files; raises `InputError` if it cannot be read."""
    try:
        return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read `{folder}`: {error.strerror}", "choose another `--output`") from None


@dataclass(frozen=True, kw_only=True)
class Output(Settings):
    """Folder of a command's files, which must be empty where it is named; by default a new one beside older ones."""

    output: Annotated[
        Path | None,
        Option(
            OUTPUT,
            "Folder for the files, which must be empty; default: stochx-out/COMMAND, then stochx-out/COMMAND-2, ...",
            short="-o",
            free=True,
        ),
    ] = None
    overwrite: Annotated[
        bool,
        Option(RUN, "Replace the files in the output folder; without -o, in that of the newest run.", recorded=False),
    ] = False

    ways_out: ClassVar[str] = "use `--overwrite` or another `--output`"

    @property
    def folder(self) -> Path:
        """The folder of the run; a default one is only settled when the run starts."""
        return self.output or self.default(1)

    @property
    def reuses(self) -> bool:
        """True where the folder may hold files of an earlier run."""
        return self.overwrite

    def default(self, number: int) -> Path:
        """Return the default folder of the first run, the second, ..."""
        return Path("stochx-out") / (self.command if number == 1 else f"{self.command}-{number}")

    def check(self) -> None:
        super().check()
        if self.output is not None and storable(str(self.output)) != str(self.output):
            raise UsageError(f"`--output {self.output}` is not UTF-8", "choose another name")

    def prepare(self) -> None:
        if self.output is not None and not self.reuses and is_filled(self.output):
            raise UsageError(f"`{self.output}` is not empty", self.ways_out)

    def recorded(self) -> dict[str, object]:
        return super().recorded() | {"output": str(self.folder)}


@dataclass(frozen=True, kw_only=True)
class Resumable(Output):
    """Folder of a run that can be resumed."""

    resume: Annotated[
        bool,
        Option(
            RUN,
            "Continue the run in the output folder; without -o, the newest run.",
            recorded=False,
        ),
    ] = False

    ways_out: ClassVar[str] = "use `--resume`, `--overwrite` or another `--output`"

    def __post_init__(self) -> None:
        """Resume where `torchrun --max-restarts` starts a run again: its folder, which had to be empty, is its own."""
        super().__post_init__()
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        if restarted and self.output is not None and not self.overwrite:
            object.__setattr__(self, "resume", True)

    @property
    def reuses(self) -> bool:
        return self.resume or self.overwrite


@dataclass(frozen=True, kw_only=True)
class RunFiles(Resumable):
    """Folder of a run that can be resumed, and estimated before it starts."""

    dry_run: Annotated[
        bool,
        Option(RUN, "Estimate time and memory from a few items, and write nothing.", recorded=False),
    ] = False

    def check(self) -> None:
        super().check()
        if self.resume and self.dry_run:
            raise UsageError("`--dry-run` estimates a whole run, not the rest of one", "leave out `--resume`")
