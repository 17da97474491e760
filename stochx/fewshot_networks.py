"""Few-shot networks: made from a backbone and a head, and their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stochx.architectures import names
from stochx.catalog import HEADS, MODELS
from stochx.engine.fewshot.network import FewShotNetwork
from stochx.engine.io.images import Preparation
from stochx.engine.network import weights
from stochx.engine.network.backbone import Backbone
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import stored_names
from stochx.engine.seeds import seeded
from stochx.errors import InputError, UsageError
from stochx.facts import Fact
from stochx.loading import architecture, is_factory, load_model

KIND = "few-shot"


def make_fewshot(
    backbone: str, head: str, way: int, size: int | None, seed: int, facts: Mapping[str, Any], arch: str | None = None
) -> FewShotNetwork:
    """A few-shot network on an untrained architecture, or on any stored classifier without its last layer.

    `size` is the side of the images in pixels, by default the backbone's. New weights depend on `seed` alone.
    """
    with seeded(seed, "weights"):
        untrained = arch is None and (backbone.partition(":")[0] in MODELS or backbone in names())
        model = architecture(backbone, 2).build() if untrained else load_model(backbone, arch=arch)
        if model.noises:
            raise InputError(f"`{backbone}` is stochastic", "use the network that it was made of")
        if size is not None:
            model.preparation = Preparation(size, size, resampling=model.preparation.resampling)
        return _joined(model.requires_grad_(True), head, way, facts)


def _joined(model: Classifier, head: str, way: int, facts: Mapping[str, Any]) -> FewShotNetwork:
    try:
        base = Backbone(model)
    except RuntimeError as error:
        side = model.input_size
        raise UsageError(
            f"`{model.arch}` cannot take images of {side} pixels: {str(error).splitlines()[0]}", "use another `--size`"
        ) from None
    return FewShotNetwork(base, HEADS.make(head)(base.shape, way), head, way, facts).eval()


def save_fewshot(path: Path, model: FewShotNetwork) -> None:
    """Write weights and a header that is enough to build the network again; noise in the backbone is left out."""
    view, network = model.backbone.model, model.backbone.model.network
    stored = stored_names(network)
    tensors = {f"backbone.{stored[name]}": value for name, value in network.state_dict().items()}
    tensors = {name: value for name, value in tensors.items() if weights.NOISE not in name}
    tensors |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    entry = {
        "version": weights.FORMAT,
        "kind": KIND,
        "arch": view.arch,
        "head": model.head_text,
        "way": model.way,
        "mean": view.mean.flatten().tolist(),
        "std": view.std.flatten().tolist(),
        "resize": view.preparation.resize,
        "crop": view.preparation.crop,
        "resampling": view.preparation.resampling,
        "facts": model.facts,
    }
    weights.write(path, tensors, entry)


def fewshot_facts(path: Path) -> tuple[Fact, ...] | None:
    """What a few-shot network's file tells; None for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    found = weights.load(path)
    if found.header.get("kind") != KIND:
        return None
    past = dict(found.header.get("facts", {}))
    classes = {name: f"{len(some)}: {', '.join(some[:3])}, ..." for name, some in past.pop("classes", {}).items()}
    told = {
        "kind": KIND,
        "backbone": found.header.get("arch"),
        **{key: found.header.get(key) for key in ("head", "way")},
        **past,
        **{f"classes of {name}": text for name, text in classes.items()},
        "input": f"{found.header.get('crop')} x {found.header.get('crop')}",
        "normalisation": f"mean {found.header.get('mean')}, std {found.header.get('std')}",
    }
    size = sum(value.numel() for value in found.tensors.values())
    return (
        Fact("file", str(path), "file"),
        Fact("sha256", hashlib.sha256(path.read_bytes()).hexdigest(), "measured"),
        *(Fact(name, str(value), "header") for name, value in told.items()),
        Fact("parameters", f"{size:,}", "measured"),
    )


def load_fewshot(text: str, *, arch: str | None = None, device: torch.device | str = "cpu") -> FewShotNetwork:
    """The few-shot network in a file that `fsc-train` wrote, frozen and in eval mode.

    Raises `InputError` for any other file.
    """
    path = Path(text)
    found = weights.load(path)
    header = found.header
    if header.get("kind") != KIND:
        raise InputError(f"`{path}` is no few-shot network", "make one with `stochx fsc-train`")
    try:
        named = arch or str(header["arch"])
        if arch is None and is_factory(named):  # a file must not decide which code is run
            raise InputError(f"`{path}` was made with the code `{named}`", f"if you trust it, give `--arch {named}`")
        view = architecture(named, 2).build()
        view.mean, view.std = (
            torch.tensor(header[key], dtype=torch.float32).view(1, -1, 1, 1) for key in ("mean", "std")
        )
        view.preparation = Preparation(int(header["resize"]), int(header["crop"]), resampling=header["resampling"])
        model = _joined(view, str(header["head"]), int(header["way"]), dict(header["facts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the `stochx` header of `{path}` is damaged: {error}", "train it again") from None
    parts = {"backbone": model.backbone.model.network, "head": model.head}
    for part, module in parts.items():
        tensors = {n.removeprefix(f"{part}."): t for n, t in found.tensors.items() if n.startswith(f"{part}.")}
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise InputError(f"the {part} in `{path}` does not fit `{header[PART[part]]}`: {reason}") from None
    return model.to(device).eval().requires_grad_(False)


PART = {"backbone": "arch", "head": "head"}
