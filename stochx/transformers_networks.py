"""Networks of the package transformers, built from their configuration alone: no code of a folder is used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, borrowed
from stochx.errors import InputError, UsageError, first_line, quoted
from stochx.installation import install_hint

PREFIX = "transformers:{"  # of the text that builds a network again; its rest is JSON
# What chooses code or files beside the network's, and what is not its architecture.
FOREIGN = ("attn_", "auto_map", "backbone", "quantization", "use_", "kernel", "experts_", "dtype", "torch_dtype")
NAMES = ("id2label", "label2id", "architectures", "transformers_version")
MOST_LAYERS = 2000
OTHERS = frozenset({"timm_wrapper", "imagegpt", "perceiver", "shieldgemma2"})  # of other inputs, or code of others

Json = Mapping[str, Any]


def converted(config: Json, kind: str, tensors: Mapping[str, Tensor], folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the text that builds a network, and its tensors under the names that it has there.

    Raises `InputError` for a configuration or tensors that make no network.
    """
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    check_extent(config, len(tensors), str(folder))
    text = json.dumps({**_plain(config), "architectures": [kind], "num_labels": count}, separators=(",", ":"))
    with _as_input_errors(str(folder)):
        made, config_of = _class_and_config(f"transformers:{text}")
        network, found = made.from_pretrained(
            None, config=config_of, state_dict=dict(tensors), output_loading_info=True
        )
        lacking = sorted(str(name) for name in (*found["missing_keys"], *found["mismatched_keys"]))
    if lacking:
        raise InputError(f"`{folder}` lacks {quoted(lacking, 3)} of its `{kind}`", "download the whole folder again")
    return f"transformers:{text}", network.state_dict()


def transformers_classifier(text: str) -> Classifier:
    """Return the untrained network that a text describes."""
    with _as_input_errors(text):
        made, config = _class_and_config(text)
        network = _with_logits(made._from_config(config))
    side = getattr(config, "image_size", 224)
    side = side if isinstance(side, int) else 224
    classes = tuple(map(str, range(config.num_labels)))
    mean, std = borrowed(IMAGENET_MEAN, IMAGENET_STD, getattr(config, "num_channels", 3))
    return Classifier(network.eval(), classes, Preparation(side, side), mean, std, arch=text)


def shown(arch: str) -> str:
    """Return an architecture's text for people: the class of a network of transformers, without its settings."""
    if not arch.startswith(PREFIX):
        return arch
    return f"{json.loads(arch.removeprefix('transformers:'))['architectures'][0]} of transformers"


def _class_and_config(text: str) -> tuple[Any, Any]:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise UsageError("this network needs the package transformers", install_hint("transformers")) from None
    told = json.loads(text.removeprefix("transformers:"))
    check_extent(told, MOST_LAYERS, text[:200])
    values = {**_plain(told), "architectures": told["architectures"], "num_labels": told["num_labels"]}
    names = importlib.import_module("transformers.models.auto.modeling_auto")
    known = names.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(values["model_type"])
    kinds, kind = known if isinstance(known, tuple) else (known,), values["architectures"][0]
    if kind not in kinds or values["model_type"] in OTHERS:
        raise InputError(
            f"transformers has no `{kind}` of the type `{values['model_type']}` that takes images alone",
            "give your own code as `--arch package.module:factory`",
        )
    return getattr(transformers, kind), transformers.CONFIG_MAPPING[values["model_type"]].from_dict(values)


def _plain(config: Json) -> Json:
    """Return the settings of an architecture alone, without those that choose code, files or names of classes."""
    return {key: value for key, value in config.items() if not key.startswith(("_", *FOREIGN)) and key not in NAMES}


def _with_logits(network: nn.Module) -> nn.Module:
    """Make a network return its logits alone; its layers keep their names."""
    kind = type(network)

    class Read(kind):  # type: ignore[misc, valid-type]
        def forward(self, pixel_values: Tensor) -> Any:
            return super().forward(pixel_values).logits

    Read.__name__ = Read.__qualname__ = kind.__name__
    network.__class__ = Read
    return network


def check_extent(config: Json, most: int, where: str) -> None:
    """Raise `InputError` for more layers than `most`, such as the tensors in a file: they would be made one by one."""
    for key, value in config.items():
        if "layer" in key or "depth" in key or "stage" in key or "block" in key:
            counts = [n for n in (value if isinstance(value, list) else [value]) if type(n) is int]
            if sum(counts) > most:
                raise InputError(f"`{where}` asks for too many layers: `{key}` is {value}", "download it again")


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    if importlib.util.find_spec("transformers") is None:  # the caller says so
        yield
        return
    bars = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextlib.contextmanager
def _as_input_errors(text: str) -> Iterator[None]:
    """Turn what transformers raises for a configuration into an `InputError`, and keep its log quiet."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with _without_progress():
            yield
    except (InputError, UsageError):
        raise
    except Exception as error:  # whatever its classes raise
        raise InputError(
            f"`{text[:200]}` is not a network that transformers can build: {first_line(error)[:200]}",
            "give your own code as `--arch package.module:factory`",
        ) from None
    finally:
        log.setLevel(level)
