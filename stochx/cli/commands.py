"""Commands that are imported when they are named, and help in panels, so that a start waits for neither."""

from __future__ import annotations

import ast
import importlib
import itertools
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from stochx import settings
from stochx.cli import output
from stochx.cli.complete import described
from stochx.errors import UsageError, printable
from stochx.input_files import exists
from stochx.settings import COMMANDS, module_of
from stochx.settings.base import PANELS, settings_of

if TYPE_CHECKING:
    from rich.panel import Panel

SETTINGS = Path(settings.__file__).parent
WIDEST = 0.45  # of a line, for the names of options
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"  # hyphens, dashes and the minus sign; the first is typed
LIST = "list"  # the one command without settings: it shows what can be set


def summary(name: str) -> str:
    """Return the first line of a command's docstring, read from its source."""
    path = Path(__file__).parent / "listing.py" if name == LIST else SETTINGS / f"{module_of(name)}.py"
    sought = "list_" if name == LIST else COMMANDS[name]
    body = ast.parse(path.read_text(encoding="utf-8")).body
    definitions = (node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return (ast.get_docstring(next(node for node in definitions if node.name == sought)) or "").partition("\n")[0]


class OnDemand(UserDict[str, Any]):
    """All commands by name; looking one up imports its settings."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys([*COMMANDS, LIST]))

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, cls=Command)(_function(name))
            self.data[name] = typer.main.get_command(alone)
        return self.data[name]


def _function(name: str) -> Callable[..., None]:
    if name == LIST:
        function: Callable[..., None] = importlib.import_module("stochx.cli.listing").list_
        return function
    from stochx.cli.build import command_function

    return command_function(getattr(settings, COMMANDS[name]))


def _describe_entries(command: Any) -> None:
    """Bring the help of options that name entries up to date with the files that were included."""
    from stochx.cli.build import describe

    if command.name in COMMANDS:
        for setting in settings_of(getattr(settings, COMMANDS[command.name])):
            if setting.option.family:
                next(param for param in command.params if param.name == setting.name).help = describe(setting)


def _without_variable(option: Any) -> Any:
    """Return the option for help, which no environment variable may ask for: a pipeline may have a STOCHX_HELP."""
    if option is not None:
        option.allow_from_autoenv = False
    return option


class Command(TyperCommand):
    """A command whose help is drawn here."""

    def get_help_option(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer hides the type
        return _without_variable(super().get_help_option(ctx))

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Refuse options with the dashes of typeset text, which would be taken for images."""
        flags = [flag for param in self.params for flag in (*param.opts, *param.secondary_opts)]
        for word in itertools.takewhile(lambda word: word != "--", args):
            name = word.lstrip(DASHES)
            meant = [flag for flag in (f"-{name}", f"--{name}") if flag.partition("=")[0] in flags]
            if word[:1] in DASHES[1:] and meant and not exists(word):
                raise UsageError(f"`{word}` begins with another dash than `-`", f"did you mean `{meant[0]}`?")
        return super().parse_args(ctx, args)

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]  # typer hides the type
        _describe_entries(self)
        formatter.write(_help(self, ctx, []))


class Group(TyperGroup):
    """All commands, none of them imported before it is named."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = OnDemand()

    def get_help_option(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        return _without_variable(super().get_help_option(ctx))

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [*COMMANDS, LIST]

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        """Without typer's own completion options: their scripts know nothing of `:` and `=`."""
        typers = ("install_completion", "show_completion")
        return [param for param in super().get_params(ctx) if param.name not in typers]

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        formatter.write(_help(self, ctx, [(name, summary(name)) for name in self.list_commands(ctx)]))

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> list[Any]:  # type: ignore[override]
        return described(super().shell_complete(ctx, incomplete))


def _help(command: Any, context: typer.Context, commands: list[tuple[str, str]]) -> str:
    """Draw usage, docstring, and a panel for each group of options."""
    from rich.text import Text

    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            title = getattr(param, "rich_help_panel", None) or f"{param.param_type_name.title()}s"
            name, text = map(printable, record)  # the default may be that of a `--config`
            panels.setdefault(title, []).append((name, text))
    if commands:
        panels["Commands"] = commands
    panels = {title: panels[title] for title in sorted(panels, key=_place)}
    about, *examples = command.help.split("\n\n", 1)
    console = output.stdout()
    longest = max(len(name) for rows in panels.values() for name, _ in rows)
    width = min(longest, int(WIDEST * console.width))
    with console.capture() as drawn:
        usage = command.get_usage(context).removeprefix("Usage: ")
        console.print(Text.assemble(("Usage:", "bold yellow"), " ", (usage, "bold")), "", sep="\n")
        console.print(Text(" ".join(about.split())), "", sep="\n")
        for text in examples:
            console.print(Text(text, style="dim"), "", sep="\n", soft_wrap=True)
        for title, rows in panels.items():
            console.print(_panel(title, rows, width))
        if command.name in COMMANDS:
            console.print("", f"Options can also be set in a file (--config) or {_variables(command.name)}.", sep="\n")
    return drawn.get()


def _variables(command: str) -> str:
    """Say how the environment variables of a command's options are named."""
    option = next(s for s in settings_of(getattr(settings, COMMANDS[command])) if not s.option.positional)
    variable = f"STOCHX_{command}_{option.name}".replace("-", "_").upper()
    return f"by environment variables, e.g. {variable} for {option.flag}"


def _place(title: str) -> int:
    """Order panels: arguments, then what, method, run and output, then the rest as it comes."""
    order = ("Arguments", *PANELS)
    return order.index(title) if title in order else len(order)


def _panel(title: str, rows: list[tuple[str, str]], width: int) -> Panel:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold cyan", width=width, overflow="fold")
    table.add_column(ratio=1)
    for name, text in rows:
        what, bracket, more = text.rpartition("  [")  # the variable and the default follow the help
        table.add_row(Text(name), Text.assemble(what, (f" [{more}", "dim")) if bracket else Text(text))
    return Panel(table, title=title, title_align="left", border_style="dim")
