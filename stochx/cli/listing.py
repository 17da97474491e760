"""`stochx list`."""

from __future__ import annotations

from typing import Annotated

import typer

from stochx.catalog import FAMILIES
from stochx.cli import output
from stochx.cli.build import Chosen, Include, Json, chosen_format
from stochx.errors import UsageError, printable, suggest
from stochx.runs.document import compose
from stochx.tables import Column, View


def _names(incomplete: str) -> list[str]:
    family, colon, entry = incomplete.partition(":")
    if colon and family in FAMILIES:
        return [f"{family}:{name}" for name in FAMILIES[family] if name.startswith(entry)]
    return [name for name in FAMILIES if name.startswith(incomplete)]


def list_(
    context: typer.Context,
    what: Annotated[
        str | None, typer.Argument(metavar="[FAMILY[:NAME]]", help="A family, or one entry.", autocompletion=_names)
    ] = None,
    include: Include = None,
    format: Chosen = None,
    json: Json = False,
) -> None:
    """Show what can be chosen: families, their entries, an entry's keys and defaults.

    Examples:
      stochx list attributions

      stochx list attributions:smoothtaylor
    """
    form = chosen_format(context)
    family, _, entry = (what or "").partition(":")
    rows: list[dict[str, str | None]]
    if what is None:
        rows = [
            {"family": family, "name": name, "help": catalog.summary(name)}
            for family, catalog in FAMILIES.items()
            for name in catalog
        ]
    elif family not in FAMILIES:
        raise UsageError(f"unknown family `{family}`", suggest(family, FAMILIES))
    elif entry:
        rows = _fields(family, entry)
        if form == "table" or (form is None and output.stdout().is_terminal):
            about = FAMILIES[family].docstring(FAMILIES[family].parse_name(entry)[0])
            output.stdout().print(*map(printable, about.split("\n")), "", sep="\n", markup=False)
    else:
        rows = [{"name": name, "help": FAMILIES[family].summary(name)} for name in FAMILIES[family]]
    keys = list(rows[0]) if rows else ["key", "type", "default", "help"]
    columns = [Column(key, lambda row, key=key: str(row[key] or "")) for key in keys]  # type: ignore[misc]
    view = View(lambda rows: columns, keys=tuple(key for key in ("family", "name", "key") if key in keys))
    output.show(compose("list", {"what": what}, {}, rows), view, form, quiet=False)


def _fields(family: str, entry: str) -> list[dict[str, str | None]]:
    """Return a row for each key of an entry."""
    catalog = FAMILIES[family]
    name, _ = catalog.parse_name(entry)
    return [
        {"key": f.key, "type": " | ".join(f.choices) or f.type, "default": f.default, "help": f.help}
        for f in catalog.fields(name)
    ]
