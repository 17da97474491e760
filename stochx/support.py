"""Which network works with which command: the table that `benchmarks/support.py` measured and stored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import ModuleType

from stochx.errors import UsageError, suggest

FILE = Path(__file__).with_suffix(".json")
SIZE = re.compile(r"x*(atto|femto|pico|nano|tiny|small|medium|base|large|huge|giant|[smbltx])|(patch|window)?\d+")
YES = "yes"  # anything else in a cell is the reason why not
COLUMNS = {  # of the table, and what was run
    "gradient": "`explain -m gradient`",
    "ig": "`explain -m ig`",
    "smoothgrad": "`explain -m smoothgrad`",
    "smoothtaylor": "`explain -m smoothtaylor`",
    "occlusion": "`explain -m occlusion`",
    "gradcam": "`explain -m gradcam`",
    "lrp": "`explain -m lrp`",
    "balanced": "`explain -m gradient:backward=balanced`",
    "fullgrad": "`explain -m fullgrad`",
    "attack": "`attack -a fgsm`",
    "distill": "`distill`, one step with adaptive noise",
    "fewshot": "`fsc-test --backbone`, with feature maps",
}


@dataclass(frozen=True)
class Tested:
    """A family, the network of it that was run, the module that builds it, and for each column `yes` or a reason."""

    family: str
    network: str
    module: str
    cells: Mapping[str, str]

    @property
    def reasons(self) -> str:
        """What does not work, and why, as one text."""
        return "; ".join(f"{column}: {cell}" for column, cell in self.cells.items() if cell != YES)


@cache
def table() -> tuple[Tested, ...]:
    """Return all tested networks, by family."""
    if not FILE.exists():
        return ()
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return tuple(Tested(**row) for row in stored["networks"])


def versions() -> Mapping[str, str]:
    """Return the versions of the packages with which the table was measured."""
    found: Mapping[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["versions"]
    return found


def find(name: str) -> tuple[Tested, ...]:
    """Return the tested networks whose family or name has `name` in it; else those next to the network `name`.

    `name` may be that of a network of torchvision or timm (`timm:vit_base_patch16_224.dino`): then the networks that
    the same module builds stand for it, those of the most similar name. Raises `UsageError` if there is none.
    """
    bare = name.removeprefix("timm:").partition(".")[0]
    wanted = _plain(bare)
    rows = [row for row in table() if wanted and (wanted in _plain(row.family) or wanted in _plain(row.network))]
    return tuple(rows) or _next_to(name.startswith("timm:"), bare) or _none(name)


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _next_to(timm: bool, name: str) -> tuple[Tested, ...]:
    module = _module_of("timm.models" if timm else "torchvision.models", name)
    rows = [row for row in table() if row.module == module]
    alike = [SequenceMatcher(None, _kind(name), _kind(row.network)).ratio() for row in rows]
    return tuple(row for row, ratio in zip(rows, alike, strict=True) if ratio == max(alike))


def _kind(name: str) -> str:
    """Return the parts of a network's name that tell no size: `vit_dinov2` for `vit_small_patch14_dinov2_224`."""
    parts = [re.sub(r"\d{2,}", "", part) for part in name.split("_") if not SIZE.fullmatch(part)]
    return "_".join(filter(None, parts))


def _module_of(package: str, name: str) -> str:
    """Return the module of timm or torchvision that builds the network `name`, or nothing."""
    import importlib

    try:
        models: ModuleType = importlib.import_module(package)
        build = getattr(models, "model_entrypoint", None) or models.get_model_builder
        return str(build(name).__module__)
    except (ImportError, RuntimeError, ValueError, KeyError):  # not installed, or no such network
        return ""


def _none(name: str) -> tuple[Tested, ...]:
    raise UsageError(f"no tested network is like `{name}`", suggest(name, [row.family for row in table()]))


def markdown(rows: Sequence[Tested], measured: Mapping[str, str]) -> str:
    """Return the page of the manual: what was run, a table of all networks, and the reasons below it."""
    works = {column: sum(row.cells.get(column) == YES for row in rows) for column in COLUMNS}
    lines = [
        "<!-- Written by benchmarks/support.py; do not edit. -->",
        "",
        "# Which networks work with which command",
        "",
        f"A small network of each of {len(rows)} families, with random weights, was run through these commands, with "
        + ", ".join(f"{package} {version}" for package, version in measured.items())
        + ". `stochx info --support NAME` shows the row of a network, with the reason of each `no`.",
        "",
        *(f"- **{column}**: {what} ({works[column]} of {len(rows)})" for column, what in COLUMNS.items()),
        "",
        "| family | network | " + " | ".join(COLUMNS) + " |",
        "|--|--|" + "--|" * len(COLUMNS),
    ]
    for row in rows:
        cells = (YES if row.cells.get(column) == YES else "**no**" for column in COLUMNS)
        lines.append(f"| {row.family} | {row.network} | " + " | ".join(cells) + " |")
    failing = [row for row in rows if row.reasons]
    lines += ["", "## What does not work, and why", ""] if failing else [""]
    lines += [f"- {row.family}: {row.reasons}" for row in failing]
    return "\n".join(lines) + "\n"
