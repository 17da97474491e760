"""Command line: parse options, run a command, print its result."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from stochx.background import NO_THREAD
from stochx.cli import output
from stochx.cli.commands import Group
from stochx.engine.threads import configure_threads
from stochx.errors import InputError, LostRankError, StochxError, UsageError, WriteError
from stochx.installation import clash, overwritten
from stochx.interrupts import Stopped, honoured

app = typer.Typer(
    name="stochx",
    cls=Group,
    help="Stochastic, robust and explainable vision networks.",
    add_completion="_STOCHX_COMPLETE" in os.environ,  # typer answers the shells; `--completion` prints our scripts
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # `Group` draws the help
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "STOCHX"},
)


# Click's base of all errors in how a command was typed; typer names only its children.
TYPING_ERROR: Any = typer.BadParameter.__mro__[2]


def _version(asked: bool) -> None:
    if asked:
        from stochx import __version__

        typer.echo(f"stochx {__version__}")
        raise typer.Exit


def _completion(shell: str | None) -> None:
    if shell is not None:
        from stochx.cli.completion import SCRIPTS
        from stochx.errors import suggest

        if shell not in SCRIPTS:
            raise UsageError(f"there is no completion for `{shell}`", suggest(shell, SCRIPTS))
        typer.echo(SCRIPTS[shell].text, nl=False)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_version,
            is_eager=True,
            allow_from_autoenv=False,  # pipelines have variables of this name
        ),
    ] = False,
    completion: Annotated[
        str | None,
        typer.Option(
            metavar="SHELL",
            help="Print the completion script of bash, zsh, fish or powershell.",
            callback=_completion,
            is_eager=True,
            allow_from_autoenv=False,
            autocompletion=lambda incomplete: ["bash", "zsh", "fish", "powershell"],
        ),
    ] = None,
) -> None:
    """Stochastic, robust and explainable vision networks."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


KEPT = "what was finished is kept; `--resume` goes on from there"
PATIENCE = 5.0  # seconds that ranks may start apart
NO_MAPPING = "failed to map segment from shared object"  # the dynamic loader's words for a lack of memory
NO_REASON = (
    "without exception set",
    "without setting an exception",
)  # Python's words, where C code had no memory to fail
HIGHER_LIMITS = "close other programs, or raise the limits of processes and of memory"
LESS_MEMORY = "use smaller images or a smaller network, or another `--device`"


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    configure_threads(os.environ)
    output.prepare_streams()
    try:
        with honoured():
            _check_stdout()
            _check_working_folder()
            _check_installation()
            code = app(prog_name="stochx", standalone_mode=False)
            sys.stdout.flush()
    except LostRankError as error:
        if not error.said:
            output.complain(str(error), error.hint)
        code = error.exit_code
    except StochxError as error:
        _complain(str(error), error.hint)
        code = error.exit_code
    except TYPING_ERROR as error:
        _complain(_lower(error.format_message()), _usage_hint(error))
        code = 2
    except Stopped as stopped:
        hints = {True: KEPT, False: "nothing was finished, so nothing is kept", None: ""}
        if _leads() and not stopped.said:
            output.complain(str(stopped), hints[stopped.resumable])
        code = stopped.exit_code
    except ImportError as error:
        if NO_MAPPING not in str(error):
            raise
        output.complain("memory ran out while a library was loaded", HIGHER_LIMITS)
        code = 1
    except SystemError as error:
        if not str(error).endswith(NO_REASON):
            raise
        output.complain("a library failed and gave no reason, as happens where memory runs out", HIGHER_LIMITS)
        code = 1
    except (MemoryError, RuntimeError) as error:
        from stochx.engine.device import is_out_of_memory

        if NO_THREAD in str(error):
            output.complain("the system lets this process start no more threads", HIGHER_LIMITS)
        elif is_out_of_memory(error):
            output.complain("memory ran out, also with the smallest batch", LESS_MEMORY)
        else:
            raise
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _leads() -> bool:
    """Return true for one process alone, and for the leading one of those that `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


def _complain(message: str, hint: str) -> None:
    """Print an error; a rank that follows first gives the leading one time to, upon which `torchrun` ends them all."""
    try:
        if not _leads():
            time.sleep(PATIENCE)
    except Stopped:
        return
    output.complain(message, hint)


def _check_stdout() -> None:
    if sys.stdout is None:
        raise WriteError("stdout is closed", "redirect it to a file, or to `/dev/null`")


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise InputError("the working folder no longer exists", "change to another folder") from None


def _check_installation() -> None:
    if overwritten() and (problem := clash()):
        raise problem


def _lower(message: str) -> str:
    text = message.strip().rstrip(".").replace("'", "`")
    return text[:1].lower() + text[1:]


def _usage_hint(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else "see `stochx --help`"
