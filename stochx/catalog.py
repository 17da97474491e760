"""The folder is the registry: every public file of a family package is one choice.

    stochx/attributions/smoothtaylor.py  ->  --method smoothtaylor:sigma=0.5,roots=150

Names, one-line help and fields are read from source with `ast`, so the command line knows
its choices without importing torch; `make` imports exactly one file.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from stochx.errors import UsageError

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


@dataclass(frozen=True)
class Field:
    """One hyperparameter as written in the source: `sigma: float = 0.15  # help`."""

    name: str
    type: str
    default: str | None
    help: str
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name as typed: `lambda_` is typed `lambda`."""
        return self.name.rstrip("_")

    def read(self, value: str, where: str) -> object:
        """The value of a typed text; floats may be fractions such as 8/255."""
        if self.choices and value not in self.choices:
            raise UsageError(f"`{where}` has no choice `{value}`", suggest(value, self.choices))
        try:
            return READERS[self.type](value)
        except (ValueError, KeyError, ZeroDivisionError, OverflowError):
            raise UsageError(f"`{where}` expects {ARTICLES[self.type]}, got `{value}`") from None


def _fraction(text: str) -> float:
    top, slash, bottom = text.partition("/")
    value = float(top) / float(bottom) if slash else float(top)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


READERS: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": _fraction,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "str": str,
}
ARTICLES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def suggest(word: str, known: Iterable[str]) -> str:
    """The hint for an unknown word: the closest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{close[0]}`?" if close else "choose from: " + ", ".join(known)


class Catalog(Generic[T]):
    """All entries of one family: `Catalog("method", "stochx.attributions")`."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package

    @cached_property
    def _files(self) -> dict[str, Path]:
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations
        (folder,) = map(Path, spec.submodule_search_locations)
        return {f.stem.replace("_", "-"): f for f in sorted(folder.glob("[!_]*.py"))}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return name.replace("_", "-") in self._files

    def _class(self, name: str) -> ast.ClassDef:
        return _entry(self._files[name])

    def class_name(self, name: str) -> str:
        """The name of the entry's dataclass: `smoothtaylor` is `SmoothTaylor`."""
        return self._class(name).name

    def docstring(self, name: str) -> str:
        """The entry's whole docstring."""
        return ast.get_docstring(self._class(name)) or ""

    def summary(self, name: str) -> str:
        """The first line of the entry's docstring."""
        return self.docstring(name).partition("\n")[0]

    def fields(self, name: str) -> list[Field]:
        """The hyperparameters of an entry, in order."""
        lines = self._files[name].read_text(encoding="utf-8").splitlines()
        return [
            _field(node, lines[(node.end_lineno or node.lineno) - 1])
            for node in self._class(name).body
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and "ClassVar" not in ast.unparse(node.annotation)
        ]

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
        if name not in self._files:
            raise UsageError(f"unknown {self.kind} `{name}`", suggest(name, self))
        return name, rest

    def load(self, name: str) -> type[T]:
        """The entry's class; imports its file (and with it torch) now."""
        module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        return cast(type[T], getattr(module, self.class_name(name)))

    def make(self, text: str) -> T:
        """The entry that `text` describes, with its values checked."""
        name, values = self.parse(text)
        try:
            return self.load(name)(**values)
        except ValueError as error:
            raise UsageError(f"`{text}`: {error}") from None


@cache
def _entry(file: Path) -> ast.ClassDef:
    classes = (c for c in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(c, ast.ClassDef))
    return next(c for c in classes if not c.name.startswith("_"))


def _field(node: ast.AnnAssign, line: str) -> Field:
    assert isinstance(node.target, ast.Name)
    kind, choices = ast.unparse(node.annotation), ()
    if isinstance(node.annotation, ast.Subscript) and ast.unparse(node.annotation.value) == "Literal":
        values = ast.literal_eval(node.annotation.slice)
        kind, choices = "str", values if isinstance(values, tuple) else (values,)
    default = None
    if node.value is not None:
        value = ast.literal_eval(node.value)
        default = str(value).lower() if isinstance(value, bool) else str(value)
    return Field(node.target.id, kind, default, line.partition("#")[2].strip(), choices)


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
