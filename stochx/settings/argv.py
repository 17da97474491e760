"""Settings as the command line that asks for them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from stochx.settings.base import Setting, Settings, settings_of


def command_line(settings: Settings) -> list[str]:
    """Return the words of the command line that gives these settings: `["stochx", "attack", "net.pt", ...]`.

    Settings that have their default are left out.
    """
    options: list[str] = []
    positional: list[str] = []
    for setting in settings_of(type(settings)):
        value = getattr(settings, setting.name)
        if value is None or value == setting.default:
            continue
        texts = [str(each) for each in (value if setting.repeated else (value,))]
        if setting.option.positional:
            positional += texts
        elif setting.type is bool:
            options.append(setting.flag if value else f"--no-{setting.flag[2:]}")
        else:
            options += [word for text in texts for word in _option(setting, text)]
    if any(text.startswith("-") for text in positional):
        positional.insert(0, "--")
        return ["stochx", settings.command, *options, *positional]
    return ["stochx", settings.command, *positional, *options]


def _option(setting: Setting, text: str) -> Iterator[str]:
    """Yield the words of an option; a value that begins with a dash, which reads as an option, is joined to its own."""
    short = setting.option.short
    if text.startswith("-"):
        yield f"{setting.flag}={text}"
    else:
        yield short or setting.flag
        yield text


def shell_line(settings: Settings) -> str:
    """Return the same as one line, quoted for a shell."""
    return shlex.join(command_line(settings))
