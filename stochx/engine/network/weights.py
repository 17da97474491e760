"""Weights files: safe reading of common formats, and a self-describing format for writing."""

from __future__ import annotations

import base64
import dataclasses
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stochx.engine.io.fingerprints import from_bytes, to_bytes
from stochx.engine.io.store import atomic
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.header import ClassifierHeader, Header, parse, serialise
from stochx.engine.network.stochastic import stored_names
from stochx.errors import InputError, storable

PICKLES = frozenset({".pt", ".pth", ".th", ".bin", ".tar", ".ckpt"})
SUFFIXES = PICKLES | {".safetensors", ".pt2"}
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
TRAINED = "stochx.trained"  # entry of a file's metadata
NOISE = ".noise."  # part of the name of every tensor of a noise layer


@dataclass(frozen=True)
class Weights:
    """Named tensors in float32 or float64, our header, fingerprints of training images, and the other metadata."""

    tensors: dict[str, Tensor]
    header: Header = field(default_factory=ClassifierHeader)
    metadata: Mapping[str, str] = field(default_factory=dict)
    trained: Tensor | None = None


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
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"stochx": serialise(header)}
    if trained is not None:
        metadata[TRAINED] = base64.b64encode(to_bytes(trained)).decode()
    with atomic(path) as temporary:
        save_file(stored, temporary, metadata=metadata)


def load(path: Path) -> Weights:
    """Load weights; raises `InputError` for files that are damaged, hold no state dict, or would run code."""
    try:
        if path.is_dir():
            raise InputError(f"`{path}` is a directory, not a weights file", "name a file in it")
        if path.suffix == ".pt2":
            raise InputError(
                f"`{path}` is an exported program, whose layers are not accessible",
                "save the network's `state_dict()` instead",
            )
        if storable(str(path)) != str(path):
            raise InputError(f"`{path}` cannot be opened: its name is not UTF-8", "rename it")
        weights = _safetensors(path) if path.suffix == ".safetensors" else Weights(_pickle(path))
    except FileNotFoundError:
        raise InputError(f"no such file: `{path}`", "check the path") from None
    except PermissionError:
        raise InputError(f"`{path}` cannot be read: permission denied", "check its permissions") from None
    tensors = _without_prefixes({name: _full(tensor) for name, tensor in weights.tensors.items()})
    if not tensors:
        raise InputError(f"`{path}` contains no weights", "save the network's `state_dict()`")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"`{path}`: the tensor `{name}` is not finite", "use an older checkpoint")
    return dataclasses.replace(weights, tensors=tensors)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            metadata = dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise InputError(f"`{path}` is damaged: {_first_line(error)}", "copy or download it again") from None
    header, trained = parse(metadata.pop("stochx", "{}"), path), metadata.pop(TRAINED, None)
    try:
        known = None if trained is None else from_bytes(base64.b64decode(trained, validate=True))
    except ValueError:
        raise InputError(f"the entry `{TRAINED}` of `{path}` is damaged", "copy or download it again") from None
    return Weights(tensors, header, metadata, known)


def _pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickle protocols, which either load or fail
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"`{path}` contains more than tensors and was not loaded, since a pickle can run code",
                "save only `model.state_dict()`, preferably as .safetensors",
            ) from None
        raise _damaged(path, error) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None
    return _unwrap(content, path)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"`{path}` is not a weights file, or is damaged: {_first_line(error)}", "copy or download it again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside the usual wrappers: lists of one, `state_dict` and the like."""
    if isinstance(content, list | tuple) and content and isinstance(content[0], Mapping):
        return _unwrap(content[0], path)
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        for name in WRAPPERS:
            if isinstance(content.get(name), Mapping | list | tuple):
                return _unwrap(content[name], path)
    raise InputError(f"`{path}` contains no state dict", "save the network's `state_dict()`")


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers such as DataParallel and torch.compile add to all names."""
    pattern = re.compile("|".join(map(re.escape, PREFIXES)))
    while tensors:
        prefix = pattern.match(next(iter(tensors)))
        if prefix is None or not all(name.startswith(prefix.group()) for name in tensors):
            return tensors
        tensors = {name[prefix.end() :]: value for name, value in tensors.items()}
    return tensors
