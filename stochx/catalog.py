"""The folder is the registry: every public file of a family package is one choice.

    stochx/attributions/smoothtaylor.py  ->  --method smoothtaylor:sigma=0.5,roots=150

Entries come from outside the package too: from a file, where a class says `entry: ClassVar = "attributions:mine"`
(`include`, or `--include FILE.py` on the command line), and from installed packages, by entry points in the group
`stochx.attributions` and so on. Names, one-line help and fields are read from source with `ast`, so the command line
knows its choices without importing torch; `make` imports exactly one file.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from stochx.checked_entries import checked_init, imported, returning
from stochx.declarations import Field, class_variable, classes, fields, reexports
from stochx.entries import Entry, built_in, declared, installed, package_file
from stochx.errors import InputError, UsageError, suggest

if TYPE_CHECKING:
    from stochx.attacks import Attack
    from stochx.attributions import Attribution
    from stochx.datasets import Dataset
    from stochx.guides import Guide
    from stochx.heads import Head
    from stochx.lessons import Lesson
    from stochx.metrics import Metric
    from stochx.models import Model
    from stochx.noises import Noise

T = TypeVar("T")

log = logging.getLogger("stochx")


class Catalog(Generic[T]):
    """All entries of one family: `Catalog("method", "stochx.attributions")`.

    Keys without a name, such as `tau=4`, are those of the entry `usual`, where a family has one. Every entry, also one
    from outside, is called through the class `call`, `module:Class`: it makes what a user gives into what the formula
    in the entry's file takes. In a family without one the results have to be a `returns`, `module:Class`.
    """

    def __init__(self, kind: str, package: str, usual: str = "", call: str = "", returns: str = "") -> None:
        self.kind = kind
        self.package = package
        self.usual = usual
        self.call = call
        self.returns = returns
        self._classes: dict[type, type] = {}  # classes with checked calls, by those of the files
        self._broken: dict[str, InputError] = {}  # entry points that cannot be used

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        """All entries by name: those of the package, those of installed packages, and what is included later."""
        entries = built_in(self.package)
        for point, entry in installed(self.package):
            name = point.replace("_", "-")
            if isinstance(entry, Entry) and name in entries:
                entry = InputError(f"entry point `{point}`: there is a {self.kind} `{name}` already")
            if isinstance(entry, Entry):
                entries[name] = entry
            else:
                log.info("%s", entry)
                self._broken.setdefault(name, entry)
        return entries

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry from outside; raises `InputError` where the name is taken by another one."""
        name = name.replace("_", "-")
        known = self._entries.get(name)
        if name in self._aliases or (known is not None and (known.file, known.cls) != (entry.file, entry.cls)):
            raise InputError(
                f"`{entry.file}`: there is a {self.kind} `{name}` already", "choose another name in `entry`"
            )
        self._entries[name] = entry

    def discard(self, file: Path) -> None:
        """Forget what a file has declared, if anything."""
        for name in [name for name, entry in self._entries.items() if entry.included and entry.file == file]:
            del self._entries[name]

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Other names of entries with keys, as they declare them: `{"resnet20": "resnet-cifar:depth=20"}`."""
        declared = {name: class_variable(self._entries[name].declaration, "aliases") for name in built_in(self.package)}
        return {
            alias: f"{name}:{keys}"
            for name, aliases in declared.items()
            if isinstance(aliases, dict)
            for alias, keys in aliases.items()
        }

    def _entry(self, name: str) -> Entry:
        return self._entries[self.parse_name(name)[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        """Return true for names with hyphens or underscores, and for other names of an entry."""
        name = name.replace("_", "-")
        return name in self._entries or name in self._aliases

    def class_name(self, name: str) -> str:
        """Return the name of the entry's dataclass: `smoothtaylor` is `SmoothTaylor`."""
        return self._entry(name).declaration.name

    def docstring(self, name: str) -> str:
        """Return the entry's whole docstring."""
        return ast.get_docstring(self._entry(name).declaration) or ""

    def summary(self, name: str) -> str:
        """Return the first line of the entry's docstring."""
        return self.docstring(name).partition("\n")[0]

    def fields(self, name: str) -> list[Field]:
        """Return the hyperparameters of an entry, in order."""
        entry = self._entry(name)
        return fields(entry.file, entry.declaration)

    def declares(self, text: str, variable: str) -> object:
        """Return what the entry named by a spec declares as a `ClassVar`, such as `black_box`; None if nothing."""
        return class_variable(self._entry(text).declaration, variable)

    def declaring(self, variable: str) -> list[str]:
        """Return the names of the entries that declare a `ClassVar` as true."""
        return [name for name in self if self.declares(name, variable)]

    def included_file(self, text: str) -> Path | None:
        """Return the file from outside that declares the entry named by a spec; None for any other text."""
        name = text.partition(":")[0]
        return self._entry(name).file if name in self and self._entry(name).included else None

    def is_included(self, name: str) -> bool:
        """Return true for an entry that a file from outside declares."""
        return self._entry(name).included

    def parse(self, text: str) -> tuple[str, dict[str, object]]:
        """`"ig:steps=40"` -> `("ig", {"steps": 40})`; raises `UsageError` with a remedy."""
        name, rest = self.parse_name(text)
        fields = {f.key: f for f in self.fields(name)}
        values: dict[str, object] = {}
        for item in filter(None, rest.split(",")):
            key, equals, value = item.partition("=")
            if key not in fields:
                raise UsageError(
                    f"{self.kind} `{name}` has no key `{key}`",
                    suggest(key, fields) if fields else f"`{name}` takes none",
                )
            field = fields[key]
            if not equals:
                raise UsageError(f"`{item}` in `{text}` has no value", f"write `{key}={field.default or '...'}`")
            if field.name in values:
                raise UsageError(f"`{text}` gives `{key}` twice")
            values[field.name] = field.read(value, f"{name}:{key}")
        missing = [f.key for f in fields.values() if f.default is None and f.name not in values]
        if missing:
            raise UsageError(f"{self.kind} `{text}` needs `{missing[0]}`", f"write `{name}:{missing[0]}=...`")
        return name, values

    def parse_name(self, text: str) -> tuple[str, str]:
        """`"ig:steps=40"` -> `("ig", "steps=40")`, for a known name; raises `UsageError`, or the error of an entry."""
        if self.usual and "=" in text.partition(":")[0]:
            text = f"{self.usual}:{text}"
        name, _, rest = text.partition(":")
        name = name.replace("_", "-")
        if name in self._entries:
            return name, rest
        if name in self._aliases:
            name, _, keys = self._aliases[name].partition(":")
            return name, f"{keys},{rest}" if rest else keys
        if name in self._broken:
            raise self._broken[name]
        raise UsageError(f"unknown {self.kind} `{name}`", suggest(name, [*self, *self._aliases]))

    def load(self, name: str) -> type[T]:
        """Return the entry's class; imports its file (and with it torch) now."""
        entry = self._entry(name)
        own: type[T] = entry.load()
        if not any("__call__" in vars(base) for base in own.__mro__):
            raise InputError(f"`{own.__name__}` has no `__call__`", f"write one, as the {self.kind}s of stochx have")
        if own not in self._classes and (self.call or self.returns):
            before = imported(self.call) if self.call else returning(imported(self.returns))
            # Pickle looks the class up where `lazy_entries` finds it.
            body = {
                "__module__": own.__module__ if entry.included else self.package,
                "__doc__": own.__doc__,
                "__init__": checked_init(own, {field.name: field for field in self.fields(name)}),
            }
            self._classes[own] = type(own.__name__, (before, own), body)
        return cast(type[T], self._classes.get(own, own))

    def make(self, text: str) -> T:
        """Return the entry that `text` describes, with its values checked."""
        name, values = self.parse(text)
        try:
            return self.load(name)(**values)
        except ValueError as error:
            raise UsageError(f"`{text}`: {error}") from None

    def describe(self, entry: Any) -> str:
        """Return the text that makes an entry: its name, and the values that are not its defaults."""
        name = next(name for name in self if self.class_name(name) == type(entry).__name__)
        keys = {field.name: field.key for field in self.fields(name)}
        given = {field.name: (getattr(entry, field.name), field.default) for field in dataclasses.fields(entry)}
        values = ",".join(f"{keys[key]}={value}" for key, (value, default) in given.items() if value != default)
        return f"{name}:{values}" if values else name


def include(path: str | Path) -> None:
    """Add the entries that a Python file declares, in place of those that it declared when it was included before.

    Nothing is imported before an entry is used. Raises `InputError` for a file without an entry, an unknown family,
    and a name that is taken.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py":
        raise InputError(f"`{path}` is not a Python file", "give it the suffix .py")
    entries = list(declared(file))
    for family, _, _ in entries:
        if family not in FAMILIES:
            raise InputError(f"`{path}`: there is no family `{family}`", suggest(family, FAMILIES))
    for catalog in FAMILIES.values():
        catalog.discard(file)
    for family, name, entry in entries:
        FAMILIES[family].add(name, entry)


def lazy_entries(catalog: Catalog[Any]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a family package: its entries and its re-exports, imported on first use.

    A type checker reads both in the package's `__init__.pyi`, which `stochx.stubs` writes.
    """

    def find(name: str) -> Any:
        for entry in catalog:
            if catalog.class_name(entry) == name:
                return catalog.load(entry)
        homes = reexports(package_file(catalog.package))
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module `{catalog.package}` has no attribute `{name}`")

    def names() -> list[str]:
        return sorted(
            {
                *map(catalog.class_name, catalog),
                *classes(package_file(catalog.package)),
                *reexports(package_file(catalog.package)),
            }
        )

    return find, names


ATTACKS: Catalog[Attack] = Catalog("attack", "stochx.attacks", call="stochx.attacks._call:CheckedCall")
ATTRIBUTIONS: Catalog[Attribution] = Catalog(
    "method", "stochx.attributions", call="stochx.attributions._call:CheckedCall"
)
METRICS: Catalog[Metric] = Catalog("metric", "stochx.metrics", call="stochx.metrics._call:CheckedCall")
MODELS: Catalog[Model] = Catalog("architecture", "stochx.models", returns="stochx.engine.network.classifier:Classifier")
DATASETS: Catalog[Dataset] = Catalog("data set", "stochx.datasets", returns="stochx.engine.io.data:Data")
NOISES: Catalog[Noise] = Catalog("noise", "stochx.noises", returns="torch.nn:Module")
HEADS: Catalog[Head] = Catalog("head", "stochx.heads", returns="stochx.engine.fewshot.head:FewShotHead")
GUIDES: Catalog[Guide] = Catalog("guide", "stochx.guides", returns="builtins:tuple")
LESSONS: Catalog[Lesson] = Catalog("lesson", "stochx.lessons", usual="soft-labels", returns="torch:Tensor")

FAMILIES: dict[str, Catalog[Any]] = {
    "attacks": ATTACKS,
    "attributions": ATTRIBUTIONS,
    "metrics": METRICS,
    "models": MODELS,
    "datasets": DATASETS,
    "noises": NOISES,
    "heads": HEADS,
    "guides": GUIDES,
    "lessons": LESSONS,
}
