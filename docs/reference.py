"""Write the generated parts of the manual: `python docs/reference.py`, or `make reference`.

- `commands/NAME.md`: what follows the mark in the page of a command, its options. A command without a page gets one.
- `commands/index.md`: the list of commands.
- `entries/FAMILY.md`: every method, attack, metric, ... with its keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from stochx import settings
from stochx.catalog import FAMILIES
from stochx.cli import app
from stochx.cli.commands import summary
from stochx.settings import COMMANDS
from stochx.settings.base import PANELS, Setting, settings_of

HERE = Path(__file__).parent
MARK = "<!-- From here on written by docs/reference.py; do not edit. -->"
WRITTEN = "<!-- Written by docs/reference.py; do not edit. -->"
OPTION = {  # what takes the entries of a family
    "attributions": "`--method` of `explain` and `score`",
    "attacks": "`--attack` of `attack`, and `--adversarial` of `train` and `distill`",
    "metrics": "`--metric` of `score`",
    "models": "`--arch` of `train`, and `--backbone` of `fsc-train`",
    "datasets": "`--data` of every command",
    "noises": "`--noise` of `distill`",
    "heads": "`--head` of `fsc-train`",
    "guides": "`--guide` of `fsc-train`",
    "lessons": "`--kd` of `distill`",
}


def pages(folder: Path = HERE) -> dict[Path, str]:
    """Return every page with a generated part, and its text, given the pages that are there."""
    group: Any = typer.main.get_command(app)
    names = list(group.list_commands(None))
    written = {folder / "commands" / f"{name}.md": _command(folder, group.commands[name]) for name in names}
    written[folder / "commands" / "index.md"] = _commands(names)
    return written | {folder / "entries" / f"{family}.md": _family(family) for family in FAMILIES}


def _commands(names: Sequence[str]) -> str:
    rows = [(f"[{name}]({name}.md)", _escape(summary(name))) for name in names]
    return f"{WRITTEN}\n\n# Commands\n\nOne page each, with examples first and all options at the end.\n\n" + _table(
        ("command", "what it does"), rows
    )


def _command(folder: Path, command: Any) -> str:
    path = folder / "commands" / f"{command.name}.md"
    head = path.read_text(encoding="utf-8").partition(MARK)[0] if path.exists() else _head(command)
    return f"{head.rstrip()}\n\n{MARK}\n\n## Options\n\n{_options(command)}"


def _head(command: Any) -> str:
    """Begin a page with the help of its command."""
    about, *more = command.help.split("\n\n")
    examples = [line.strip() for line in "\n".join(more).splitlines() if line.strip().startswith("stochx ")]
    code = "\n".join(["```", *examples, "```"])
    return f"# stochx {command.name}\n\n{_escape(' '.join(about.split()))}\n\n{code}"


def _options(command: Any) -> str:
    cls = getattr(settings, COMMANDS[command.name]) if command.name in COMMANDS else None
    declared = {setting.name: setting for setting in settings_of(cls)} if cls else {}
    context = command.context_class(command, info_name=command.name)
    panels: dict[str, list[tuple[str, ...]]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and param.name != "help":
            title = getattr(param, "rich_help_panel", None) or "Arguments"
            panels.setdefault(title, []).append(_row(record, declared.get(param.name)))
    order = [title for title in ("Arguments", *PANELS) if title in panels]
    parts = [f"### {title}\n\n{_table(('option', 'meaning', 'default'), panels[title])}" for title in order]
    free = [f"`{setting.flag}`" for setting in declared.values() if setting.option.free]
    if free and "resume" in declared:
        parts.append(f"A run that is resumed may differ in: {', '.join(free)}.\n")
    return "\n".join(parts)


def _row(record: tuple[str, str], setting: Setting | None) -> tuple[str, str, str]:
    names, text = record
    about, bracket, facts = text.rpartition("  [")
    about, facts = (about, facts.removesuffix("]")) if bracket else (text, "")
    meaning = _escape(about)
    if setting is not None and setting.option.family:
        family = setting.option.family
        meaning = f"{_escape(setting.option.help)} See [{family}](../entries/{family}.md)."
    return f"`{names}`", meaning, "; ".join(filter(None, map(_fact, facts.split("; "))))


def _fact(text: str) -> str:
    """Say in words what click says of a default and of a range."""
    least = re.fullmatch(r"(?:(.+)<=)?x(?:>=(.+)|<=(.+))?", text)
    if text.startswith("default: "):
        return f"`{text.removeprefix('default: ')}`"
    if least:
        low, high = least[1] or least[2], least[3]
        return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
    return text


def _family(family: str) -> str:
    catalog = FAMILIES[family]
    text = f"{WRITTEN}\n\n# {family.capitalize()}\n\nChoices of {OPTION[family]}, written `NAME[:KEY=VALUE,...]`.\n\n"
    text += _table(("name", "what it is"), [(f"[{name}](#{name})", _escape(catalog.summary(name))) for name in catalog])
    return text + "".join(_entry(family, name) for name in catalog)


def _entry(family: str, name: str) -> str:
    catalog = FAMILIES[family]
    rows = []
    for field in catalog.fields(name):
        kind = " or ".join(f"`{choice}`" for choice in field.choices) or field.type
        default = "must be given" if field.default is None else f"`{field.default}`" if field.default else "empty"
        rows.append((f"`{field.key}`", _escape(field.help), kind, default))
    keys = "\n" + _table(("key", "meaning", "value", "default"), rows) if rows else "\nNo keys.\n"
    return f"\n## {name}\n\n" + "\n\n".join(_paragraphs(catalog.docstring(name))) + "\n" + keys


def _paragraphs(docstring: str) -> Iterator[str]:
    """Turn a docstring into Markdown: its indented formulas become code."""
    for block in docstring.split("\n\n"):
        if block.startswith("    "):
            yield "```text\n" + "\n".join(line.removeprefix("    ") for line in block.splitlines()) + "\n```"
        elif block.startswith("- "):
            yield "\n".join(map(_escape, block.splitlines()))
        else:
            yield _escape(" ".join(block.split()))


def _escape(text: str) -> str:
    """Return plain text with code in backticks as Markdown."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<\[])", r"\\\1", part) for part in parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in line) + " |\n" for line in lines)


def write(folder: Path = HERE) -> None:
    """Write all generated parts."""
    for path, text in pages(folder).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
