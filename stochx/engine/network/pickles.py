"""Files of `torch.save`, TorchScript and `torch.export`, read inertly: tensors are rebuilt, and nothing else is.

Whatever else they name is a stand-in that does nothing.

`pickle_machine` runs the pickles in them, and `pickled_tensors` knows the names of tensors and mappings.
"""

from __future__ import annotations

import io
import mmap
import struct
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from stochx.engine.io.archives import check_names
from stochx.engine.network import exported as exports
from stochx.engine.network.pickle_machine import Content, Machine
from stochx.engine.network.pickled_tensors import Unreadable
from stochx.errors import InputError, first_line
from stochx.input_files import open_file

BYTES = 2**27  # of the pickle in an archive, without the tensors
ZIP, MAGIC, PROTOCOL = b"PK\x03\x04", 0x1950A86A20F9469CFC6C, 1001


def load(path: Path) -> Content:
    """Read a file of `torch.save`, of either format; raises `InputError`."""
    try:
        with open_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the standard library, about odd escapes in texts
            return _archive(file) if file.read(4) == ZIP else _legacy(file)
    except Unreadable as error:
        raise InputError(f"`{path}` cannot be read: {first_line(error)}", error.hint) from None
    except (
        ArithmeticError,
        AssertionError,
        EOFError,
        LookupError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        reason = first_line(error)[:120] or type(error).__name__
        raise InputError(
            f"`{path}` is not a weights file, or is damaged: {reason}", "copy or download it again"
        ) from None


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _archive(file: BinaryIO) -> Content:
    """Read a zip archive, whose tensors lie in members of their own."""
    size = _size(file)
    members = _members(file, size)
    exported = [name for name in members if name.count("/") == 3 and name.endswith(f"/{exports.CONFIG}")]
    if len(exported) == 1:
        folder = exported[0].rpartition("/")[0]
        table = exports.weights(
            _bytes(file, members[exported[0]]), lambda name: _bytes(file, members[f"{folder}/{name}"]), size
        )
        return Content(table, exports.NAME)
    roots = [name.removesuffix("data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("the archive holds no network of PyTorch")
    root = roots[0]
    if f"{root}byteorder" in members and _bytes(file, members[f"{root}byteorder"]) != b"little":
        raise Unreadable("it was written in another order of bytes", "save it again on a usual machine")
    if members[f"{root}data.pkl"].file_size > BYTES:
        raise ValueError("its pickle is too large")
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if key not in storages:
            if f"{root}data/{key}" not in members:
                raise ValueError(f"the storage `{key}` is missing")
            content = _bytes(file, members[f"{root}data/{key}"])
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"the storage `{key}` has {len(content)} bytes")
            storages[key] = _flat(content, dtype)
        return storages[key].view(dtype)

    program = io.BytesIO(_bytes(file, members[f"{root}data.pkl"]))
    return Machine(program, storage, size).content()


def _members(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name: none twice, none that share bytes."""
    with zipfile.ZipFile(file) as archive:
        listed = archive.infolist()
    check_names(info.filename for info in listed)
    extents = [info.file_size if info.compress_type == zipfile.ZIP_STORED else info.compress_size for info in listed]
    if sum(extents) > size or any(info.header_offset < 0 for info in listed):
        raise ValueError("the members of the archive do not lie within the file")
    return {info.filename: info for info in listed}


def _bytes(file: BinaryIO, member: zipfile.ZipInfo) -> bytearray:
    """Return a member as it is stored: PyTorch may leave its checksum out, and compresses code alone."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise Unreadable("its members are compressed", "save it with `torch.save`, and do not zip it again")
    file.seek(member.header_offset)
    header = struct.unpack("<4s22xHH", file.read(30))
    if header[0] != ZIP:
        raise ValueError("a member of the archive is not where it should be")
    file.seek(header[1] + header[2], io.SEEK_CUR)
    content = bytearray(member.file_size)
    if file.readinto(content) != len(content):  # type: ignore[attr-defined]  # of buffered files
        raise ValueError("a member of the archive is cut short")
    return content


def _flat(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _legacy(file: BinaryIO) -> Content:
    """Read the format before PyTorch 1.6: some pickles, then the bytes of the tensors.

    The pickle of the content runs twice, since what it says of the tensors is needed to find their bytes.
    """
    size = _size(file)
    if not size:
        raise ValueError("it is empty")
    file.seek(257)
    if file.read(5) == b"ustar":
        raise Unreadable("it has the format of PyTorch before 0.2", "load it with PyTorch, and save its `state_dict()`")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if _value(stream, size) != MAGIC:
            stream.seek(0)
            return Machine(stream, _no_storage, size).content()
        if _value(stream, size) != PROTOCOL:
            raise ValueError("unknown protocol")
        _value(stream, size)  # facts of the machine that wrote it
        start = stream.tell()
        dtypes: dict[str, tuple[torch.dtype, int]] = {}

        def note(dtype: torch.dtype, key: str, count: int) -> None:
            dtypes[key] = dtype, count

        Machine(stream, note, size).content()
        keys = _value(stream, size)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != dtypes.keys():
            raise ValueError("its list of storages is not that of its tensors")
        storages = {}
        for key in keys:
            dtype, count = dtypes[key]
            if struct.unpack("<q", stream.read(8)) != (count,):
                raise ValueError(f"the storage `{key}` has another size")
            content = bytearray(stream.read(count * dtype.itemsize))
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"the storage `{key}` is cut short")
            storages[key] = _flat(content, dtype)
        stream.seek(start)
        return Machine(stream, lambda dtype, key, count: storages[key].view(dtype), size).content()


def _no_storage(_dtype: torch.dtype, _key: str, _count: int) -> None:
    raise Unreadable("it is a pickle, but none of `torch.save`", "save the `state_dict()` with `torch.save`")


def _value(stream: mmap.mmap, size: int) -> object:
    return Machine(stream, lambda *_: None, size).content().value
