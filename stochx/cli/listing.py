"""`stochx list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stochx.catalog import FAMILIES
from stochx.cli import options as o
from stochx.cli import output
from stochx.errors import UsageError, suggest


def _names(incomplete: str) -> list[str]:
    family, colon, entry = incomplete.partition(":")
    if colon and family in FAMILIES:
        return [f"{family}:{name}" for name in FAMILIES[family] if name.startswith(entry)]
    return [name for name in FAMILIES if name.startswith(incomplete)]


def list_(
    what: Annotated[
        str | None, typer.Argument(metavar="[FAMILY[:NAME]]", help="A family, or one entry.", autocompletion=_names)
    ] = None,
    json: o.Json = False,
) -> None:
    """Show what can be chosen: families, their entries, an entry's keys and defaults.

    Examples:
      stochx list attributions

      stochx list attributions:smoothtaylor
    """
    if what is None:
        rows: list[dict[str, Any]] = [
            {"family": family, "name": name, "help": catalog.summary(name)}
            for family, catalog in FAMILIES.items()
            for name in catalog
        ]
    else:
        family, _, entry = what.partition(":")
        if family not in FAMILIES:
            raise UsageError(f"unknown family `{family}`", suggest(family, FAMILIES))
        catalog = FAMILIES[family]
        if entry:
            name, _ = catalog.parse_name(entry)
            rows = [
                {"key": f.key, "type": " | ".join(f.choices) or f.type, "default": f.default, "help": f.help}
                for f in catalog.fields(name)
            ]
            if not json and output.stdout().is_terminal:
                output.stdout().print(output.escape(catalog.docstring(name)) + "\n", highlight=False)
        else:
            rows = [{"name": name, "help": catalog.summary(name)} for name in catalog]
    keys = list(rows[0]) if rows else ["key", "type", "default", "help"]
    columns = [output.Column(key, lambda row, key=key: "" if row[key] is None else str(row[key])) for key in keys]  # type: ignore[misc]
    output.show(output.result("list", {"what": what}, {}, rows, 0.0), rows, columns, json)
