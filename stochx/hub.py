"""Networks of the Hugging Face hub, `hf:ORG/NAME[@REVISION][:FILE]`: from its cache, else fetched; never run."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stochx.engine.network import shards
from stochx.errors import InputError, UsageError, first_line, quoted
from stochx.folders import CONFIG, PREPROCESSOR
from stochx.installation import install_hint
from stochx.pretrained import answers
from stochx.settings.choices import WEIGHTS

PREFIX = "hf:"
FORM = re.compile(r"(?P<repo>[^@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<file>.+))?")

ABSENT = frozenset(
    f"{kind}NotFoundError" for kind in ("Repository", "Revision", "Entry", "RemoteEntry")
)  # of the hub's client


@dataclass(frozen=True)
class Fetched:
    """A folder or file of the hub in its cache, and the commit that it is of."""

    path: Path
    commit: str


@dataclass(frozen=True)
class _Name:
    """What is asked for."""

    text: str
    repo: str
    revision: str | None
    file: str


def fetched(text: str) -> Fetched:
    """Return the files that a name stands for: those in the hub's cache, else they are fetched.

    Raises `UsageError` for a name that the hub cannot have, and `InputError` within seconds if it cannot be reached.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        raise UsageError("`hf:` models need the package huggingface_hub", install_hint("hub")) from None
    name = _parsed(text)
    cached = _cached(name, hub)
    if cached is not None:
        return cached
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE or not answers(constants.ENDPOINT):
        raise InputError(
            f"`{text}` is not here, and there is no network to fetch it",
            f"bring it into `{constants.HF_HUB_CACHE}`, or give its folder with `--model FOLDER`",
        )
    with _as_input_errors(text), contextlib.redirect_stdout(sys.stderr):  # stdout carries results only
        return _downloaded(name, hub)


def _parsed(text: str) -> _Name:
    utils: Any = importlib.import_module("huggingface_hub.utils")
    found = FORM.fullmatch(text.removeprefix(PREFIX))
    file = found["file"] or "" if found else ""
    try:
        utils.validate_repo_id(found["repo"] if found else "")
        if ".." in PurePosixPath(file).parts or file.startswith("/") or "\\" in file:
            raise ValueError(file)
    except ValueError:
        raise UsageError(
            f"`{text}` is no name on the hub", "write `hf:ORG/NAME`, `hf:ORG/NAME@REVISION` or `hf:ORG/NAME:FILE`"
        ) from None
    assert found is not None, "no name has no repository"
    return _Name(text, found["repo"], found["revision"], file)


def _cached(name: _Name, hub: Any) -> Fetched | None:
    """Return what the cache holds of a network, if that is all of it."""

    def path(file: str) -> Path | None:
        found = hub.try_to_load_from_cache(name.repo, file, revision=name.revision)
        return Path(found) if isinstance(found, str) else None

    for file in (name.file,) if name.file else shards.USUAL:
        weights = path(file)
        if weights is None or (not name.file and path(CONFIG) is None):
            continue
        if shards.is_index(weights) and any(not (weights.parent / shard).is_file() for shard in shards.names(weights)):
            continue
        return _found(weights, name)
    return None


def _found(weights: Path, name: _Name) -> Fetched:
    """Return the folder of weights, or their file where that was asked for; a snapshot is named after its commit."""
    folder = weights.parents[len(PurePosixPath(name.file).parts) - 1] if name.file else weights.parent
    return Fetched(weights if name.file else folder, folder.name)


def _downloaded(name: _Name, hub: Any) -> Fetched:
    listed = hub.HfApi().list_repo_files(name.repo, revision=name.revision)
    file = name.file or _weights_of(listed, name.text)
    if file not in listed:
        raise InputError(f"`{name.text}`: there is no such file", f"it has {quoted(listed, 10)}")

    def download(wanted: str) -> Path:
        return Path(hub.hf_hub_download(name.repo, wanted, revision=name.revision))

    folder = PurePosixPath(file).parent
    for beside in (str(folder / CONFIG), str(folder / PREPROCESSOR)):
        if beside in listed:
            download(beside)
    weights = download(file)
    for shard in shards.names(weights) if shards.is_index(weights) else ():
        download(str(folder / shard))
    return _found(weights, name)


def _weights_of(listed: Sequence[str], text: str) -> str:
    """Return the weights among the files of a repository: of the usual name, or the only ones; safetensors first."""
    usual = [name for name in shards.USUAL if name in listed]
    safe = [name for name in listed if name.endswith(".safetensors")]
    others = [name for name in listed if PurePosixPath(name).suffix in WEIGHTS]
    for found in (usual[:1], safe, others):
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"`{text}` holds several weights files", f"choose one: `{text}:{found[0]}`")
    raise InputError(f"`{text}` holds no weights file", f"it has {quoted(listed, 10) or 'no files'}")


@contextlib.contextmanager
def _as_input_errors(text: str) -> Iterator[None]:
    """Turn what the hub's client raises, whose errors have no common base, into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        kind = type(error).__name__
        if kind in ABSENT:
            raise InputError(f"the hub has no `{text}`, or none that you may read", "check the name") from None
        if kind == "GatedRepoError":
            raise InputError(f"`{text}` needs its owner's consent", "ask for it there, and `hf auth login`") from None
        reason = first_line(error)[:120].strip().rstrip(".")
        raise InputError(f"`{text}` cannot be fetched: {reason}", "give its folder with `--model FOLDER`") from None
