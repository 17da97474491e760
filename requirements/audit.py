"""Compare the installed packages with the lock, without the network: versions, origins, and the hash of every file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import Distribution, FileHash, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).with_name("dev.txt")
OURS = {"pip", "stochx-vision"}  # what installs, and what all this is installed for


def locked(text: str) -> list[tuple[Requirement, list[str]]]:
    """Return the entries of a lock: a package with its version and marker, and the hashes of its files."""
    entries = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    parts = [entry.split("--hash=") for entry in entries]
    return [(Requirement(pin.strip()), [digest.strip() for digest in hashes]) for pin, *hashes in parts]


def faults(lock: Sequence[tuple[Requirement, list[str]]], installed: Sequence[Distribution]) -> list[str]:
    """Return what differs between a lock and what is installed, a sentence each."""
    here = [requirement for requirement, _ in lock if requirement.marker is None or requirement.marker.evaluate()]
    pins = {canonicalize_name(requirement.name): requirement.specifier for requirement in here}
    packages = {canonicalize_name(package.name): package for package in installed}
    found = [f"{name} is in the lock, but not installed" for name in pins.keys() - packages.keys()]
    for name in packages.keys() - OURS:
        if name not in pins:
            found.append(f"{name} is installed, but not in the lock")
        elif packages[name].version not in pins[name]:
            found.append(f"{name} is {packages[name].version}, and the lock says {pins[name]}")
        if origin := packages[name].read_text("direct_url.json"):
            found.append(f"{name} does not come from the index, but from {json.loads(origin)['url']}")
    return sorted(found) + [f"{path} is not as it was installed" for path in changed(installed)]


def changed(installed: Sequence[Distribution]) -> list[Path]:
    """Return the files that are gone, or have not the hash that a package brought them with; two may bring the same."""
    recorded = defaultdict[Path, list[FileHash]](list)
    for package in installed:
        for file in package.files or []:
            if file.hash is not None:  # RECORD itself has none
                recorded[Path(str(file.locate()))].append(file.hash)
    return [path for path, hashes in recorded.items() if not any(_holds(path, digest) for digest in hashes)]


def _holds(path: Path, expected: FileHash) -> bool:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, expected.mode).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == expected.value


if __name__ == "__main__":
    differing = faults(locked(LOCK.read_text(encoding="utf-8")), [*distributions()])
    print("\n".join(differing) or "everything that is installed is what the lock names")
    sys.exit(bool(differing))
