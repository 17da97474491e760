"""Few-shot networks: made from a backbone and a head, and their files."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from stochx.architectures import architecture
from stochx.catalog import HEADS, MODELS
from stochx.engine.fewshot.network import FewShotNetwork
from stochx.engine.io.images import Preparation, height_and_width, shape_text
from stochx.engine.modes import plain_modes
from stochx.engine.network import weights
from stochx.engine.network.backbone import Backbone
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.header import Features, FewShotHeader
from stochx.engine.network.stochastic import stored_names
from stochx.engine.seeds import seeded
from stochx.errors import InputError, UsageError
from stochx.facts import Fact
from stochx.loading import Given, load_model, open_model
from stochx.network_files import trusted
from stochx.presets import names


@plain_modes()
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


@plain_modes()
def make_frozen(
    backbone: str, head: str, way: int, size: int | None, given: Given, device: torch.device | str = "cpu"
) -> FewShotNetwork:
    """A network of any kind without its classifier, and a head without weights to train: nothing is trained.

    `size` is the side of the images in pixels, by default the network's own.
    """
    model = open_model(backbone, given, device, features=True).model
    if model.noises:
        raise InputError(f"`{backbone}` is stochastic", "use the network that it was made of")
    if size is not None:
        model.preparation = Preparation(size, size, resampling=model.preparation.resampling)
    return _joined(model, head, way, {}).to(device).eval().requires_grad_(False)


def as_frozen(model: FewShotNetwork) -> FewShotNetwork:
    """Return a copy of the backbone with a head that compares class means: what a training has to beat."""
    base, head = copy.deepcopy(model.backbone), "prototypical"
    made = FewShotNetwork(base, HEADS.make(head)(base.shape, model.way), head, model.way, {})
    return made.eval().requires_grad_(False)


def _set_grid(model: Classifier) -> None:
    """Give a network with a fixed grid of positions, as timm has them, the grid of its images.

    Raises `UsageError` for sides that are no multiples of its patches.
    """
    regrid: Any = getattr(model.network, "set_input_size", None)
    patches: Any = getattr(model.network, "patch_embed", None)
    _, height, width = model.input_shape
    if regrid is None or getattr(patches, "img_size", None) in (None, (height, width)):
        return
    patch = patches.patch_size[0]
    if height % patch or width % patch:
        low = max(patch, height // patch * patch)
        raise UsageError(
            f"`{model.arch}` takes images whose sides are multiples of {patch} pixels",
            f"use `--size {low}` or `--size {low + patch}`",
        )
    regrid((height, width))


def _joined(
    model: Classifier, head: str, way: int, facts: Mapping[str, Any], features: Features | Literal["either"] = "either"
) -> FewShotNetwork:
    """Join a head to the features that it compares: maps, or the backbone's own vectors where it takes those."""
    made = HEADS.make(head)
    takes_vectors = getattr(made, "embedding", "") == "pooled"
    try:
        _set_grid(model)
        base = Backbone(model, features if takes_vectors else "maps")
    except (RuntimeError, AssertionError, ValueError) as error:
        shape, reason = shape_text(model.input_shape), str(error).splitlines()[0]
        raise UsageError(
            f"`{model.arch}` cannot take images of {shape}: {reason}",
            "use another `--size`",
        ) from None
    return FewShotNetwork(base, made(base.shape, way), head, way, facts).eval()


def save_fewshot(path: Path, model: FewShotNetwork) -> None:
    """Write weights and a header that is enough to build the network again; noise in the backbone is left out."""
    view, network = model.backbone.model, model.backbone.model.network
    stored = stored_names(network)
    tensors = {f"backbone.{stored[name]}": value for name, value in network.state_dict().items()}
    tensors = {name: value for name, value in tensors.items() if weights.NOISE not in name}
    tensors |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    header = FewShotHeader(
        arch=view.arch,
        head=model.head_text,
        way=model.way,
        mean=tuple(view.mean.flatten().tolist()),
        std=tuple(view.std.flatten().tolist()),
        resize=view.preparation.resize,
        crop=view.preparation.crop,
        resampling=view.preparation.resampling,
        facts=model.facts,
        features=model.backbone.features,
    )
    weights.write(path, tensors, header)


def fewshot_facts(path: Path) -> tuple[Fact, ...] | None:
    """Facts in the header of a few-shot network's file; None for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    stored = weights.load(path)
    header = stored.header
    if not isinstance(header, FewShotHeader):
        return None
    training = dict(header.facts)
    classes = {
        f"classes of {data}": f"{len(names)}: {', '.join(names[:3])}, ..."
        for data, names in training.pop("classes", {}).items()
    }
    lines = {
        "kind": header.KIND,
        "backbone": header.arch,
        "head": header.head,
        "way": header.way,
        **training,
        **classes,
        "input": shape_text((len(header.mean), *height_and_width(header.crop))),
        "normalisation": f"mean {list(header.mean)}, std {list(header.std)}",
    }
    size = sum(tensor.numel() for tensor in stored.tensors.values())
    return (
        Fact("file", str(path), "file"),
        Fact("sha256", hashlib.sha256(path.read_bytes()).hexdigest(), "measured"),
        *(Fact(name, str(value), "header") for name, value in lines.items()),
        Fact("parameters", f"{size:,}", "measured"),
    )


@plain_modes()
def load_fewshot(text: str, *, arch: str | None = None, device: torch.device | str = "cpu") -> FewShotNetwork:
    """Return the few-shot network in a file that `fsc-train` wrote, frozen and in eval mode.

    Raises `InputError` for any other file.
    """
    path = Path(text)
    stored = weights.load(path)
    header = stored.header
    if not isinstance(header, FewShotHeader):
        raise InputError(f"`{path}` is not a few-shot network", "train one with `stochx fsc-train`")
    view = architecture(arch or trusted(header.arch, path), 2).build()
    view.normalise_by(header.mean, header.std)
    view.preparation = Preparation(header.resize, header.crop, resampling=header.resampling)
    model = _joined(view, header.head, header.way, header.facts, header.features)
    for part, module, spec in (
        ("backbone", model.backbone.model.network, header.arch),
        ("head", model.head, header.head),
    ):
        prefix = f"{part}."
        tensors = {
            name.removeprefix(prefix): tensor for name, tensor in stored.tensors.items() if name.startswith(prefix)
        }
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise InputError(f"the {part} in `{path}` does not fit `{spec}`: {reason}") from None
    return model.to(device).eval().requires_grad_(False)
