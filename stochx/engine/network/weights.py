"""Weights files: safe reading of common formats, and a self-describing format for writing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from stochx.engine.io.fingerprints import from_bytes, to_bytes
from stochx.engine.io.tensors import save_tensors
from stochx.engine.network import pickles, shards
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.contents import Part, parts
from stochx.engine.network.header import ClassifierHeader, Header, parse, serialise
from stochx.engine.network.stochastic import stored_names
from stochx.errors import InputError, first_line, reason, storable
from stochx.input_files import open_file
from stochx.settings.choices import WEIGHTS

TRAINED = "stochx.trained"  # entry of a file's metadata
SUBSTITUTES = {  # what files begin with that are left in the place of weights
    b"version https://git-lfs": ("a pointer of Git LFS", "`git lfs pull` fetches the file itself"),
    b"<!doctype html": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
}
NOISE = ".noise."  # part of the name of every tensor of a noise layer


@dataclass(frozen=True)
class Weights:
    """Candidates for the network's weights, the likeliest first, our header, and the file's other metadata.

    `trained` holds the fingerprints of training images, `network` the class of a network that was stored whole, and
    `files` are the files that were read.
    """

    parts: Sequence[Part]
    header: Header = field(default_factory=ClassifierHeader)
    metadata: Mapping[str, str] = field(default_factory=dict)
    trained: Tensor | None = None
    network: str = ""
    files: Sequence[Path] = ()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The likeliest weights by name, in float32 or float64."""
        return {name: full(tensor) for name, tensor in self.parts[0].tensors.items()}


def save(path: Path, model: Classifier) -> None:
    """Write `model.network`'s weights with a header that suffices to rebuild it.

    The weights of a stochastic network have the names of the plain one; tensors of its noise have `.noise.` in their
    names.
    """
    header = ClassifierHeader(
        arch=model.arch,
        classes=model.classes,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        resize=model.preparation.resize,
        crop=model.preparation.crop,
        resampling=model.preparation.resampling,
        noise=model.noise,
        noises=model.noises,
        origin=model.origin,
    )
    names = stored_names(model.network)
    tensors = {names[name]: value for name, value in model.network.state_dict().items()}
    write(path, tensors, header, model.trained)


def write(path: Path, tensors: Mapping[str, Tensor], header: Header, trained: Tensor | None = None) -> None:
    """Write named tensors, with `header` as the entry `stochx` of the file's metadata.

    Fingerprints of training images become an entry too, so that the tensors remain those of the network.
    """
    stored: dict[str, Tensor] = {}
    seen = set[int]()
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        copied = value.detach().clone() if place in seen else value.detach()  # tied weights: files hold no aliases
        stored[name] = copied.cpu().contiguous()
        seen.add(place)
    metadata = {"stochx": serialise(header)}
    if trained is not None:
        metadata[TRAINED] = base64.b64encode(to_bytes(trained)).decode()
    save_tensors(path, stored, metadata)


def load(path: Path) -> Weights:
    """Load the weights in a file, in those that an index names, or in a folder.

    Raises `InputError` for files that are damaged, or hold no state dict.
    """
    try:
        if path.is_dir():
            path = shards.weights_file(path, WEIGHTS)
        if storable(str(path)) != str(path):
            raise InputError(f"`{path}` cannot be opened: its name is not UTF-8", "rename it")
        weights = _sharded(path) if shards.is_index(path) else _one_file(path)
    except FileNotFoundError:
        raise InputError(f"no such file: `{path}`", "check the path") from None
    except OSError as error:
        why = reason(error).lower()
        raise InputError(f"`{path}` cannot be read: {why}", "check its path and its permissions") from None
    if not weights.parts:
        raise InputError(f"`{path}` contains no state dict", "save the network's `state_dict()`")
    check_finite(weights.parts[0].tensors, path)
    return weights


def _one_file(path: Path) -> Weights:
    _check_downloaded(path)
    return _safetensors(path) if _is_safetensors(path) else _pickle(path)


def _is_safetensors(path: Path) -> bool:
    """Return true for a file of safetensors, whose ninth byte opens a header, under any name."""
    start = _start(path, 9)
    pickled = start.startswith((b"PK", b"\x80"))
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not pickled)


def format_of(path: Path) -> str:
    """Return the format of a file of weights: `safetensors`, or the ending of its name."""
    ending = path.suffix.lstrip(".")
    if _is_safetensors(path):
        return "safetensors"
    return "pickle" if ending in ("", "safetensors") else ending


def _table(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file by their names, as they are."""
    _check_downloaded(path)
    if _is_safetensors(path):
        return _stored(path)[0]
    content = pickles.load(path).value
    entries = content.items() if isinstance(content, dict) else ()
    return {str(name): value for name, value in entries if isinstance(value, Tensor)}


def _check_downloaded(path: Path) -> None:
    """Raise `InputError` for what downloads leave in the place of a file."""
    start = _start(path, 64).lstrip().lower()
    for begin, (what, hint) in SUBSTITUTES.items():
        if start.startswith(begin):
            raise InputError(f"`{path}` is {what}, not a weights file", hint)


def _start(path: Path, count: int) -> bytes:
    with open_file(path) as file:
        return file.read(count)


def _sharded(index: Path) -> Weights:
    """Read the files that an index names, as one."""
    table = shards.table_of(index)
    shards.check_present(index, table)
    tensors = {file: _table(index.parent / file) for file in table}
    shards.check_table(index, table, tensors)
    whole = {name: tensor for part in tensors.values() for name, tensor in part.items()}
    return Weights(parts(whole), files=[index.parent / file for file in table])


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `InputError` for NaN and infinite weights."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not full(tensor).isfinite().all():
            raise InputError(f"`{path}`: the tensor `{name}` is not finite", "use an older checkpoint")


def full(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision at least."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


def _stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata in a file of safetensors."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise InputError(f"`{path}` is damaged: {first_line(error)[:120]}", "copy or download it again") from None


def _safetensors(path: Path) -> Weights:
    tensors, metadata = _stored(path)
    own = "stochx" in metadata
    header, trained = parse(metadata.pop("stochx", "{}"), path), metadata.pop(TRAINED, None)
    try:
        known = None if trained is None else from_bytes(base64.b64decode(trained, validate=True))
    except ValueError:
        raise InputError(f"the entry `{TRAINED}` of `{path}` is damaged", "copy or download it again") from None
    return Weights([Part("", tensors, {})] if own else parts(tensors), header, metadata, known, files=[path])


def _pickle(path: Path) -> Weights:
    content = pickles.load(path)
    found = parts(content.value)
    if content.network and not found:
        raise InputError(
            f"`{path}` holds a whole network, of the class `{content.network}`, without weights of its own",
            "save its `state_dict()`, or give your own code as `FILE.py:function`",
        )
    return Weights(found, network=content.network, files=[path])
