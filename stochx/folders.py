"""Folders of Hugging Face: what `config.json` and `preprocessor_config.json` say of the network beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from stochx.engine.io.images import Resampling
from stochx.engine.network import shards
from stochx.engine.network.contents import Part
from stochx.engine.network.header import MAX_SIDE, ClassifierHeader
from stochx.errors import InputError
from stochx.input_files import read_text
from stochx.presets import imagenet_classes
from stochx.pretrained import timm_text
from stochx.renamed import RENAMED
from stochx.settings.values import Size
from stochx.transformers_networks import check_extent, converted

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PIL: dict[object, Resampling] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
AGREED = 0.9  # share of 1000 names that are ImageNet's; folders spell some in their own way

Json = Mapping[str, Any]


def described(given: Path, file: Path, parts: Sequence[Part]) -> tuple[ClassifierHeader, list[Part]] | None:
    """Return what a folder says of the weights in its `file`, and these under the names of their architecture.

    `given` is what the user named. None where the folder describes no network, or the file is not its usual one.
    Raises `InputError` for a description that is damaged, or of a network without classes.
    """
    usual = given.is_dir() or file.name in shards.USUAL or given.name in shards.USUAL
    config = _json(file.parent / CONFIG) if usual else {}
    if isinstance(config.get("architecture"), str):
        return _timm(config, file.parent, len(parts[0].tensors)), list(parts)
    if isinstance(config.get("model_type"), str):
        return _transformers(config, file.parent, parts)
    if "model_cfg" in config or ((file.parent / "open_clip_config.json").is_file() and usual):
        raise InputError(
            f"`{file.parent}` holds a network of images and texts (open_clip), which has no classes",
            "explain a network that was trained to classify",
        )
    return None


def _json(path: Path) -> Json:
    """Return the object in a file, empty without the file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(read_text(path, "copy or download it again"))
    except (RecursionError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"`{path}` is damaged", "copy or download it again")
    return content


def _timm(config: Json, folder: Path, tensors: int) -> ClassifierHeader:
    """Read the `config.json` of a network of timm."""
    view = config.get("pretrained_cfg")
    view, options = view if isinstance(view, dict) else {}, config.get("model_args")
    names = config.get("label_names") or view.get("label_names")
    if isinstance(names, dict):
        names = list(names.values())
    count = config.get("num_classes")
    if count == 0:
        raise InputError(f"`{folder}` holds a network of features, not classes", "take one trained to classify")
    options = options if isinstance(options, dict) else {}
    check_extent(options, tensors, str(folder))
    arch = timm_text(config["architecture"], options)
    size = view.get("input_size")
    crop = _size(size[-2:]) if isinstance(size, list) and len(size) == 3 else 0
    share = _number(view.get("crop_pct")) or 1.0
    return ClassifierHeader(
        arch=arch,
        classes=_classes(names if isinstance(names, list) and len(names) == count else []),
        mean=_numbers(view.get("mean")),
        std=_deviations(view.get("std"), folder / CONFIG),
        resize=_enlarged(crop, share, folder),
        crop=crop,
        resampling=_resampling(view.get("interpolation")),
    )


def _transformers(config: Json, folder: Path, parts: Sequence[Part]) -> tuple[ClassifierHeader, list[Part]]:
    """Read the `config.json` of a network of transformers."""
    kinds = config.get("architectures")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
    if "ForImageClassification" not in kind:
        raise InputError(
            f"`{folder}` holds a `{kind or config['model_type']}`, which has no classes of images",
            "take a network for image classification",
        )
    check_extent(config, len(parts[0].tensors), str(folder))
    named = RENAMED.get(config["model_type"])
    found = named(config, parts[0].tensors) if named else None
    arch, tensors = found or converted(config, kind, parts[0].tensors, folder)
    labels = config.get("id2label")
    names = [labels.get(str(i)) for i in range(len(labels))] if isinstance(labels, dict) else []
    preprocessor = _json(folder / PREPROCESSOR)
    crop, resize = _sizes(preprocessor, config, folder)
    plain = preprocessor.get("do_normalize") is False
    header = ClassifierHeader(
        arch=arch,
        classes=_classes(names),
        mean=(0.0, 0.0, 0.0) if plain else _numbers(preprocessor.get("image_mean")),
        std=(1.0, 1.0, 1.0) if plain else _deviations(preprocessor.get("image_std"), folder / PREPROCESSOR),
        resize=resize,
        crop=crop,
        resampling=PIL.get(preprocessor.get("resample"), "bilinear"),
    )
    return header, [replace(parts[0], tensors=tensors), *parts[1:]]


def _classes(names: Sequence[object]) -> tuple[str, ...]:
    """Return names of classes; none where they are numbers (LABEL_3), and ImageNet's as they are usually spelled."""
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) != len(names) or all(text == f"LABEL_{i}" for i, text in enumerate(texts)):
        return ()
    usual = imagenet_classes() if len(texts) == 1000 else ()
    same = sum(text.partition(",")[0].lower() == name.lower() for text, name in zip(texts, usual, strict=False))
    return usual if usual and same > AGREED * len(usual) else tuple(texts)


def _sizes(preprocessor: Json, config: Json, folder: Path) -> tuple[Size, Size]:
    """Return the sizes of the crop and of the image before it; zeros where they are not told."""
    told = preprocessor.get("size", config.get("image_size"))
    size = _size(told)
    cut = _size(preprocessor.get("crop_size")) if preprocessor.get("do_center_crop") else 0
    share = _number(preprocessor.get("crop_pct"))
    if cut and size:
        return cut, size
    if share and isinstance(told, dict) and "shortest_edge" in told and isinstance(size, int) and size < 384:
        return size, _enlarged(size, share, folder)  # ConvNeXt cuts small images, and squeezes large ones
    return size, size


def _size(value: object) -> Size:
    """Return a size in pixels: a number, (height, width), or a table of them; 0 for anything else."""
    if isinstance(value, dict):
        value = value["shortest_edge"] if "shortest_edge" in value else [value.get("height"), value.get("width")]
    listed = value if isinstance(value, list) else [value, value]
    sides = [side for side in listed if type(side) is int and 1 <= side <= MAX_SIDE]
    if len(listed) != 2 or len(sides) != 2:
        return 0
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def _enlarged(size: Size, share: float, folder: Path) -> Size:
    """Return the size of an image before a crop that keeps a share of its sides."""
    if not 0.1 <= share <= 1:
        raise InputError(f"`{folder / CONFIG}` is damaged: `crop_pct` is {share}", "copy or download it again")
    return int(size / share) if isinstance(size, int) else (int(size[0] / share), int(size[1] / share))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < MAX_SIDE else 0.0


def _numbers(value: object) -> tuple[float, ...]:
    """Return a number for each channel; none for anything else."""
    listed = isinstance(value, list) and all(isinstance(item, int | float) and abs(item) < MAX_SIDE for item in value)
    return tuple(map(float, cast(list[float], value))) if listed else ()


def _deviations(value: object, file: Path) -> tuple[float, ...]:
    """Return a standard deviation for each channel; none for anything but numbers."""
    found = _numbers(value)
    if any(number <= 0 for number in found):
        raise InputError(f"`{file}`: the standard deviations of pixels must be positive", "download the folder again")
    return found


def _resampling(value: object) -> Resampling:
    return value if value in ("bilinear", "bicubic", "lanczos") else "bilinear"
