"""Observe what every command does, and record it.

To record anew, in the folder of the tests: `python -m recorded.record [NAME...]`, where NAME is `help`, `exits` or a
case of `cases.py`; without names everything is recorded.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image
from recorded.cases import EXITS, PRINTS, RUNS

from stochx.cli import app, main

FOLDER = Path(__file__).parent
ABSENT = "(absent)"
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # tolerances of floats: other processors round otherwise, a changed formula shows
VOLATILE = {"seconds", "version", "threads"}
WORDING = {"help", "text", "advice", "error", "hint"}
NOT_COMPARED = {"seconds", "help"}  # columns of tables
DECIMAL = re.compile(r"\d+\.\d+")
PLACEHOLDERS = {"TEXT": "str", "N": "int", "X": "float", "PATH": "path"}  # they say no more than a type does


class Place:
    """A folder with inputs where commands are run, each case once and after the cases it builds on."""

    def __init__(self, folder):
        self.folder, self._cache = folder, {}
        draw = np.random.default_rng(0)
        for name in ("photo", *(f"support/{kind}/{i}" for kind in ("cat", "dog", "owl") for i in range(2))):
            path = folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
        (folder / "broken.png").write_bytes((folder / "photo.png").read_bytes()[:300])
        (folder / "good.toml").write_text('method = ["gradient"]\ntarget = "2"\n')
        (folder / "unknown.toml").write_text("methods = []\n")
        (folder / "broken.toml").write_text("method = \n")

    def run(self, words):
        """Run one command after the cases it names, and return its exit code, stdout and stderr."""
        for word in words:
            if (first := word.partition("/")[0]) != word and first in RUNS:
                self.observe(first)
        return _invoke(words, self.folder)

    def observe(self, name):
        """Return the recording of a case: its two commands and its folder."""
        if name not in self._cache:
            words = shlex.split(RUNS.get(name) or PRINTS[name])
            if name in RUNS:
                words += ["-o", name, "--device", "cpu", "--seed", "0"]
            code, out, _ = self.run([*words, "--json"])
            document = self._stable(json.loads(out)) if out else None
            files = self._files(name, document)
            again, table, _ = self.run([*words, "--resume"] if name in RUNS else words)
            after = {"exit code": again, **self._table(table)}
            after["other files"] = sorted(set(files) ^ set(self._files(name, document)))
            self._cache[name] = {"exit code": code, "json": document, "files": files, "table": after}
        return self._cache[name]

    def exits(self, command):
        """Exit code of a command, number of its errors, and whether a hint comes with them."""
        code, _, err = self.run(shlex.split(command))
        lines = err.splitlines()
        error = sum(line.startswith("error:") for line in lines)
        return {"exit code": code, "errors": error, "hint": any(line.startswith("hint:") for line in lines)}

    def _table(self, text):
        heading, *rows = [line.split("\t") for line in text.splitlines()] or [[]]
        rows = [dict(zip(heading, row, strict=True)) for row in rows]
        return {
            "heading": heading,
            "rows": [
                {name: "*" if cell and name in NOT_COMPARED else self._stable(cell) for name, cell in row.items()}
                for row in rows
            ],
        }

    def _files(self, name, printed):
        root = self.folder / name
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): self._content(path, printed) for path in paths}

    def _content(self, path, printed):
        if path.name == "config.toml":
            return self._stable(tomllib.loads(path.read_text()))
        if path.name == "result.json":
            document = self._stable(json.loads(path.read_text()))
            return "as printed" if document == printed else document
        if path.name == "records.jsonl":
            keys = [" ".join(sorted(json.loads(line))) for line in path.read_text().splitlines()]
            return [[key, len(list(lines))] for key, lines in itertools.groupby(keys)]
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return {name: f"{arrays[name].dtype.kind} {list(arrays[name].shape)}" for name in sorted(arrays)}
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return {"metadata": sorted(header.pop("__metadata__", {})), "tensors": len(header)}
        return "file"

    def _stable(self, value, key=""):
        """Return `value` without the parts that depend on the run, the machine or the wording."""
        if (key in VOLATILE and value is not None) or (key in WORDING and isinstance(value, str)):
            return "*"
        if isinstance(value, dict):
            return {name: self._stable(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [self._stable(part) for part in value]
        if isinstance(value, str):
            return re.sub("^[0-9a-f]{64}$", "*", value.replace(str(self.folder), "PLACE"))
        return float(f"{value:.6g}") if isinstance(value, float) else value


def _invoke(words, folder):
    """Run one command in this process, as `main` does, and leave the process as it was."""
    before, environ, argv = Path.cwd(), dict(os.environ), sys.argv
    log = logging.getLogger("stochx")
    logging_state = log.handlers, log.propagate, log.level
    out, err, code, threads = io.StringIO(), io.StringIO(), None, torch.get_num_threads()
    torch.set_num_threads(1)  # sums in other parts round otherwise
    sys.argv = ["stochx", *words]
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        torch.set_num_threads(threads)
        os.chdir(before)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environ)
        log.handlers, log.propagate = logging_state[:2]
        log.setLevel(logging_state[2])
    return code, out.getvalue(), err.getvalue()


def options():
    """Return the arguments and options of every command: its help without the wording."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="stochx", **group.context_settings)
    commands = {"stochx": _options(group, context)}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        commands[name] = _options(command, typer.Context(command, info_name=name, parent=context))
    return commands


def _options(command, context):
    return {
        next((flag for flag in param.opts if flag.startswith("--")), param.name): _option(param, context)
        for param in command.get_params(context)
    }


def _option(param, context):
    record = param.get_help_record(context)
    notes = record[1].rpartition("  [")[2].rstrip("]").split("; ") if record and "  [" in record[1] else []
    shown = next((note.removeprefix("default: ") for note in notes if note.startswith("default: ")), None)
    named = context.auto_envvar_prefix and getattr(param, "allow_from_autoenv", False) and param.name != "help"
    facts = {
        "flags": sorted([*param.opts, *param.secondary_opts]),
        "value": None if getattr(param, "is_flag", False) else _value(param),
        "default": shown,
        "range": next((note for note in notes if "<" in note or ">" in note), None),
        "variable": param.name.upper() if named else None,
        "panel": getattr(param, "rich_help_panel", None),
        "required": param.required,
        "repeatable": param.nargs != 1 or bool(getattr(param, "multiple", False)),
        "switch": bool(getattr(param, "is_flag", False)),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _value(param):
    """What is typed after an option: its choices, else its metavar, else its type."""
    choices = getattr(param.type, "choices", None)
    shown = "|".join(map(str, choices)) if choices else param.metavar or param.type.name.removesuffix(" range")
    return PLACEHOLDERS.get(shown, shown)


def differences(recorded, today, path):
    """Return `{path: (recorded, today)}` for each difference; a branch that one side lacks is one difference."""
    if isinstance(recorded, dict) and isinstance(today, dict):
        parts = [(key, recorded.get(key, ABSENT), today.get(key, ABSENT)) for key in {**recorded, **today}]
    elif isinstance(recorded, list) and isinstance(today, list) and len(recorded) == len(today):
        parts = [(place, *pair) for place, pair in enumerate(zip(recorded, today, strict=True))]
    else:
        same = _same_cell if "/table/rows/" in path and isinstance(recorded, str) else _same
        return {} if same(recorded, today) else {path: (recorded, today)}
    changes = {}
    for key, before, after in parts:
        changes |= differences(before, after, f"{path}/{key}")
    return changes


def _same(recorded, today):
    if isinstance(recorded, float) and isinstance(today, float):
        return abs(recorded - today) <= ABSOLUTE + RELATIVE * abs(recorded)
    return type(recorded) is type(today) and recorded == today


def _same_cell(recorded, today):
    """Compare the texts of two cells: as they are, but for the last place of decimals."""
    if not isinstance(today, str) or DECIMAL.sub("#", recorded) != DECIMAL.sub("#", today):
        return False
    return all(itertools.starmap(_same_decimal, zip(DECIMAL.findall(recorded), DECIMAL.findall(today), strict=True)))


def _same_decimal(recorded, today):
    places = [len(text.partition(".")[2]) for text in (recorded, today)]
    slack = RELATIVE * float(recorded) if len({*places}) == 1 else 0  # else a zero at the end was left out
    return abs(float(recorded) - float(today)) <= slack + 1.01 * 0.1 ** max(places)


def load(name):
    """Read a recording: `help`, `exits`, or a case."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def record(names):
    """Write the recordings of `names`, by default of everything."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder).resolve())
        for name in names or ["help", *RUNS, *PRINTS, "exits"]:
            if name == "help":
                today = options()
            elif name == "exits":
                today = {title: place.exits(command) for title, command in EXITS.items()}
            else:
                today = place.observe(name)
            (FOLDER / f"{name}.json").write_text(_text(today) + "\n", encoding="utf-8")


def _text(value, indent=""):
    """Format `value` as JSON, each part on one line where it fits."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) < 110 or not isinstance(value, dict | list):
        return line
    deeper = f"{indent}  "
    if isinstance(value, dict):
        parts = [f"{deeper}{json.dumps(key, ensure_ascii=False)}: {_text(part, deeper)}" for key, part in value.items()]
    else:
        parts = [deeper + _text(part, deeper) for part in value]
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    return f"{opened}\n" + ",\n".join(parts) + f"\n{indent}{closed}"


if __name__ == "__main__":
    record(sys.argv[1:])
