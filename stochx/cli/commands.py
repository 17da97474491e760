"""Commands that are imported when they are named, and help in panels, so that a start waits for neither."""

from __future__ import annotations

import ast
import importlib
import os
from collections import UserDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from stochx.cli import output

if TYPE_CHECKING:
    from rich.panel import Panel

# What is typed, and the function behind it: `file` or `file:function`.
COMMANDS = {
    "explain": "explain",
    "score": "score",
    "attack": "attack",
    "train": "train",
    "distill": "distill",
    "fsc-train": "fsc_train",
    "fsc-test": "fsc_test",
    "boundary": "boundary",
    "info": "info",
    "list": "listing:list_",
    "demo": "demo",
}
ASKED_BY_FISH = os.environ.get("_STOCHX_COMPLETE") == "complete_fish"  # zsh asks as fish does
WIDEST = 0.45  # of a line, for the names of options


def _place(name: str) -> tuple[str, str]:
    file, _, function = COMMANDS[name].partition(":")
    return file, function or file


def summary(name: str) -> str:
    """The first line of a command's docstring, read from its source."""
    file, function = _place(name)
    tree = ast.parse((Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").partition("\n")[0]


class OnDemand(UserDict[str, Any]):
    """All commands by name; looking one up imports its file."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS))

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            file, function = _place(name)
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, cls=Command)(getattr(importlib.import_module(f"stochx.cli.{file}"), function))
            self.data[name] = typer.main.get_command(alone)
        return self.data[name]


def tabbed(value: str, help: str) -> str:
    """Fish's line, `value TAB help`; typer would import all of rich to write the same one."""
    return f"{value}\t{' '.join(help.split())}" if help else value


def _described(items: list[Any]) -> list[Any]:
    if ASKED_BY_FISH:
        for item in items:
            item.value, item.help = tabbed(item.value, item.help or ""), None
    return items


class Command(TyperCommand):
    """A command whose help is drawn here."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # typer hides the type
        formatter.write(_help(self, ctx, []))

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> list[Any]:  # type: ignore[override]
        return _described(super().shell_complete(ctx, incomplete))


class Group(TyperGroup):
    """All commands, none of them imported before it is named."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = OnDemand()

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Without typer's own completion options: their scripts know nothing of `:` and `=`."""
        typers = ("install_completion", "show_completion")
        return [param for param in super().get_params(ctx) if param.name not in typers]

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        formatter.write(_help(self, ctx, [(name, summary(name)) for name in COMMANDS]))

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> list[Any]:  # type: ignore[override]
        return _described(super().shell_complete(ctx, incomplete))


def _help(command: Any, context: typer.Context, commands: list[tuple[str, str]]) -> str:
    """Usage, docstring, and a panel for every group of options."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            title = getattr(param, "rich_help_panel", None) or f"{param.param_type_name.title()}s"
            panels.setdefault(title, []).append(record)
    if commands:
        panels["Commands"] = commands
    about, *examples = command.help.split("\n\n", 1)
    console = output.stdout()
    longest = max(len(name) for rows in panels.values() for name, _ in rows)
    width = min(longest, int(WIDEST * console.width))
    with console.capture() as drawn:
        console.print(f"[bold yellow]Usage:[/] [bold]{output.escape(command.get_usage(context)[7:])}[/]\n")
        console.print(" ".join(about.split()) + "\n", markup=False, highlight=False)
        for text in examples:
            console.print(text + "\n", markup=False, highlight=False, style="dim", soft_wrap=True)
        for title, rows in panels.items():
            console.print(_panel(title, rows, width))
    return drawn.get()


def _panel(title: str, rows: list[tuple[str, str]], width: int) -> Panel:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold cyan", width=width, overflow="fold")
    table.add_column(ratio=1)
    for name, text in rows:
        what, bracket, more = text.rpartition("  [")  # the variable and the default follow the help
        table.add_row(name, Text.assemble(what, (f" [{more}", "dim")) if bracket else Text(text))
    return Panel(table, title=title, title_align="left", border_style="dim")
