"""Find entries: in files of a family's package, entry points of installed packages, and files from outside."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stochx.declarations import check_declaration, class_variable, classes
from stochx.errors import InputError

if TYPE_CHECKING:
    import ast
    from importlib.metadata import EntryPoint


@dataclass(frozen=True)
class Entry:
    """Location of an entry: its file, its class (the first public one, unless named), the module to import.

    A file that was included has a module name of its own, under which it is loaded.
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
        name = self.declaration.name
        if self.included and self.module not in sys.modules:
            _execute(self.file, self.module)
        try:
            return getattr(importlib.import_module(self.module), name)
        except (ImportError, AttributeError) as error:
            if self.module.startswith("stochx."):
                raise
            raise InputError(f"`{self.module}:{name}` cannot be imported: {error}", "reinstall its package") from error


def _execute(file: Path, module: str) -> None:
    """Import a file under a name of its own, which dataclasses and pickles look up in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None and spec.loader is not None
    sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module])
    except Exception as error:
        del sys.modules[module]
        raise InputError(
            f"`{file}` cannot be imported: {type(error).__name__}: {error}", "fix the file, or install what it imports"
        ) from error


def built_in(package: str) -> dict[str, Entry]:
    """Return the entries of a family's package by name: one for each public file."""
    files = sorted(package_file(package).parent.glob("[!_]*.py"))
    return {file.stem.replace("_", "-"): Entry(file, f"{package}.{file.stem}") for file in files}


def package_file(package: str) -> Path:
    """Return the `__init__.py` of a family's package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin
    return Path(spec.origin)


def declared(file: Path) -> Iterator[tuple[str, str, Entry]]:
    """Yield family, name and entry of every class in a file with a line such as `entry: ClassVar = "attacks:mine"`.

    Raises `InputError` where there is none, or one that is not understood.
    """
    known = classes(file)
    entries = {cls: class_variable(declaration, "entry") for cls, declaration in known.items()}
    entries = {cls: text for cls, text in entries.items() if text is not None}
    if not entries:
        raise InputError(
            f"`{file}` declares no entry", 'write `entry: ClassVar = "attributions:mine"` in a frozen dataclass'
        )
    content = os.fsencode(file) + file.read_bytes()  # a file that was edited is another module
    module = f"stochx_included_{hashlib.blake2b(content, digest_size=4).hexdigest()}_{file.stem}"
    for cls, text in entries.items():
        family, _, name = str(text).partition(":")
        if not family or not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"`{file}`: `{cls}.entry` is `{text}`", 'write `entry: ClassVar = "attributions:mine"`')
        check_declaration(file, known[cls])
        yield family, name, Entry(file, module, cls, included=True)


def installed(package: str) -> Iterator[tuple[str, Entry | InputError]]:
    """Yield the entry points of installed packages in the group of a family, by name; a broken one is its error."""
    for point in _entry_points(package):
        try:
            yield point.name, _locate(point)
        except InputError as error:
            yield point.name, error


def _entry_points(group: str) -> list[EntryPoint]:
    from importlib import metadata  # takes 20 ms

    return list(metadata.entry_points(group=group))


def _locate(point: EntryPoint) -> Entry:
    """Find the source of an entry point without importing its package; raises `InputError` where there is none."""
    owner = f"`{point.dist.name}`" if point.dist else "its package"
    top, *rest = point.module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    places = [Path(folder).joinpath(*rest) for folder in (spec and spec.submodule_search_locations) or []]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    if not rest:
        files = [Path(spec.origin)] if spec and spec.origin else []
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(
            f"entry point `{point.name}` names `{point.value}`, which has no source", f"repair or remove {owner}"
        )
    entry = Entry(file, point.module, point.attr)
    check_declaration(file, entry.declaration)
    return entry
