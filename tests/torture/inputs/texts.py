"""Texts: lists of classes and of splits, configs, options as typed, names of models. No command does its work."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
from torture.inputs import odd, weights
from torture.inputs.command import command
from torture.inputs.watch import Fault

from stochx import runs, settings
from stochx.catalog import FAMILIES
from stochx.datasets._splits import restricted
from stochx.engine.io.data import from_arrays
from stochx.engine.io.store import to_toml
from stochx.errors import StochxError
from stochx.settings.base import Setting, settings_of

NEEDED = {"attack": ("net",), "certify": ("net",), "boundary": ("net",), "info": ("net",), "fsc-test": ("net",)}
NEEDED |= {"explain": ("image.png",), "report": ("run",), "compare": ("run", "other"), "card": ("run",)}
NEEDED |= {"distill": ("--teacher", "net"), "score": ("image.png",)}
NEEDED |= {"fsc-explain": ("image.png", "--model", "net", "--support", "images")}
WORDS = (
    "0", "-1", "1", "1e400", "nan", "inf", "-inf", "8/255", "1/0", "0x10", "١", "1_000", "9" * 400, "1e-400", " 1 ",
    "auto", "10%", "-5%", "0.5@", "@", "a=b", "eps=0,1", "eps=0:1:0", "noise=0:1e9:1e-9", "8x8", "8/4", "9999", "none",
    "all",
    "~", "~no", "/", ".", "..", "", " ", ",", ":", "=", "a:b=c", "#", "+", "0.5*a+0.5*b", "é", "-", "--", "a" * 300,
    "a/" * 3000, "\x1b[31m", "\ud800",
)  # fmt: skip


class Parsed(StochxError):
    """The words were understood."""


def _stop(*_: object) -> NoReturn:
    raise Parsed("understood")


@contextmanager
def _idle() -> Iterator[None]:
    """Let no command do its work."""
    with patch.object(runs, "execute", _stop):
        yield


def prepare(folder: Path) -> None:
    """Import what reads the words."""
    (folder / "net.safetensors").write_bytes(weights.files()["classifier"])
    command("info", "net.safetensors", "--classes", "a,b", cwd=folder)
    importlib.import_module("timm")
    for name in commands():
        with _idle():
            command(name, *NEEDED.get(name, ()), cwd=folder)


@cache
def commands() -> Mapping[str, tuple[Setting, ...]]:
    """Return the settings of each command."""
    return {name: settings_of(getattr(settings, cls)) for name, cls in settings.COMMANDS.items()}


def classes(draw: Random, folder: Path) -> None:
    """Read a list of classes, or one of those of splits, of odd contents."""
    suffix = draw.choice((".txt", ".json", ".csv", ""))
    content = _list(draw, suffix)
    if draw.random() < 0.3:
        content = odd.damaged(draw, content)
    if draw.random() < 0.5:
        (folder / f"names{suffix}").write_bytes(content)
        (folder / "net.safetensors").write_bytes(weights.files()["classifier"])
        command("info", "net.safetensors", "--classes", f"names{suffix}", cwd=folder)
        return
    where = folder / draw.choice((f"names{suffix}", f"train{suffix}"))
    where.write_bytes(content)
    data = from_arrays(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 2, 3], ["a", "b", "c", "d"], "x")
    found = restricted(data, str(where if where.stem == "names" else folder), draw.choice(("train", "val", "test")))
    if not all(isinstance(name, str) for name in found.classes):
        raise Fault("a class that is no text")


def _list(draw: Random, suffix: str) -> bytes:
    names = [draw.choice((*odd.TEXTS, "a", "b", "c")) for _ in range(draw.choice((0, 1, 2, 2, 3, 1000)))]
    if suffix == ".json":
        parts = ("train", "val", "test", "base", "novel", "label_names", "0", "1", "x")
        forms = (
            lambda: names,
            lambda: odd.value(draw),
            lambda: {draw.choice(parts): odd.value(draw) for _ in range(3)},
            lambda: {part: draw.sample("abcd", 1) for part in parts},
            lambda: odd.changed(draw, {"train": ["a", "b"], "val": ["c"], "test": ["d"]}),
            lambda: odd.changed(draw, {"label_names": ["a", "b"]}),
            lambda: odd.changed(draw, {"0": ["n1", "a"], "1": "b"}),
        )
        return json.dumps(draw.choice(forms)()).encode()
    lines = [draw.choice(("", "a,", '"', "filename,label", "class_name,x", ",", "\0")) + name for name in names]
    return draw.choice(("\n", "\r", "\r\n", "\u2028")).join(lines).encode("utf-8", "surrogatepass")


def configs(draw: Random, folder: Path) -> None:
    """Read a config whose values are odd, for a command that then does nothing."""
    name = draw.choice(list(commands()))
    values: dict[str, Any] = {}
    for setting in draw.sample(commands()[name], min(len(commands()[name]), draw.choice((1, 1, 2, 4)))):
        if setting.name != "include":
            values[draw.choice((setting.name, setting.name.replace("_", "-")))] = _configured(draw, setting)
    if draw.random() < 0.1:
        values[draw.choice(("quiet", "json", "format", "config", "help", *odd.TEXTS[:5]))] = odd.value(draw)
    try:
        content = to_toml(values).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):  # TOML has no null
        content = f"{draw.choice(list(values) or ['x'])} = {draw.choice(WORDS)}".encode("utf-8", "surrogatepass")
    if draw.random() < 0.2:
        content = odd.damaged(draw, content)
    (folder / "config.toml").write_bytes(content)
    with _idle():
        command(name, "--config", "config.toml", *NEEDED.get(name, ()), cwd=folder)


def _configured(draw: Random, setting: Setting) -> Any:
    kind = draw.randrange(3)
    if kind == 0:
        return odd.value(draw)
    return _word(draw, setting) if kind == 1 else [_word(draw, setting) for _ in range(draw.randrange(4))]


def options(draw: Random, folder: Path) -> None:
    """Type odd values after options, or give them as variables, for a command that then does nothing."""
    name = draw.choice(list(commands()))
    typed, variables = list[str](NEEDED.get(name, ())), {}
    for setting in draw.sample(commands()[name], min(len(commands()[name]), draw.choice((1, 1, 2, 3)))):
        word = _word(draw, setting)
        if setting.name == "include":
            continue
        if draw.random() < 0.1 and not setting.option.positional and not {"\0", "\ud800"} & {*word}:
            variables[f"STOCHX_{name.replace('-', '_')}_{setting.name}".upper()] = word
        elif setting.option.positional:
            typed.append(word)
        elif setting.type is bool:
            typed.append(setting.flag if draw.random() < 0.8 else f"--no-{setting.flag[2:]}")
        else:
            typed += draw.choice(([setting.flag, word], [f"{setting.flag}={word}"]))
    if draw.random() < 0.1:
        typed.insert(draw.randrange(len(typed) + 1), draw.choice(WORDS))
    with _idle():
        command(name, *typed, cwd=folder, env=variables)


def _word(draw: Random, setting: Setting) -> str:
    """Draw what is typed as the value of a setting."""
    if setting.option.family and draw.random() < 0.8:
        return _entry(draw, setting.option.family)
    return draw.choice((*WORDS, *setting.choices)) if draw.random() < 0.8 else odd.text(draw)


def _entry(draw: Random, family: str) -> str:
    """Draw an entry of a family, with odd values of its fields."""
    catalog = FAMILIES[family]
    name = draw.choice(list(catalog))
    keys = [field.key for field in catalog.fields(name)] or ["x"]
    parts = [
        draw.choice(("%s=%s", "%s=%s", "%s=%s", "%s%s", "=%s%s", "%s=%s="))
        % (draw.choice(keys), draw.choice((*WORDS, *odd.NUMBERS)))
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    return name + (":" if parts else "") + ",".join(parts)


def entries(draw: Random, folder: Path) -> None:
    """Make an entry of odd fields."""
    family = draw.choice(list(FAMILIES))
    FAMILIES[family].make(_entry(draw, family))


def names(draw: Random, folder: Path) -> None:
    """Describe a model of an odd name; nothing can be fetched."""
    stem = draw.choice((*odd.NAMES, *WORDS, *odd.TEXTS, *odd.SPECS, "net.safetensors", "net", "hf:a/b"))
    text = stem % draw.choice(odd.NUMBERS) if "%s" in stem and len(stem) > 2 else stem
    kind = draw.randrange(7)
    text = (
        text,
        f"timm:{text}",
        f"hf:{text}",
        f"{text}+{text}",
        f"0.5*net.safetensors+{draw.choice(WORDS)}*{text}",
        f"net.safetensors#{text}",
        "".join(draw.choice("abcn:/+*#.,=-_ 0159\\\"'~$é") for _ in range(draw.randrange(30))),
    )[kind]
    if ".py" in text or "os:" in text:  # code of the user's own
        return
    (folder / "net.safetensors").write_bytes(weights.files()["classifier"])
    command("info", text, *(("--arch", stem) if draw.random() < 0.2 else ()), cwd=folder)
