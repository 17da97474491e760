"""Files of `torch.save`, read inertly: tensors are rebuilt, whatever else they name is a stand-in that does nothing.

A pickle is a program. Here it runs on a machine of our own, which imports no name and makes no call: only the handful
of names that stand for tensors and mappings have a meaning, and that meaning is written in this file.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import torch
from torch import Tensor

from stochx.errors import InputError, first_line

OPERATIONS = 3_000_000  # of a pickle; a network of 3,000 tensors has 0.1 million
BYTES = 2**27  # of the pickle in an archive, without the tensors
NODES = 100_000  # of the content beyond twice the operations, counted once a path to it
LEVELS = 8  # of mappings and lists that are counted
SPARE = 2**26  # bytes that tensors may have beyond four times those of the file: they may share storages
LENGTH = 1000  # of a name, and of the axes of a tensor
ZIP, MAGIC, PROTOCOL = b"PK\x03\x04", 0x1950A86A20F9469CFC6C, 1001

Storages = Callable[[torch.dtype, str, int], Tensor | None]

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
MAPPINGS = frozenset({"collections.OrderedDict", "collections.defaultdict", "__builtin__.dict", "builtins.dict"})
UNREADABLE = {
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "empty (`meta`)",
}
PLAIN = frozenset({*DTYPES.values(), torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2})
BY_NAME = {str(dtype): dtype for dtype in PLAIN}  # as pickles name them: `torch.uint16`
VALUES = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)  # codes that carry one


class Content(NamedTuple):
    """What a file holds, and the class of the network in it whose code would be needed, if there is one."""

    value: object
    network: str


class Unreadable(ValueError):
    """A file that is whole, but not one that can be read; the hint says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def load(path: Path) -> Content:
    """Read a file of `torch.save`, of either format; raises `InputError`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unreadable("it is no regular file", "copy it to one")
        with path.open("rb") as file, warnings.catch_warnings():
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
    """Return the members of an archive by name: none twice, none compressed, none that share bytes."""
    with zipfile.ZipFile(file) as archive:
        listed = archive.infolist()
    members = {info.filename: info for info in listed}
    if len(members) != len(listed):
        raise ValueError("the archive holds two members of one name")
    if any(name.endswith("/constants.pkl") for name in members):
        raise Unreadable("it is TorchScript, whose layers are not accessible", "save the network's `state_dict()`")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in listed):
        raise Unreadable("its members are compressed", "save it with `torch.save`, and do not zip it again")
    if sum(info.file_size for info in listed) > size or any(info.header_offset < 0 for info in listed):
        raise ValueError("the members of the archive do not lie within the file")
    return members


def _bytes(file: BinaryIO, member: zipfile.ZipInfo) -> bytearray:
    """Return a member as it is stored: PyTorch may leave its checksum out."""
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
            raise Unreadable("it is a pickle, but none of `torch.save`", "save the `state_dict()` with `torch.save`")
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


def _value(stream: mmap.mmap, size: int) -> object:
    return Machine(stream, lambda *_: None, size).content().value


@dataclass(frozen=True, eq=False)
class Name:
    """A name in a pickle (`os.system`); nothing is imported."""

    text: str


class Stub:
    """What takes the place of an object of any class; it keeps nothing, and has no code."""

    def __init__(self, name: str) -> None:
        self.name = name


class Machine:
    """Run one pickle of a stream."""

    def __init__(self, stream: Any, storage: Storages, size: int) -> None:
        self.stream, self.storage, self.spare = stream, storage, 4 * size + SPARE
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below marks
        self.memo: dict[int, Any] = {}
        self.left, self.network = OPERATIONS, ""

    def content(self) -> Content:
        """Return what the pickle builds."""
        operations = {name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")}
        for code, argument, _ in pickletools.genops(self.stream):
            self.spend(1)
            if code.name in VALUES:
                self.stack.append(argument)
            elif code.name in operations:
                operations[code.name](argument)
            elif code.name != "STOP":
                raise ValueError(f"its pickle uses `{code.name}`, which is not for files")
        value = self.stack.pop()
        _check_extent(value, NODES + 2 * (OPERATIONS - self.left))
        return Content(value, self.network)

    def spend(self, operations: int) -> None:
        """Count operations; raises `ValueError` when there were too many."""
        self.left -= operations
        if self.left < 0:
            raise ValueError("its pickle is too long")

    def marked(self) -> list[Any]:
        """Return what was pushed since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def do_PROTO(self, _: object) -> None: ...

    do_FRAME = do_PROTO

    def do_MARK(self, _: object) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def do_POP(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def do_POP_MARK(self, _: object) -> None:
        self.marked()

    def do_DUP(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def do_NONE(self, _: object) -> None:
        self.stack.append(None)

    def do_NEWTRUE(self, _: object) -> None:
        self.stack.append(True)

    def do_NEWFALSE(self, _: object) -> None:
        self.stack.append(False)

    def do_EMPTY_LIST(self, _: object) -> None:
        self.stack.append([])

    def do_EMPTY_TUPLE(self, _: object) -> None:
        self.stack.append(())

    def do_EMPTY_DICT(self, _: object) -> None:
        self.stack.append({})

    def do_EMPTY_SET(self, _: object) -> None:
        self.stack.append(Stub("set"))

    def do_LIST(self, _: object) -> None:
        items = self.marked()
        self.stack.append(items)

    def do_TUPLE(self, _: object) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def do_DICT(self, _: object) -> None:
        items = self.marked()
        self.stack.append({})
        self.put(items)

    def do_FROZENSET(self, _: object) -> None:
        self.marked()
        self.stack.append(Stub("frozenset"))

    def do_TUPLE1(self, _: object) -> None:
        self.stack.append((self.stack.pop(),))

    def do_TUPLE2(self, _: object) -> None:
        second, first = self.stack.pop(), self.stack.pop()
        self.stack.append((first, second))

    def do_TUPLE3(self, _: object) -> None:
        third, second, first = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append((first, second, third))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def do_APPEND(self, _: object) -> None:
        self.extend([self.stack.pop()])

    def do_APPENDS(self, _: object) -> None:
        self.extend(self.marked())

    do_ADDITEMS = do_APPENDS

    def put(self, items: list[Any]) -> None:
        """Put keys and values into a mapping; keys that are no names or small numbers are of no network."""
        if type(self.stack[-1]) is dict:
            pairs = zip(items[::2], items[1::2], strict=True)
            self.stack[-1].update({key: value for key, value in pairs if _is_key(key)})

    def do_SETITEM(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def do_SETITEMS(self, _: object) -> None:
        self.put(self.marked())

    def do_GET(self, place: int) -> None:
        self.stack.append(self.memo[place])

    do_BINGET = do_LONG_BINGET = do_GET

    def do_PUT(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    do_BINPUT = do_LONG_BINPUT = do_PUT

    def do_MEMOIZE(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_GLOBAL(self, names: str) -> None:
        self.stack.append(_name(*names.split(" ", 1)))

    def do_STACK_GLOBAL(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_name(module, name))

    def do_INST(self, names: str) -> None:
        arguments = self.marked()
        self.stack.append(self.made(_name(*names.split(" ", 1)), tuple(arguments)))

    def do_OBJ(self, _: object) -> None:
        made, *arguments = self.marked()
        self.stack.append(self.made(made, tuple(arguments)))

    def do_NEWOBJ_EX(self, _: object) -> None:
        self.stack.pop()
        self.do_REDUCE(None)

    def do_REDUCE(self, _: object) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        self.stack.append(self.made(made, arguments))

    do_NEWOBJ = do_REDUCE

    def do_BUILD(self, _: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub) and isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys():
            self.network = target.name  # that of the outermost one comes last

    def do_BINPERSID(self, _: object) -> None:
        place = self.stack.pop()
        if not isinstance(place, tuple) or len(place) not in (4, 5, 6) or any(item is not None for item in place[5:]):
            raise ValueError("unknown kind of storage")
        if place[0] == "module" and len(place) == 4:  # a class of layers, with its source
            self.stack.append(place[1])
        else:
            self.stack.append(self.stored(*place[:5]))

    def stored(self, kind: object, made: object, key: object, _device: object, count: object) -> object:
        """Return the storage that a pickle refers to."""
        if kind != "storage" or not isinstance(made, Name) or not isinstance(key, str) or len(key) > LENGTH:
            raise ValueError("unknown kind of storage")
        if not _is_count(count):
            raise ValueError("a storage has no size")
        name = made.text.rpartition(".")[2]
        if not made.text.startswith("torch.") or name not in DTYPES:
            raise Unreadable(f"it holds tensors of the kind `{made.text}`", "save its `state_dict()` in float32")
        return self.storage(DTYPES[name], key, count)

    def made(self, name: object, arguments: object) -> object:
        """Return what calling a name would give, where it is a tensor or a mapping; no call is made."""
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            return Stub("an object")
        if name.text in UNREADABLE:
            raise Unreadable(f"it holds a tensor that is {UNREADABLE[name.text]}", "save it as a plain one, in float32")
        if name.text in MAPPINGS:
            return self.mapping(arguments)
        if name.text == "torch.Size" and arguments and isinstance(arguments[0], tuple):
            return arguments[0]
        if name.text == "torch._utils._rebuild_from_type_v2":
            name, kind, arguments, _ = arguments
            plain = isinstance(kind, Name) and kind.text in ("torch.Tensor", "torch.nn.parameter.Parameter")
            if not plain or not isinstance(name, Name) or not isinstance(arguments, tuple):
                return Stub("a tensor of another kind")
        if name.text in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return arguments[0]
        if name.text in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return self.tensor(*arguments)
        if name.text == "torch._utils._rebuild_tensor_v3":
            return self.tensor_of_dtype(*arguments)
        return Stub(name.text)

    def mapping(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Return the mapping of pairs, or an empty one: `defaultdict` has a function instead."""
        found = arguments[0] if arguments else ()
        pairs = found.items() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ()
        self.spend(len(pairs))
        return {key: value for key, value in pairs if _is_key(key)}

    def tensor_of_dtype(
        self,
        storage: object,
        offset: Any,
        size: object,
        stride: object,
        _grad: object,
        _hooks: object,
        dtype: object,
        bits: object = None,
    ) -> object:
        """Return a tensor whose storage has no dtype of its own."""
        if not isinstance(dtype, Name) or dtype.text not in BY_NAME:
            raise Unreadable("it holds tensors of an unknown dtype", "save its `state_dict()` in float32")
        values = storage.view(BY_NAME[dtype.text]) if isinstance(storage, Tensor) else storage
        return self.tensor(values, offset, size, stride, bits=bits)

    def tensor(
        self,
        storage: object,
        offset: Any,
        size: object,
        stride: object,
        _grad: object = None,
        _hooks: object = None,
        bits: object = None,
    ) -> object:
        """Return a view of a storage, which lies within it."""
        if storage is None or bits:  # not read yet; conjugated
            return Stub("a tensor")
        if not isinstance(storage, Tensor) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise ValueError("a tensor has no storage or shape")
        if len(size) > LENGTH or not all(map(_is_count, (offset, *size, *stride))) or len(size) != len(stride):
            raise ValueError("a tensor has an impossible shape")
        self.spare -= math.prod(max(1, n) for n in size) * storage.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if self.spare < 0 or (0 not in size and last >= storage.numel()):
            raise ValueError("a tensor is larger than what the file holds")
        return storage.as_strided(size, stride, offset)


def _name(module: object, name: object) -> Name:
    if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > LENGTH:
        raise ValueError("a name in its pickle is none")
    return Name(f"{module}.{name}")


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**62


def _is_key(value: object) -> bool:
    """Return true for keys that are quick to compare and to show; others could be nested without end."""
    return type(value) is str or (type(value) is int and value.bit_length() <= 64)


def _check_extent(content: object, most: int) -> None:
    """Raise `ValueError` where mappings and lists hold one another so often that a walk through them would not end."""
    left, level = most, [content]
    for _ in range(LEVELS):
        below: list[object] = []
        for node in level:
            children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
            left -= len(children)
            if left < 0:
                raise ValueError("its content refers to itself too often")
            below.extend(child for child in children if isinstance(child, dict | list | tuple))
        level = below
