"""The weights in a program of `torch.export` (.pt2), read inertly: its graph is not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stochx.engine.network.pickled_tensors import Builder, Unreadable

CONFIG = "data/weights/model_weights_config.json"
NAME = "torch.export.ExportedProgram"
DTYPES = {  # by their number in the schema of `torch.export`
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


def weights(table: bytes | bytearray, read: Callable[[str], bytearray], size: int) -> dict[str, Tensor]:
    """Return the tensors that a program's table of weights lists.

    `read` gives a file beside it; all have at most `size` bytes. Raises `ValueError`, `TypeError` or `LookupError` for
    a table that is damaged.
    """
    builder, contents = Builder(lambda *_: None, size, lambda _: None), dict[str, bytearray]()
    found: dict[str, Tensor] = {}
    for name, entry in json.loads(table)["config"].items():
        file, meta = entry["path_name"], entry["tensor_meta"]
        if entry["use_pickle"] or meta["dtype"] not in DTYPES:
            raise Unreadable(f"its tensor `{name}` is no plain one", "save the network's `state_dict()` in float32")
        if file not in contents:
            contents[file] = read(file)
        content, dtype = contents[file], DTYPES[meta["dtype"]]
        whole = content[: len(content) // dtype.itemsize * dtype.itemsize]
        flat = torch.frombuffer(whole, dtype=dtype) if whole else torch.empty(0, dtype=dtype)
        offset, sizes, strides = meta["storage_offset"], meta["sizes"], meta["strides"]
        tensor = builder.tensor(flat, _number(offset), tuple(map(_number, sizes)), tuple(map(_number, strides)))
        assert isinstance(tensor, Tensor), "a storage that is read makes a tensor"
        found[name] = tensor
    return found


def _number(value: Any) -> Any:
    return value["as_int"]
