"""Weights files with lying headers, lying tensors and damaged bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torture.inputs import odd
from torture.inputs.command import command

from stochx.architectures import architecture
from stochx.engine.network.weights import save
from stochx.fewshot_networks import make_fewshot, save_fewshot

HEADS = ("relation:hidden=3", "prototypical", "gnn")
TRANSFORMERS = {
    "hidden_sizes": [8, 8],
    "depths": [1, 1],
    "embedding_size": 8,
    "layer_type": "basic",
    "id2label": {"0": "a"},
}
PREPARED = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}, "do_normalize": True}
DTYPES = ("F64", "F16", "BF16", "F8_E4M3", "F4", "I8", "I64", "U8", "U16", "U64", "BOOL", "C64", "X")
OURS = "stochx"
FACTS = {"guide": "none", "classes": {"cub": ["wren", "tern"]}}


@cache
def files() -> Mapping[str, bytes]:
    """Return small networks in each of the forms that are read."""
    with TemporaryDirectory() as folder:
        file, found = Path(folder, "file"), {}
        model = architecture("convnet:width=2", 2).build()
        model.classes = ("cat", "dog")
        save(file, model)
        found["classifier"] = file.read_bytes()
        for head in HEADS:
            save_fewshot(file, make_fewshot("conv4:width=4", head, 2, 16, 0, FACTS))
            found[f"few-shot {head}"] = file.read_bytes()
        state = {"state_dict": model.network.state_dict(), "epoch": 3}
        network, example = model.network.eval(), torch.zeros(1, 3, 32, 32)
        torch.export.save(torch.export.export(network, (example,)), Path(folder, "x.pt2"))
        torch.jit.save(torch.jit.trace(network, example), Path(folder, "x.pt"))
        found |= {"exported": Path(folder, "x.pt2").read_bytes(), "program": Path(folder, "x.pt").read_bytes()}
        for name, content, zipped in (("zip", state, True), ("legacy", state, False), ("whole", model.network, True)):
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found[name] = file.read_bytes()
    return found


def prepare(folder: Path) -> None:
    """Make the files, and import what reads them: children that are forked then have both."""
    for content in files().values():
        (folder / "net.safetensors").write_bytes(content)
        command("info", folder / "net.safetensors", cwd=folder)
    with suppress(Exception):  # a fault, of which its case tells
        shared(Random(0), folder)


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file, and its tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, tensors: bytes) -> bytes:
    """Return the bytes of a safetensors file."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def headers(draw: Random, folder: Path) -> None:
    """Describe a classifier whose own header has odd fields."""
    header, tensors = split(files()["classifier"])
    fields = json.loads(header["__metadata__"][OURS])
    for _ in range(draw.choice((1, 1, 1, 2))):
        name = draw.choice(list(fields))
        fields[name] = odd.value(draw)
        if name == "classes" and draw.random() < 0.5:
            fields[name] = [odd.text(draw) for _ in range(2)]
    text = json.dumps(fields)
    header["__metadata__"][OURS] = text[: draw.randrange(len(text))] if draw.random() < 0.05 else text
    for name in (odd.text(draw), "stochx.trained", "mean", "std"):
        if draw.random() < 0.1:
            header["__metadata__"][name] = odd.text(draw)
    _describe(draw, folder, joined(header, tensors))


def fewshot_headers(draw: Random, folder: Path) -> None:
    """Describe a few-shot network whose header has odd fields."""
    header, tensors = split(files()[f"few-shot {draw.choice(HEADS)}"])
    fields = json.loads(header["__metadata__"][OURS])
    for _ in range(draw.choice((1, 1, 1, 2))):
        fields = odd.changed(draw, fields)
        if not isinstance(fields, dict):
            break
    header["__metadata__"][OURS] = json.dumps(fields)
    _describe(draw, folder, joined(header, tensors))


def tensors(draw: Random, folder: Path) -> None:
    """Describe a network whose file lies about its tensors."""
    header, content = split(files()["classifier"])
    for _ in range(draw.choice((1, 1, 2, 5))):
        name = draw.choice([name for name in header if name != "__metadata__"])
        entry, kind = header[name], draw.randrange(7)
        if not isinstance(entry, dict):
            continue
        if kind == 0:
            entry["shape"] = odd.value(draw)
        elif kind == 1:
            entry["shape"] = [draw.choice((0, 1, 2**31, 2**32, 2**62)) for _ in range(draw.randrange(6))]
        elif kind == 2:
            entry["dtype"] = draw.choice(DTYPES)
        elif kind == 3:
            entry["data_offsets"] = odd.value(draw)
        elif kind == 4:
            header[odd.text(draw)] = header.pop(name)
        else:
            header[name if kind == 5 else "__metadata__"] = odd.value(draw)
    _describe(draw, folder, joined(header, content))


def damaged(draw: Random, folder: Path) -> None:
    """Describe a network of damaged bytes."""
    name = draw.choice(list(files()))
    suffix = {"exported": ".pt2", "program": ".pt", "zip": ".pt", "legacy": ".pt", "whole": ".pt"}
    _describe(draw, folder, odd.damaged(draw, files()[name]), suffix.get(name, ".safetensors"))


def shared(draw: Random, folder: Path) -> None:
    """Describe a folder of weights as it is shared, whose config or index is odd."""
    config: dict[str, Any] = {"architecture": "convnet:width=2", "num_classes": 2, "label_names": ["a", "b"]}
    if draw.random() < 0.5:
        config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], **TRANSFORMERS}
    if draw.random() < 0.5:
        config["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "crop_pct": 0.9}
    header, _ = split(files()["classifier"])
    index = {"weight_map": {name: "model.safetensors" for name in header if name != "__metadata__"}}
    parts = {"config.json": config, "model.safetensors.index.json": index, "preprocessor_config.json": PREPARED}
    odder = draw.choice(("config.json", *parts))
    for name, part in parts.items():
        if name != "model.safetensors.index.json" or name == odder:
            text = json.dumps(odd.changed(draw, part) if name == odder else part).encode()
            (folder / name).write_bytes(odd.damaged(draw, text) if name == odder and draw.random() < 0.1 else text)
    (folder / "model.safetensors").write_bytes(files()["classifier"])
    command("info", folder, cwd=folder)


def _describe(draw: Random, folder: Path, content: bytes, suffix: str = ".safetensors") -> None:
    (folder / f"net{suffix}").write_bytes(content)
    command("info", f"net{suffix}", *draw.choice(((), ("--json",), ("--format", "tsv"))), cwd=folder)
