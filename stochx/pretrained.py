"""Networks with weights by name: torchvision's and timm's, from their caches or the network."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torchvision import models as torchvision_models

from stochx.catalog import MODELS
from stochx.engine.io.images import RGB, Preparation
from stochx.engine.network.classifier import Classifier, borrowed, first_channels
from stochx.errors import InputError, UsageError, first_line, suggest
from stochx.facts import Fact, classes_fact, input_fact, normalisation_fact
from stochx.installation import install_hint
from stochx.presets import (
    Declared,
    Preprocessing,
    TorchvisionNetwork,
    agreed,
    imagenet_classes,
    names,
    preprocessing_of,
)

SECONDS_FOR_A_CONNECTION = 5
RESERVED = frozenset(  # arguments of timm's `create_model` that name files, or that are set here
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes"}
    | {"scriptable", "exportable", "no_jit", "features_only", "model_name"}
)


def from_torchvision(name: str) -> tuple[Classifier, list[Fact]]:
    """A torchvision network with its default weights, from torchvision's cache or the network."""
    if name in MODELS or name.partition(":")[0] in MODELS:
        raise UsageError(
            f"`{name}` is an architecture without weights here",
            f"train it with `stochx train --arch {name}`, or give a weights file",
        )
    if name not in names():
        raise UsageError(f"`{name}` is neither a file nor a known model", suggest(name, names()))
    preset = torchvision_models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(preset.url).name
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_FOR_A_CONNECTION)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries results only
            network = torchvision_models.get_model(name, weights=preset, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError):
        raise InputError(
            f"the weights of `{name}` are not here, and there is no network to fetch them",
            f"bring `{cached.name}` into `{cached.parent}`, or give a weights file in its place",
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    view, crop = preprocessing_of(preset), preset.transforms().crop_size[0]
    size = crop if name.startswith("vit") and crop != 224 else 0
    arch = TorchvisionNetwork(name, image_size=size).text
    model = Classifier(network, preset.meta["categories"], view.preparation, view.mean, view.std, arch=arch)
    return model, [
        Fact("architecture", name, "given"),
        Fact("weights", f"{preset}, {cached.name}", "known"),
        classes_fact(model, "known"),
        normalisation_fact(model, "known"),
        input_fact(model, "known"),
    ]


def timm_classifier(text: str, classes: int) -> Classifier:
    """An untrained timm network, `NAME[:KEY=VALUE,...]`, with arguments of its builder.

    `norm_eps` is the epsilon of all its layer norms. Raises `UsageError` for a name or argument that timm lacks.
    """
    timm, (name, options) = _timm(), timm_options(text)
    if not timm.is_model(name):
        raise UsageError(f"timm has no model `{name}`", "`timm.list_models()` lists all models")
    epsilon = options.pop("norm_eps", None)
    try:
        network = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    except NotImplementedError:  # on the `meta` device
        raise
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        if not options:
            raise
        raise UsageError(f"`timm:{text}` cannot be built: {first_line(error)}", f"use `timm:{name}` alone") from None
    for module in network.modules() if epsilon is not None else ():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = epsilon
    model = _behind_its_view(timm, text, network)
    if "img_size" in options:  # timm keeps the size of the published weights
        size = options["img_size"]
        model.preparation = replace(model.preparation, resize=size, crop=size)
    return model


def timm_options(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments in `NAME[:KEY=VALUE,...]`: `img_size=32,depths=2/2/6/2`."""
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, sign, value = item.partition("=")
        if not sign or not key.isidentifier() or not value or key in RESERVED:
            raise UsageError(f"`timm:{name}` has no option `{item}`", "write options as `KEY=VALUE`")
        values = [_timm_value(part) for part in value.split("/")]
        options[key] = tuple(values) if len(values) > 1 else values[0]
    return name, options


def timm_text(name: str, options: Mapping[str, object]) -> str:
    """Return the text of a timm network with the arguments in its folder; raises `InputError` for others than plain."""
    items = []
    for key, value in options.items():
        parts = value if isinstance(value, list) else [value]
        texts = [str(part).lower() if isinstance(part, bool) else str(part) for part in parts]
        if key in RESERVED or value is None:
            continue
        if not texts or not all(type(part) in (int, float, bool, str) for part in parts):
            raise InputError(
                f"`{name}` has an argument `{key}` that is neither a number nor a word", "give its code as `--arch`"
            )
        items.append(f"{key}={'/'.join(dict.fromkeys(texts) if key == 'img_size' else texts)}")
    return ":".join(filter(None, [f"timm:{name}", ",".join(items)]))


def _timm_value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _behind_its_view(timm: Any, name: str, network: Any) -> Classifier:
    """A timm network with its normalisation and preparation."""
    view, count = _view(timm.data.resolve_model_data_config(network)), network.num_classes or network.num_features
    classes = imagenet_classes() if count == 1000 else [str(i) for i in range(count)]
    mean, std = borrowed(view.mean, view.std, first_channels(network) or RGB)
    return Classifier(network, classes, view.preparation, mean, std, arch=f"timm:{name}")


def _view(config: Any) -> Preprocessing:
    """The preprocessing that timm's configuration of data declares."""
    height, width = (int(side) for side in config["input_size"][-2:])
    resize = round(height / config["crop_pct"]), round(width / config["crop_pct"])
    preparation = Preparation(resize, (height, width), resampling=config["interpolation"])
    return Preprocessing(preparation, tuple(config["mean"]), tuple(config["std"]))


def timm_declared(text: str, classes: int) -> Declared:
    """The preprocessing that timm's weights of an architecture declare."""
    timm, (name, options) = _timm(), timm_options(text)
    if options:
        model = timm_classifier(text, classes)
        mean, std = (tuple(values.flatten().tolist()) for values in (model.mean, model.std))
        return agreed([Preprocessing(model.preparation, mean, std)], usual=False)
    tags = [name] if "." in name else timm.list_models(f"{name}.*", pretrained=True)
    configs = [timm.get_pretrained_cfg(tag) for tag in (name, *tags)]
    views = [
        _view(timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))
        for config in configs
        if config is not None and config.num_classes == classes
    ]
    if views:
        return agreed(views, usual=True)
    network = timm.create_model(name, pretrained=False, num_classes=classes)
    return agreed([_view(timm.data.resolve_model_data_config(network))], usual=False)


def timm_name(stem: str) -> str | None:
    """The longest name of a timm network with which a file's name begins; None without one, or without timm."""
    if importlib.util.find_spec("timm") is None:
        return None
    known = {*_timm().list_models()}
    parts = re.split(r"(?=[-_.])", stem)
    return next((name for i in range(len(parts), 0, -1) if (name := "".join(parts[:i])) in known), None)


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise UsageError("`timm:` models need the package timm", install_hint("timm")) from None


def from_timm(name: str, features: bool = False) -> tuple[Classifier, list[Fact]]:
    """A timm network with its weights, from the hub's cache or the network; with `features` even without classes."""
    timm = _timm()
    if not timm.is_model(name) or not timm.is_model_pretrained(name):
        lack = "weights for" if timm.is_model(name) else "model"
        tagged = timm.list_models(pretrained=True)
        close = difflib.get_close_matches(name, {*tagged, *(t.partition(".")[0] for t in tagged)}, n=1)
        hint = f"did you mean `timm:{close[0]}`?" if close else "`timm.list_models(pretrained=True)` lists all models"
        raise UsageError(f"timm has no {lack} `{name}`", hint)
    network = _create(timm, name)
    if network.num_classes == 0 and not features:
        raise InputError(f"`timm:{name}` returns features, not classes", "choose a network trained to classify")
    model = _behind_its_view(timm, name, network)
    known = len(model.classes) == 1000
    return model, [
        Fact("architecture", model.arch, "given"),
        classes_fact(model, "known" if known else "measured"),
        normalisation_fact(model, "known"),
        input_fact(model, "known"),
    ]


def _create(timm: Any, name: str) -> Any:
    """Return the network with its weights, from the hub's cache if they are there, else from the hub.

    Asked for what it does not have, the hub's client tries again and again for most of a minute.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    offline = constants.HF_HUB_OFFLINE
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_FOR_A_CONNECTION)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries results only
            constants.HF_HUB_OFFLINE = True
            with contextlib.suppress(Exception):  # the hub client's errors have no common base
                return timm.create_model(name, pretrained=True)
            constants.HF_HUB_OFFLINE = offline
            if offline or not answers(constants.ENDPOINT):
                raise InputError(
                    f"the weights of `timm:{name}` are not here, and there is no network to fetch them",
                    f"bring them into `{constants.HF_HUB_CACHE}`, or give a weights file in its place",
                )
            return timm.create_model(name, pretrained=True)
    except InputError:
        raise
    except Exception as error:
        reason = first_line(error)[:120].strip().rstrip(".")
        raise InputError(
            f"the weights of `timm:{name}` cannot be fetched: {reason}", "give a weights file in its place"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(patience)


def answers(url: str) -> bool:
    """Return true if the server answers, through a proxy where one is set."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS_FOR_A_CONNECTION).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
