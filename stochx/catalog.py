"""The folder is the registry: every public file of a family package is one choice.

    stochx/attributions/smoothtaylor.py  ->  --method smoothtaylor:sigma=0.5,roots=150

Entries come from outside the package too: from a file, where a class says `entry: ClassVar = "attributions:mine"`
(`include`, or `--include FILE.py` on the command line), and from installed packages, by entry points in the group
`stochx.attributions` and so on. Names, one-line help and fields are read from source with `ast`, so the command line
knows its choices without importing torch; `make` imports exactly one file.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from stochx.declarations import Field, class_variable, classes, fields
from stochx.errors import InputError, UsageError, suggest

if TYPE_CHECKING:
    from stochx.attacks import Attack
    from stochx.attributions import Attribution
    from stochx.datasets import Dataset
    from stochx.guides import Guide
    from stochx.heads import Head
    from stochx.metrics import Metric
    from stochx.models import Model
    from stochx.noises import Noise

T = TypeVar("T")

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Entry:
    """Where an entry is declared: its file, its class (the first public one, unless named), the module to import.

    A module of a file that was included has a name of its own, under which the file is loaded.
    """

    file: Path
    module: str
    cls: str = ""
    included: bool = False

    @property
    def declaration(self) -> ast.ClassDef:
        """The class as written; raises `InputError` where the file has none of that name."""
        known = classes(self.file)
        name = self.cls or next(iter(known), "")
        if name not in known:
            raise InputError(f"`{self.file}` has no public class `{name}`", "declare a frozen dataclass")
        return known[name]

    def load(self) -> Any:
        """Import the file (and with it torch) and return the class."""
        if self.included and self.module not in sys.modules:
            spec = importlib.util.spec_from_file_location(self.module, self.file)
            assert spec is not None and spec.loader is not None
            module = sys.modules[self.module] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[self.module]
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"`{self.file}` cannot be imported: {reason}", "mend the file") from error
        return getattr(importlib.import_module(self.module), self.declaration.name)


class Catalog(Generic[T]):
    """All entries of one family: `Catalog("method", "stochx.attributions")`."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        """All entries by name: those of the package, those of installed packages, and what is included later."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations
        (folder,) = map(Path, spec.submodule_search_locations)
        entries = {
            f.stem.replace("_", "-"): Entry(f, f"{self.package}.{f.stem}") for f in sorted(folder.glob("[!_]*.py"))
        }
        for point in _entry_points().get(self.package, []):
            entry = _installed(point)
            if point.name in entries or entry is None:
                log.warning(
                    "entry point `%s` of `%s` is left out: no source, or the name is taken", point.name, self.package
                )
            else:
                entries[point.name.replace("_", "-")] = entry
        return entries

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry from outside; raises `InputError` where the name belongs to another file."""
        name = name.replace("_", "-")
        known = self._entries.get(name)
        if known is not None and known.file != entry.file:
            raise InputError(
                f"`{entry.file}`: there is a {self.kind} `{name}` already", "choose another name in `entry`"
            )
        self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name.replace("_", "-") in self._entries

    def class_name(self, name: str) -> str:
        """Return the name of the entry's dataclass: `smoothtaylor` is `SmoothTaylor`."""
        return self._entries[name].declaration.name

    def docstring(self, name: str) -> str:
        """Return the entry's whole docstring."""
        return ast.get_docstring(self._entries[name].declaration) or ""

    def summary(self, name: str) -> str:
        """Return the first line of the entry's docstring."""
        return self.docstring(name).partition("\n")[0]

    def fields(self, name: str) -> list[Field]:
        """Return the hyperparameters of an entry, in order."""
        entry = self._entries[name]
        return fields(entry.file, entry.declaration)

    def declares(self, text: str, variable: str) -> object:
        """Return what the entry named by a spec declares as a `ClassVar`, such as `black_box`; None if nothing."""
        return class_variable(self._entries[self.parse_name(text)[0]].declaration, variable)

    def declaring(self, variable: str) -> list[str]:
        """Return the names of the entries that declare a `ClassVar` as true."""
        return [name for name in self if self.declares(name, variable)]

    def is_included(self, name: str) -> bool:
        """Return true for an entry that a file from outside declares."""
        return self._entries[name].included

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
        """`"ig:steps=40"` -> `("ig", "steps=40")`, for a known name."""
        name, _, rest = text.partition(":")
        name = name.replace("_", "-")
        if name not in self._entries:
            raise UsageError(f"unknown {self.kind} `{name}`", suggest(name, self))
        return name, rest

    def load(self, name: str) -> type[T]:
        """Return the entry's class; imports its file (and with it torch) now."""
        return cast(type[T], self._entries[name.replace("_", "-")].load())

    def make(self, text: str) -> T:
        """Return the entry that `text` describes, with its values checked."""
        name, values = self.parse(text)
        try:
            return self.load(name)(**values)
        except ValueError as error:
            raise UsageError(f"`{text}`: {error}") from None


def include(path: Path) -> None:
    """Add the entries that a Python file declares; nothing is imported before one is used.

    Raises `InputError` for a file without an entry, an unknown family, and a name that is taken.
    """
    file = path.expanduser().resolve()
    declares = False
    for name, declaration in classes(file).items():
        try:
            text = class_variable(declaration, "entry")
        except ValueError:
            text = ""
        if text is None:
            continue
        family, colon, entry = str(text).partition(":")
        if not colon or not entry:
            raise InputError(
                f"`{path}`: `{name}.entry` is not `FAMILY:NAME`", 'write `entry: ClassVar = "attacks:mine"`'
            )
        if family not in FAMILIES:
            raise InputError(f"`{path}`: there is no family `{family}`", suggest(family, FAMILIES))
        module = f"stochx_included_{hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()}_{file.stem}"
        FAMILIES[family].add(entry, Entry(file, module, name, included=True))
        declares = True
    if not declares:
        raise InputError(
            f"`{path}` declares no entry", 'write `entry: ClassVar = "attributions:mine"` in a frozen dataclass'
        )


def _entry_points() -> dict[str, list[metadata.EntryPoint]]:
    """Return the entry points of all installed packages, by family package; read once."""
    if not _points:
        points = metadata.entry_points()
        _points.update({catalog.package: list(points.select(group=catalog.package)) for catalog in FAMILIES.values()})
    return _points


_points: dict[str, list[metadata.EntryPoint]] = {}


def _installed(point: metadata.EntryPoint) -> Entry | None:
    """Find the source of an entry point without importing its package; None where there is none."""
    top, *rest = point.module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.origin:
        return None
    place = Path(spec.origin).parent.joinpath(*rest)
    files = (place.with_suffix(".py"), place / "__init__.py") if rest else (Path(spec.origin),)
    return next((Entry(file, point.module, point.attr) for file in files if file.is_file()), None)


def lazy_entries(catalog: Catalog[Any]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a family package: its classes, imported on first use."""

    def find(name: str) -> Any:
        for entry in catalog:
            if catalog.class_name(entry) == name:
                return catalog.load(entry)
        raise AttributeError(f"module `{catalog.package}` has no attribute `{name}`")

    def names() -> list[str]:
        return [catalog.class_name(entry) for entry in catalog]

    return find, names


ATTACKS: Catalog[Attack] = Catalog("attack", "stochx.attacks")
ATTRIBUTIONS: Catalog[Attribution] = Catalog("method", "stochx.attributions")
METRICS: Catalog[Metric] = Catalog("metric", "stochx.metrics")
MODELS: Catalog[Model] = Catalog("architecture", "stochx.models")
DATASETS: Catalog[Dataset] = Catalog("data set", "stochx.datasets")
NOISES: Catalog[Noise] = Catalog("noise", "stochx.noises")
HEADS: Catalog[Head] = Catalog("head", "stochx.heads")
GUIDES: Catalog[Guide] = Catalog("guide", "stochx.guides")

FAMILIES: dict[str, Catalog[Any]] = {
    "attacks": ATTACKS,
    "attributions": ATTRIBUTIONS,
    "metrics": METRICS,
    "models": MODELS,
    "datasets": DATASETS,
    "noises": NOISES,
    "heads": HEADS,
    "guides": GUIDES,
}
