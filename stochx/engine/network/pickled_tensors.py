"""What the names in a file of `torch.save` mean: a handful stand for tensors and mappings, all others for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

SPARE = 2**26  # bytes that tensors may have beyond four times those of the file: they may share storages
LENGTH = 1000  # of a name, and of the axes of a tensor

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
ARRAYS = {  # of NumPy, by the code of its dtype
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
ARRAY = frozenset(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
BUFFER = frozenset(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))
SETS = frozenset(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("set", "frozenset"))
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


class Unreadable(ValueError):
    """A file that is whole, but not one that can be read; the hint says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, eq=False)
class Name:
    """A name in a pickle (`os.system`); nothing is imported."""

    text: str


class Stub:
    """What takes the place of an object of any class; it has no code, and keeps only its arguments' text.

    `place` is where the machine's memo holds it.
    """

    def __init__(self, name: str, text: str = "") -> None:
        self.name, self.text = name, text
        self.place: int | None = None


class Network(dict[str, Tensor]):
    """The tensors of a network that was stored whole, under the names that its `state_dict()` would give them."""


class Builder:
    """Build the tensors and mappings of one pickle from its names; `storage` gives the values, `size` is the file's.

    `spend` counts operations, and raises `ValueError` when there were too many.
    """

    def __init__(self, storage: Storages, size: int, spend: Callable[[int], None]) -> None:
        self.storage, self.spend, self.spare = storage, spend, 4 * size + SPARE

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
        if name.text in SETS and arguments and isinstance(arguments[0], list):
            return arguments[0]
        if name.text == "_codecs.encode" and len(arguments) == 2 and arguments[1] == "latin1":
            return _latin1(arguments[0])
        if name.text in BUFFER and len(arguments) == 4:
            values, dtype, shape, order = arguments
            array = self.array((1, shape, dtype, order == "F", values))
            return Stub(name.text) if array is None else array
        if name.text == "torch.storage._load_from_bytes":
            raise Unreadable("it is a pickle, but none of `torch.save`", "save the `state_dict()` with `torch.save`")
        text = arguments[0] if name.text == "numpy.dtype" and arguments else ""
        return Stub(name.text, text if isinstance(text, str) else "")

    def built(self, target: object, state: object) -> Tensor | Network | None:
        """Return the array or network that a state makes of what stands for it; None for all else."""
        if not isinstance(target, Stub):
            return None
        if target.name in ARRAY:
            return self.array(state)
        if target.name == "numpy.dtype" and isinstance(state, tuple) and ">" in state[1:2]:
            target.text = ""  # of another order of bytes
        if not isinstance(state, dict):
            return None
        if {"_parameters", "_modules"} <= state.keys():
            inner = [state["_parameters"], state.get("_buffers"), state["_modules"]]
            passing = state.get("_non_persistent_buffers_set")
            skipped = {*filter(is_key, passing)} if isinstance(passing, list) else set()
            return self.network(inner, skipped)
        return self.network([state], set()) if target.name.startswith("__torch__.") else None  # TorchScript

    def network(self, tables: list[object], skipped: set[object]) -> Network:
        """Return the tensors of a network and of the networks in it."""
        found = Network()
        for table in tables:
            for key, value in table.items() if isinstance(table, dict) else ():
                inner = value if isinstance(value, Network) else {"": value} if isinstance(value, Tensor) else {}
                self.spend(1 + len(inner))
                names = {f"{key}.{name}".rstrip("."): tensor for name, tensor in inner.items() if key not in skipped}
                found.update({name: tensor for name, tensor in names.items() if len(name) <= LENGTH})
        return found

    def array(self, state: object) -> Tensor | None:
        """Return an array of NumPy from its state: version, shape, dtype, order of the axes, bytes.

        None for one of texts or objects, or of another order of bytes.
        """
        if not isinstance(state, tuple) or len(state) != 5:
            return None
        _, shape, dtype, reverse, content = state
        kind = ARRAYS.get(dtype.text) if isinstance(dtype, Stub) and dtype.name == "numpy.dtype" else None
        if kind is None or not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
            return None
        if not all(map(_is_count, shape)) or math.prod(shape) * kind.itemsize != len(content) or len(shape) > LENGTH:
            raise ValueError("an array has an impossible shape")
        self.spare -= len(content)
        if self.spare < 0:
            raise ValueError("its arrays are larger than what the file holds")
        flat = torch.frombuffer(bytearray(content), dtype=kind) if content else torch.empty(0, dtype=kind)
        return flat.view(shape[::-1]).permute(*range(len(shape))[::-1]) if reverse else flat.view(shape)

    def mapping(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Return the mapping of pairs, or an empty one: `defaultdict` has a function instead."""
        found = arguments[0] if arguments else ()
        pairs = found.items() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ()
        self.spend(len(pairs))
        return {key: value for key, value in pairs if is_key(key)}

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


def _latin1(text: object) -> bytes | Stub:
    """Return the bytes that protocol 2 writes as text."""
    return text.encode("latin1") if isinstance(text, str) else Stub("bytes")


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**62


def is_key(value: object) -> bool:
    """Return true for keys that are quick to compare and to show; others could be nested without end."""
    return type(value) is str or (type(value) is int and value.bit_length() <= 64)
