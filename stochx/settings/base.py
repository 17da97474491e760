"""Declare, check and record the settings of a command, without torch and without the command line.

A command is a frozen dataclass. A field's annotation says everything that its option needs:

    norm: Annotated[Norm, Option(METHOD, "Norm of the ball.")] = "linf"

type, closed choices, default, help and panel. Groups of fields that several commands share are base classes, so that
settings stay flat: `Attack(model="net.pt", seed=3)` is `stochx attack net.pt --seed 3`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Number
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from stochx.catalog import FAMILIES, include
from stochx.declarations import is_finite
from stochx.errors import UsageError, suggest
from stochx.input_files import can_be_path, exists

WHAT, METHOD, RUN, OUTPUT = PANELS = "What", "Method", "Run", "Output"
NONE = "none"


@dataclass(frozen=True)
class Option:
    """The part of a setting's declaration that its type does not say: its panel in the help, and its help."""

    panel: str
    help: str
    short: str = ""  # a second name, such as -a
    metavar: str = ""  # the placeholder of its value in the help
    family: str = ""  # the family whose entries it names, NAME[:KEY=VALUE,...]
    declaring: str = ""  # only its entries that declare this `ClassVar`
    or_none: bool = False  # the word none is a value too
    or_path: bool = False  # so is the path of a file or folder
    or_other: bool = False  # so is any other name, which is checked when it is used
    positional: bool = False  # an argument of the command
    minimum: float | None = None
    maximum: float | None = None
    recorded: bool = True  # part of the result's identity: in its `args` and in config.toml
    free: bool = False  # may differ from the run that is resumed


@dataclass(frozen=True)
class Setting:
    """A field of a settings class, taken apart: the type of one value, and how many there may be."""

    name: str
    type: type  # str, int, float, bool or Path
    default: Any  # dataclasses.MISSING where it must be given
    option: Option
    optional: bool = False  # may be None
    repeated: bool = False  # a tuple
    choices: tuple[str, ...] = ()  # closed, unless `type` is a number
    or_number: bool = False  # a text that stands for a number, such as 8/255; from Python a number too
    or_text: bool = False  # a whole number, or a text that the settings read themselves, such as 10%

    @property
    def flag(self) -> str:
        """The option as typed: `--fail-under`; an argument's name in capitals."""
        name = self.name.replace("_", "-")
        return name.upper() if self.option.positional else f"--{name}"

    @property
    def entries(self) -> list[str]:
        """The names of the entries that it can name."""
        family = FAMILIES[self.option.family]
        return family.declaring(self.option.declaring) if self.option.declaring else list(family)

    def convert(self, value: Any) -> Any:
        """Return a value from Python as the command line gives it; raises `UsageError` for one that is not a tuple."""
        if value is None or not self.repeated:
            return self._convert_one(value)
        if isinstance(value, str | PurePath) or not isinstance(value, Iterable):
            raise UsageError(f"`{self.flag}` takes several values", f'write `{self.name}=("{value}",)`')
        return tuple(map(self._convert_one, value))

    def _convert_one(self, value: Any) -> Any:
        if isinstance(value, Number) and hasattr(value, "item"):  # of NumPy
            value = value.item()
        if self.type is Path and isinstance(value, str | PurePath):
            return Path(at_home(str(value)))
        if self.type is str and isinstance(value, str | PurePath):
            return at_home(str(value))
        if self.or_number and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if self.or_text and isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value):
            return int(value)
        return value

    def check(self, value: Any) -> None:
        """Raise `UsageError` for a value of another type, an unknown choice, and a number out of range."""
        if value is None and self.optional:
            return
        if self.repeated and value is None:
            raise UsageError(f"`{self.flag}` takes several values, not None", "leave it out for its default")
        if self.repeated and not value and self.default != ():
            raise UsageError(f"`{self.flag}` names nothing", "name at least one, or leave it out for its default")
        values = value if self.repeated else (value,)
        for each in values:
            self._check_type(each)
            if self.option.family:
                self._check_entry(each)
            elif self.choices and isinstance(each, str) and each not in self.choices:
                raise UsageError(f"`{self.flag} {each}` is unknown", suggest(each, self.choices))
            elif isinstance(each, int | float):
                self._check_range(each)
        if self.option.family and len({*values}) < len(values):
            raise UsageError(f"`{next(v for v in values if values.count(v) > 1)}` is given twice", "name each one once")

    def _check_entry(self, text: str) -> None:
        family = FAMILIES[self.option.family]
        if self.option.or_none and text == NONE:
            return
        known = text.partition(":")[0].replace("_", "-") in family
        if not known and (self.option.or_other or (self.option.or_path and exists(text))):
            return
        family.parse(text)

    def _check_type(self, value: object) -> None:
        fits: tuple[type, ...] = {float: (float, int), Path: (Path, str)}.get(self.type, (self.type,))
        if self.choices or self.type is str or self.or_text:
            fits = (*fits, str)
        if not isinstance(value, fits) or (isinstance(value, bool) and self.type is not bool):
            raise UsageError(f"`{self.flag}` expects {KINDS[self.type]}, got `{value!r}`")
        if isinstance(value, str) and "\0" in value:
            raise UsageError(f"`{self.flag}` holds a null character", "leave it out")
        if self.type is Path and isinstance(value, str | PurePath) and not can_be_path(str(value)):
            raise UsageError(f"`{self.flag} {value}` is no path: it is too long, or holds a null", "use a shorter one")

    def _check_range(self, value: float) -> None:
        low, high = self.option.minimum, self.option.maximum
        if not is_finite(value):
            raise UsageError(f"`{self.flag} {value!s:.40}` is not a finite number that 64 bits hold")
        if low is not None and value < low:
            raise UsageError(f"`{self.flag} {value}` is too small", f"use {low:g} or more")
        if high is not None and value > high:
            raise UsageError(f"`{self.flag} {value}` is too large", f"use {high:g} or less")


def at_home(text: str) -> str:
    """Return a path that begins with `~` with the home folder in its place; shells leave it in `--data=~/images`."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # there is no such user
        return text


KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a command, checked when they are made: a `UsageError` names the option and the remedy."""

    command: ClassVar[str]

    include: Annotated[
        tuple[str, ...],
        Option(RUN, "Add the methods, attacks, ... that this Python file declares; repeatable.", metavar="FILE.py"),
    ] = ()

    def __post_init__(self) -> None:
        declared = {setting.name: setting for setting in settings_of(type(self))}
        for setting in declared.values():
            object.__setattr__(self, setting.name, setting.convert(getattr(self, setting.name)))
        declared["include"].check(self.include)  # first, as others name its entries
        for file in self.include:
            include(Path(file))
        for setting in declared.values():
            setting.check(getattr(self, setting.name))
        self.check()

    def check(self) -> None:
        """Raise `UsageError` for settings that do not go together."""

    def prepare(self) -> None:
        """Raise `UsageError` or `InputError` for what on the disk is in the way of a run."""

    def recorded(self) -> dict[str, object]:
        """The settings that identify a result, as JSON values: the `args` of its document, and its config.toml."""
        values = {s.name: _json(getattr(self, s.name)) for s in settings_of(type(self)) if s.option.recorded}
        values["include"] = list(dict.fromkeys([*self.include, *self._included()]))
        return {name: value for name, value in values.items() if name != "include" or value}

    def _included(self) -> Iterator[str]:
        """Yield the files of the entries that the settings name, also of those that were included before."""
        for setting in settings_of(type(self)):
            value = getattr(self, setting.name)
            for text in (value if setting.repeated else (value,)) if setting.option.family and value else ():
                file = FAMILIES[setting.option.family].included_file(text)
                if file is not None and file not in {Path(each).expanduser().resolve() for each in self.include}:
                    yield str(file)

    def free(self) -> frozenset[str]:
        """The names of settings that may differ from the run that is resumed."""
        return frozenset(setting.name for setting in settings_of(type(self)) if setting.option.free)


def _json(value: object) -> object:
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """Return the settings that a command declares, in order: its own, then those of its groups."""
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = dict.fromkeys(name for part in cls.__mro__ for name in inspect.get_annotations(part))
    return tuple(_setting(fields[name], hints[name]) for name in names if name in fields)


def _setting(field: dataclasses.Field[Any], annotation: Any) -> Setting:
    kind, option = get_args(annotation)
    parts = set(_members(kind))
    optional = types.NoneType in parts
    repeated = any(get_origin(part) is tuple for part in parts)
    if repeated:
        (kind,) = (part for part in parts if get_origin(part) is tuple)
        parts = set(_members(get_args(kind)[0]))
    choices = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
    plain = [part for part in (bool, int, str, float, Path) if part in parts]
    return Setting(
        field.name,
        plain[0] if plain else str,
        field.default,
        option,
        optional,
        repeated,
        tuple(map(str, choices)),
        or_number={str, float} <= parts,
        or_text={str, int} <= parts,
    )


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
