"""Read the declaration of an entry, a frozen dataclass in a file, with `ast`, so that nothing heavy is imported."""

from __future__ import annotations

import ast
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stochx.errors import InputError, SettingError, UsageError, suggest
from stochx.input_files import read_text


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
            raise UsageError(f"`{where}` does not accept `{value}`", suggest(value, self.choices))
        try:
            return READERS[self.type](value)
        except (ValueError, KeyError, ZeroDivisionError, OverflowError):
            raise UsageError(f"`{where}` expects {ARTICLES[self.type]}, got `{value}`") from None

    def check(self, value: object, where: str) -> None:
        """Raise `SettingError` for a value that is not of the field's type, or none of its choices."""
        kind = KINDS[self.type]
        fits = isinstance(value, kind) and (self.type == "bool" or not isinstance(value, bool))
        if self.choices and value not in self.choices:
            raise SettingError(f"`{where}` does not accept `{value}`", suggest(str(value), self.choices))
        if not fits or (isinstance(value, numbers.Real) and not is_finite(value)):
            raise SettingError(f"`{where}` expects {ARTICLES[self.type]}, got `{value!r:.40}`")


def is_finite(value: numbers.Real | float) -> bool:
    """Return true for a number that a machine holds: a finite one, a whole one of at most 64 bits."""
    try:
        return math.isfinite(value) and not (isinstance(value, int) and abs(value) >= 2**63)
    except OverflowError:  # a whole number above the largest floating-point one
        return False


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
KINDS: dict[str, type] = {"int": numbers.Integral, "float": numbers.Real, "bool": bool, "str": str}
ARTICLES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def classes(file: Path) -> dict[str, ast.ClassDef]:
    """Return the public classes of a file, by name; raises `InputError` for a file that is not Python."""
    return {name: cls for name, cls in _all_classes(file).items() if not name.startswith("_")}


def _all_classes(file: Path) -> dict[str, ast.ClassDef]:
    try:
        return _classes(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"cannot read `{file}`: {error.strerror}", "check the path") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(f"`{file}` is not valid Python: {error}", "fix it, or name another file") from None


@cache
def _classes(file: Path, changed: int) -> dict[str, ast.ClassDef]:
    """Parse a file once, and again when it has changed."""
    tree = ast.parse(read_text(file, "fix it, or name another file"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def fields(file: Path, declaration: ast.ClassDef) -> list[Field]:
    """Return the hyperparameters of an entry, in order; raises `InputError` for one that cannot be typed."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [
        _field(node, lines[(node.end_lineno or node.lineno) - 1], f"{file}:{node.lineno}")
        for node in declaration.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and "ClassVar" not in ast.unparse(node.annotation)
    ]


def reexports(file: Path) -> dict[str, str]:
    """Return the names that a package hands on, with the module of each: its lines `from module import X as X`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }


def class_variable(declaration: ast.ClassDef, name: str) -> object:
    """Return the literal that a class gives one of its variables; None where it has no such line.

    Raises `InputError` for a value that is computed.
    """
    for node in declaration.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            try:
                return None if node.value is None else ast.literal_eval(node.value)
            except ValueError:
                raise InputError(f"`{declaration.name}.{name}` is not a literal", "write its value out") from None
    return None


def check_declaration(file: Path, declaration: ast.ClassDef) -> None:
    """Raise `InputError`, with the line to mend, for a class that cannot be an entry."""
    where = f"{file}:{declaration.lineno}"
    name = declaration.name
    if not any(map(_makes_frozen, declaration.decorator_list)):
        raise InputError(f"`{where}`: `{name}` is not a frozen dataclass", "write `@dataclass(frozen=True)` above it")
    known = _all_classes(file)
    for base in map(ast.unparse, declaration.bases):
        if base in known and fields(file, known[base]):
            raise InputError(f"`{where}`: `{name}` inherits fields from `{base}`", "write them out in the class itself")
    if any(field.name == "entry" for field in fields(file, declaration)):
        raise InputError(f"`{where}`: `{name}.entry` is a field", "annotate it as `ClassVar`")


def _makes_frozen(decorator: ast.expr) -> bool:
    """Return true for `@dataclass(..., frozen=True, ...)`."""
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func).split(".")[-1] != "dataclass":
        return False
    return any(keyword.arg == "frozen" and ast.unparse(keyword.value) == "True" for keyword in decorator.keywords)


def _field(node: ast.AnnAssign, line: str, where: str) -> Field:
    assert isinstance(node.target, ast.Name)
    name, kind = node.target.id, ast.unparse(node.annotation)
    choices: tuple[str, ...] = ()
    if isinstance(node.annotation, ast.Subscript) and ast.unparse(node.annotation.value).endswith("Literal"):
        choices = _choices(node.annotation.slice)
        kind = "str" if choices else kind
    if kind not in READERS:
        raise InputError(
            f"`{where}`: `{name}` is of type `{kind}`", "use int, float, bool, str, or a Literal of texts on the spot"
        )
    default = None
    if node.value is not None:
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            raise InputError(f"`{where}`: the default of `{name}` is not a literal", "write its value out") from None
        default = str(value).lower() if isinstance(value, bool) else str(value)
    return Field(
        name, kind, default, line.encode()[node.end_col_offset or 0 :].decode().partition("#")[2].strip(), choices
    )


def _choices(values: ast.expr) -> tuple[str, ...]:
    """Return the texts of a `Literal`; none where it holds anything else."""
    parts = values.elts if isinstance(values, ast.Tuple) else [values]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return tuple(texts) if len(texts) == len(parts) else ()
