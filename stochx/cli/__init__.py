"""Command line: parse options, call a task, print its result."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from stochx.cli import demo as demo_command
from stochx.cli import explain, info, listing, output, train
from stochx.errors import StochxError

app = typer.Typer(
    name="stochx",
    help="Stochastic, robust and explainable vision networks.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # Rich draws the help; a completion that waits for it is felt at every <TAB>.
    rich_markup_mode=None if "_STOCHX_COMPLETE" in os.environ else "rich",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "STOCHX"},
)
app.command("explain")(explain.explain)
app.command("train")(train.train)
app.command("info")(info.info)
app.command("list")(listing.list_)
app.command("demo")(demo_command.demo)


# Click's base of all errors in how a command was typed; typer names only its children.
TYPING_ERROR: Any = typer.BadParameter.__mro__[2]


def _version(asked: bool) -> None:
    if asked:
        from stochx import __version__

        typer.echo(f"stochx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Stochastic, robust and explainable vision networks."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM came; it unwinds through everything that has something to save."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except StochxError as error:
        output.complain(str(error), error.hint)
        code = error.exit_code
    except TYPING_ERROR as error:
        output.complain(_lower(error.format_message()), _usage_hint(error))
        code = 2
    except Stopped as stopped:
        number = int(stopped.args[0])
        what = "interrupted" if number == signal.SIGINT else "terminated"
        output.complain(what, "what was finished is kept; `--resume` goes on from there")
        code = 128 + number
    except BrokenPipeError:  # the reader of the pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _lower(message: str) -> str:
    text = message.strip().rstrip(".").replace("'", "`")
    return text[:1].lower() + text[1:]


def _usage_hint(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else "see `stochx --help`"
