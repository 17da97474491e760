"""The contents of a folder or zip: images, and other files, which are not left out in silence."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stochx.engine.io.images import SUFFIXES
from stochx.errors import InputError, printable

KINDS = 4  # suffixes in a message
MAX_VISITS = 64  # of one folder under different names, as links to links multiply
BOOKKEEPING = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}  # of file managers

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Listing:
    """Relative paths below a root, sorted, hidden ones left out: images, other files, and the folders of either."""

    images: tuple[str, ...]
    others: tuple[str, ...]
    folders: tuple[str, ...]

    def warn_of_others(self, where: str) -> None:
        """Say how many files are no images, of which kinds; `where` names the root."""
        if not self.others:
            return
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in self.others).most_common()
        listed = ", ".join(f"{printable(kind)}: {count}" for kind, count in kinds[:KINDS])
        log.warning(
            "`%s`: leaving out files that are no images: %d (%s%s), such as `%s`",
            where,
            len(self.others),
            listed,
            ", ..." if len(kinds) > KINDS else "",
            printable(self.others[0]),
        )

    def check_images(self, where: str, hint: str) -> None:
        """Raise `InputError` if there is no image, after a warning of what there is."""
        if not self.images:
            self.warn_of_others(where)
            raise InputError(f"no images in `{where}`", hint)


def listing(files: Iterable[str], folders: Iterable[str] = ()) -> Listing:
    """Sort out relative paths of files, and of folders, which may be empty."""
    seen = sorted(name for name in files if not is_hidden(name))
    images = [name for name in seen if PurePosixPath(name).suffix.lower() in SUFFIXES]
    below = {str(parent) for name in seen for parent in PurePosixPath(name).parents}
    below |= {name for name in folders if not is_hidden(name)}
    return Listing(tuple(images), tuple(sorted({*seen} - {*images})), tuple(sorted(below - {".", "/"})))


def is_hidden(name: str) -> bool:
    """Return true for a path with a part that begins with a dot, or that a file manager adds to folders and zips."""
    return any(part.startswith(".") or part.casefold() in BOOKKEEPING for part in PurePosixPath(name).parts)


def walk(root: Path) -> Listing:
    """List what lies at any depth below a folder; follows links, but not to a folder that they lie in.

    Raises `InputError` for a folder that is absent, cannot be read, has no images or is linked to over 64 times.
    """
    if not root.exists():
        raise InputError(f"no such folder: `{printable(root)}`", "check the path")
    if not root.is_dir():
        raise InputError(f"`{printable(root)}` is not a folder", "name the folder that contains the images")

    def refuse(error: OSError) -> None:
        raise InputError(f"`{printable(error.filename)}` cannot be read: {error.strerror}", "check its permissions")

    files, folders, visits = list[str](), list[str](), Counter[tuple[int, int]]()
    around = {root: frozenset[tuple[int, int]]()}  # of each folder to come, those that it lies in
    for folder, below, names in os.walk(root, onerror=refuse, followlinks=True):
        status, outer = Path(folder).stat(), around.pop(Path(folder))
        this = status.st_dev, status.st_ino
        if this in outer:
            below.clear()
            continue
        visits[this] += 1
        if visits[this] > MAX_VISITS:
            raise InputError(f"`{printable(folder)}` is linked to over {MAX_VISITS} times", "remove some of the links")
        below[:] = sorted(name for name in below if not is_hidden(name))
        around |= dict.fromkeys((Path(folder, name) for name in below), outer | {this})
        folders.append(Path(folder).relative_to(root).as_posix())
        files += [Path(folder, name).relative_to(root).as_posix() for name in names]
    found = listing(files, folders)
    found.check_images(printable(root), "expected files ending in " + ", ".join(sorted(SUFFIXES)))
    return found
