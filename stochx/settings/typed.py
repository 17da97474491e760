"""The command line of settings, from the `args` of a document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from stochx import settings
from stochx.settings.base import Setting, settings_of

NOT_TYPED = frozenset({"output"})  # another run goes to another folder


def command_line(command: str, args: Mapping[str, object]) -> str:
    """Return the command that runs these settings again, on one line: what is at its default is left out."""
    declared = settings_of(getattr(settings, settings.COMMANDS[command]))
    words = ["stochx", command]
    for setting in sorted(declared, key=lambda setting: not setting.option.positional):
        if setting.name in args and setting.name not in NOT_TYPED:
            words += _words(setting, args[setting.name])
    return shlex.join(words)


def _words(setting: Setting, value: object) -> list[str]:
    """Return an option as typed; nothing for a default."""
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    if value == default or value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if setting.option.positional:
        return list(map(str, values))
    if isinstance(value, bool):
        return [setting.flag if value else f"--no-{setting.flag[2:]}"]
    return [word for each in values for word in (setting.option.short or setting.flag, str(each))]
