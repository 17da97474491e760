"""A settings class becomes a command: its options, their help, completion, config keys and checks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from stochx import catalog, settings
from stochx.cli import output
from stochx.cli.complete import completer
from stochx.cli.summary import append_summary
from stochx.engine.io.store import holds_results
from stochx.errors import InputError, UsageError, first_line, suggest
from stochx.input_files import read_text
from stochx.interrupts import Stopped, honoured
from stochx.settings.base import NONE, OUTPUT, RUN, Setting, Settings, at_home, settings_of
from stochx.settings.choices import Format
from stochx.settings.folders import Output, Resumable, RunFiles
from stochx.tables import view_of_document

SPEC = "NAME[:KEY=VALUE,...]"
FORMATS = get_args(Format)
Made = TypeVar("Made", bound=Settings)
METAVARS: dict[type, str | None] = {str: "TEXT", int: "N", float: "X", Path: "PATH", bool: None}


def command_function(cls: type[Settings]) -> Callable[..., None]:
    """Make the function behind a command, with the signature that typer reads: a parameter for each setting."""

    def command(context: typer.Context, quiet: bool, verbose: bool, **values: Any) -> None:
        form = chosen_format(context)
        chosen = settings_from(cls, values)
        chosen.prepare()
        output.notes(quiet, verbose)
        from stochx.cli.watch import TerminalWatch
        from stochx.runs import execute

        dry = isinstance(chosen, RunFiles) and chosen.dry_run
        watch = TerminalWatch(quiet, estimated=isinstance(chosen, RunFiles) and not dry)
        try:
            with honoured(), watch.shown():
                outcome = execute(chosen, watch)
        except Stopped as stopped:
            if isinstance(chosen, Resumable) and not dry:
                stopped.resumable = holds_results(watch.folder or chosen.folder)
            raise
        if outcome.document is not None:
            view = view_of_document(outcome.document)
            for gate in view.gates(outcome.document):
                if gate.missed:
                    output.remark("gate missed:", gate.text, "yellow")
            output.show(outcome.document, view, form, quiet)
            _say_where(chosen, watch.folder, form not in (None, "table", "tsv") or quiet)
            append_summary(outcome.document, view)
        raise typer.Exit(outcome.code)

    parameters = [CONTEXT, *COMMON, *map(_parameter, settings_of(cls))]  # --config first: it may include entries
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = cls.__doc__
    return command


def settings_from(cls: type[Made], values: Mapping[str, Any]) -> Made:
    """Make settings of the values that a command line was parsed to."""
    return cls(**{s.name: _value(s, values[s.name]) for s in settings_of(cls) if values[s.name] is not None})


def _say_where(chosen: Settings, folder: Path | None, quiet: bool) -> None:
    """Name the folder of a run where the user has not."""
    if isinstance(chosen, Output) and chosen.output is None and not quiet and folder is not None and folder.exists():
        output.remark("note:", f"the files are in `{folder}`")


def describe(setting: Setting) -> str:
    """Return the help of an option: as declared, with the entries that it can name."""
    if not setting.option.family:
        return setting.option.help
    names = [*setting.entries, *([NONE] if setting.option.or_none else [])]
    return f"{setting.option.help} One of: {', '.join(names)}."


def _parameter(setting: Setting) -> inspect.Parameter:
    """Describe a setting to typer."""
    option = setting.option
    if setting.name == "include":
        return _common("include", Include, None)
    texts = bool(setting.choices) or setting.or_text or setting.type in (str, Path)
    kind: Any = str if texts else setting.type
    kind = list[kind] if setting.repeated else kind
    required = setting.default is dataclasses.MISSING
    default: Any = inspect.Parameter.empty if required else setting.default
    if setting.repeated and not required:
        default = list(default) if default else None
    metavar = option.metavar or (SPEC if option.family else "|".join(setting.choices) or METAVARS[setting.type])
    info: Any
    if option.positional:
        info = typer.Argument(
            metavar=metavar, help=option.help, show_default=not required, autocompletion=completer(setting)
        )
    else:
        info = typer.Option(
            *_names(setting),
            metavar=metavar,
            help=option.help,
            show_default=not required,
            min=option.minimum,
            max=option.maximum,
            autocompletion=completer(setting),
            rich_help_panel=option.panel,
            show_envvar=False,  # the help says once how variables are named
        )
    return _common(setting.name, Annotated[kind if required else kind | None, info], default)


def _names(setting: Setting) -> list[str]:
    """Spell an option: a switch that is on, or that may be either, has a `--no-...` too."""
    long = setting.flag
    if setting.type is bool and setting.default is not False:
        long = f"{long}/--no-{long[2:]}"
    return [long, setting.option.short] if setting.option.short else [long]


def _value(setting: Setting, value: Any) -> Any:
    """Read what was typed as the setting's type, where typer does not."""
    if setting.type is int and setting.choices and value not in setting.choices:
        try:
            return int(value)
        except ValueError:
            hint = f"use `{setting.choices[0]}` or e.g. `16`"
            raise UsageError(f"`{setting.flag} {value}` is not a whole number", hint) from None
    if setting.repeated:
        return tuple(value)
    return Path(value) if setting.type is Path else value


def _include(files: list[str] | None) -> list[str] | None:
    """Take entries from files before anything asks for them by name."""
    for file in files or []:
        catalog.include(Path(file))
    return files


def load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take defaults from a TOML file whose keys are the command's long options; flags and variables win."""
    if path is None or context.resilient_parsing:
        return path
    import tomllib

    try:
        values = tomllib.loads(read_text(Path(at_home(str(path))), "check the path of `--config`"))
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; brackets in brackets
        reason = first_line(error)
        raise InputError(f"`{path}` is not valid TOML: {reason}", 'write lines such as `method = ["ig"]`') from None
    known = [p.name for p in context.command.params if p.name and p.name not in ("config", "help")]
    for key in values:
        if key.replace("-", "_") not in known:
            raise UsageError(f"`{path}` has an unknown key `{key}`", suggest(key, known))
    values = {key.replace("-", "_"): value for key, value in values.items()}
    declared = settings_of(getattr(settings, settings.COMMANDS[str(context.info_name)]))
    for key in values.keys() & {"json", "quiet", "verbose"}:
        if not isinstance(values[key], bool):
            raise UsageError(f"`--{key}` expects true or false, got `{values[key]!r}`")
    for setting in sorted(declared, key=lambda setting: setting.name != "include"):  # entries before their names
        if setting.name in values:
            values[setting.name] = _configured(setting, values[setting.name])
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _configured(setting: Setting, value: Any) -> Any:
    """Check a value of a configuration file; as in a shell, a number may stand for a text, and a value for a list."""
    if setting.repeated and not isinstance(value, list):
        value = [value]
    if setting.type is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    value = setting.convert(value)
    setting.check(value)
    if setting.name == "include":
        _include(value)
    return list(value) if setting.repeated else value


def chosen_format(context: typer.Context) -> Format | None:
    """Return the format that `--format` or `--json` asks for; a flag wins over a variable, and that over a file."""
    form, as_json = context.params["format"], context.params["json"]
    if not as_json or form in (None, "json"):
        return "json" if as_json else form
    rank = {"COMMANDLINE": 0, "ENVIRONMENT": 1, "DEFAULT_MAP": 2}
    formats, jsons = (rank[getattr(context.get_parameter_source(name), "name", "")] for name in ("format", "json"))
    if formats == jsons:
        raise UsageError(f"`--json` and `--format {form}` do not go together", "leave out one of them")
    return form if formats < jsons else "json"


def _check_format(form: str | None) -> str | None:
    if form is not None and form not in FORMATS:
        raise UsageError(f"`--format {form}` is unknown", suggest(form, FORMATS))
    return form


def _common(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _switch(name: str, help: str, *short: str) -> Any:
    return typer.Option(name, *short, help=help, rich_help_panel=OUTPUT, show_envvar=False)


INCLUDE = next(setting.option for setting in settings_of(Settings) if setting.name == "include")
Include = Annotated[
    list[str] | None,
    typer.Option(
        callback=_include,
        is_eager=True,
        metavar=INCLUDE.metavar,
        help=INCLUDE.help,
        show_envvar=False,
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        callback=load_config,
        is_eager=True,
        metavar="FILE.toml",
        help="Read options from a file, e.g. a run's config.toml.",
        show_envvar=False,
        rich_help_panel=RUN,
    ),
]
Json = Annotated[bool, _switch("--json", "Print one JSON object to stdout, as --format json.")]
Chosen = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(FORMATS),
        help="Format of stdout; default: a table on a terminal, tsv in a pipe.",
        callback=_check_format,
        autocompletion=lambda incomplete: [form for form in FORMATS if form.startswith(incomplete)],
        show_envvar=False,
        rich_help_panel=OUTPUT,
    ),
]
Silent = Annotated[bool, _switch("--quiet", "Print only errors to stderr.", "-q")]
Verbose = Annotated[bool, _switch("--verbose", "Print details to stderr.", "-v")]
CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
COMMON = [
    _common("config", Config, None),
    _common("format", Chosen, None),
    _common("json", Json, False),
    _common("quiet", Silent, False),
    _common("verbose", Verbose, False),
]
