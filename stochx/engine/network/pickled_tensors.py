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
    """What takes the place of an object of any class; it keeps nothing, and has no code."""

    def __init__(self, name: str) -> None:
        self.name = name


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
        return Stub(name.text)

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


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**62


def is_key(value: object) -> bool:
    """Return true for keys that are quick to compare and to show; others could be nested without end."""
    return type(value) is str or (type(value) is int and value.bit_length() <= 64)
