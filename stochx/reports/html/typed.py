"""The command line of a run, from the settings in its document."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from stochx import settings
from stochx.settings.base import Setting, settings_of


def command_line(command: str, args: Mapping[str, Any]) -> str:
    """Return the command that was run, without options that have their defaults."""
    declared = settings_of(getattr(settings, settings.COMMANDS[command]))
    known = [setting for setting in declared if setting.name in args and args[setting.name] != _default(setting)]
    arguments = [setting for setting in known if setting.option.positional]
    options = [setting for setting in known if not setting.option.positional]
    words = ["stochx", command]
    words += [word for setting in arguments for word in _values(args[setting.name])]
    words += [word for setting in options for word in _option(setting, args[setting.name])]
    return shlex.join(words)


def _default(setting: Setting) -> object:
    """Return the default as JSON has it."""
    return list(setting.default) if isinstance(setting.default, tuple) else setting.default


def _option(setting: Setting, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield setting.flag if value else f"--no-{setting.flag[2:]}"
        return
    for text in _values(value):
        yield from (setting.option.short or setting.flag, text)


def _values(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
