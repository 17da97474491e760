"""Settings as the command line that asks for them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from stochx import settings as commands
from stochx.settings.base import Setting, Settings, settings_of


def command_line(settings: Settings) -> list[str]:
    """Return the words of the command line that gives these settings: `["stochx", "attack", "net.pt", ...]`.

    Settings that have their default are left out.
    """
    return _words(settings.command, {s.name: getattr(settings, s.name) for s in settings_of(type(settings))})


def shell_line(settings: Settings) -> str:
    """Return the same as one line, quoted for a shell."""
    return shlex.join(command_line(settings))


def recorded_line(command: str, args: Mapping[str, object]) -> str:
    """Return the line that runs the `args` of a document again; without `--output`, as a new run has its own folder."""
    return shlex.join(_words(command, {name: value for name, value in args.items() if name != "output"}))


def _words(command: str, values: Mapping[str, object]) -> list[str]:
    """Return a command line of values as Python or JSON has them; arguments that look like options come last."""
    options, arguments = list[str](), list[str]()
    for setting in settings_of(getattr(commands, commands.COMMANDS[command])):
        value = values.get(setting.name)
        texts = _texts(value)
        if value is None or texts == _texts(setting.default):
            continue
        if setting.option.positional:
            arguments += texts
        elif isinstance(value, bool):
            options.append(setting.flag if value else f"--no-{setting.flag[2:]}")
        else:
            options += [word for text in texts for word in _option(setting, text)]
    if any(text.startswith("-") for text in arguments):
        return ["stochx", command, *options, "--", *arguments]
    return ["stochx", command, *arguments, *options]


def _texts(value: object) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list | tuple) else (value,))]


def _option(setting: Setting, text: str) -> Iterator[str]:
    """Yield the words of an option; a value that begins with a dash, which reads as an option, is joined to its own."""
    if text.startswith("-"):
        yield f"{setting.flag}={text}"
    else:
        yield setting.option.short or setting.flag
        yield text
