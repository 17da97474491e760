"""Files that hold many images each: which of them belong to a split, and what all readers of such files share."""

from __future__ import annotations

import glob
import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stochx.datasets import Split
from stochx.datasets._tree import SPLIT_NAMES
from stochx.errors import InputError, first_line, printable
from stochx.input_files import open_file
from stochx.installation import install_hint

MAX_IMAGES = 20_000_000  # more are a damaged header, or need files of their own
MAX_CLASSES = 100_000

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Shards:
    """Files below a root: those of a split, and those of every split, in which classes are numbered together."""

    root: Path
    chosen: tuple[Path, ...]
    files: tuple[Path, ...]

    def of(self, rule: str) -> tuple[Path, ...]:
        """Return the files to read: with a `rule` other than `auto` splits are made of classes, not of files."""
        return self.chosen if rule == "auto" else self.files

    def name(self, file: Path) -> str:
        """Return a file's path below the root."""
        return file.relative_to(self.root).as_posix()


def shards(text: str, suffix: str, split: Split) -> Shards:
    """Find the files of a split: `text` is a file, a folder, or a pattern such as `data/train-*.parquet`.

    Words of the files' names are splits where they name two, as in `train-00000-of-00002`; `val` and `test` stand for
    one another. Otherwise every split has all files. Raises `InputError` if no file matches.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        root, files = path, [file for file in path.rglob(f"*{suffix}") if not _is_hidden(file, path)]
    elif not path.exists() and glob.has_magic(text):
        root, files = _matching(path)
    else:
        root, files = path.parent, [path]
    files = sorted(file for file in files if not file.is_dir())
    if not files:
        raise InputError(f"`{printable(text)}` has no files `*{suffix}`", "check the path")
    for file in files:  # errors that explain a bad path
        open_file(file).close()
    named = {file: _split_of(file.relative_to(root)) for file in files}
    known = {name for name in named.values() if name is not None}
    if len(known) < 2:
        return Shards(root, tuple(files), tuple(files))
    loose = [file for file in files if named[file] is None]
    if loose:
        log.warning("`%s`: ignoring files of no split: %d, such as `%s`", text, len(loose), printable(loose[0].name))
    wanted = split if split in known or split == "train" else "val" if split == "test" else "test"
    chosen = tuple(file for file in files if named[file] == wanted)
    if not chosen:
        raise InputError(f"`{printable(text)}` has no files of the split {split}", f"name one `{split}-0{suffix}`")
    return Shards(root, chosen, tuple(file for file in files if named[file] is not None))


def numbered(values: Sequence[int | str], where: str) -> tuple[list[int], tuple[str, ...]]:
    """Return class indices and names for labels: numbers from 0, or names, which are sorted.

    Raises `InputError`, which names the place `where`, for labels that are neither.
    """
    numbers = [value for value in values if isinstance(value, int)]
    if not numbers:
        names = sorted({str(value) for value in values})
        place = {name: i for i, name in enumerate(names)}
        return [place[str(value)] for value in values], tuple(names)
    if len(numbers) < len(values):
        raise InputError(f"`{where}` has numbers and names as labels", "use one of them")
    if not 0 <= min(numbers) <= max(numbers) < MAX_CLASSES:
        raise InputError(
            f"`{where}`: labels must lie in 0 to {MAX_CLASSES - 1}, got {min(numbers)} to {max(numbers)}",
            "number the classes from 0",
        )
    return numbers, tuple(map(str, range(max(numbers) + 1)))


def check_count(count: int, where: str) -> None:
    """Raise `InputError` for no images, and for more than any list of them can hold."""
    if count == 0:
        raise InputError(f"`{where}` contains no images", "check the path")
    if count > MAX_IMAGES:
        raise InputError(f"`{where}` has {count} images, more than {MAX_IMAGES}", "it may be damaged; name fewer files")


def required(module: str, file: Path, extra: str) -> Any:
    """Import a module of an extra, which is needed to read a file; raises `InputError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(f"reading `{printable(file)}` needs the package {package}", install_hint(extra)) from None


def damaged(where: str, error: Exception, hint: str = "download it again") -> InputError:
    """Return the error for a file whose reader failed; malicious bytes make readers raise almost anything."""
    return InputError(f"`{where}` is damaged: {printable(first_line(error))}", hint)


def _split_of(name: Path) -> Split | None:
    """Return the split that the first word of a path names that is one."""
    words = re.findall("[a-z]+", name.with_suffix("").as_posix().casefold())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _matching(pattern: Path) -> tuple[Path, list[Path]]:
    """Return the folder above the first part of a pattern that is not a plain name, and the paths that match."""
    plain = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    root = Path(*pattern.parts[:plain])
    try:
        return root, [*root.glob(str(Path(*pattern.parts[plain:])))]
    except ValueError as error:
        raise InputError(f"`{printable(pattern)}` is not a pattern: {error}", "use `*` and `?`") from None


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)
