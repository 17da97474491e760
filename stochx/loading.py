"""A model argument -> `Classifier`, a data argument -> `Data`."""

from __future__ import annotations

import hashlib
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from stochx.architectures import Candidate, class_count, differences, expected_shapes, from_text, recognise
from stochx.catalog import DATASETS, MODELS, NOISES
from stochx.datasets import Split
from stochx.engine.io.data import Data
from stochx.engine.io.images import SUFFIXES, Preparation
from stochx.engine.network import weights
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, measure_noise
from stochx.engine.network.header import ClassifierHeader, FewShotHeader
from stochx.engine.network.stochastic import install, stored_names
from stochx.errors import InputError, UsageError
from stochx.facts import Fact, Source, normalisation_fact
from stochx.pretrained import from_timm, from_torchvision, imagenet_classes, timm_classifier

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, and what is known of it."""

    model: Classifier
    facts: tuple[Fact, ...]


def load_model(
    text: str,
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Return a frozen classifier in eval mode from a weights file, torchvision name, `timm:NAME` or `module:factory`.

    Raises `InputError` or `UsageError` with a remedy for what cannot be loaded.
    """
    return open_model(text, arch=arch, mean=mean, std=std, device=device).model


def open_model(
    text: str,
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> Loaded:
    """`load_model`, with where each fact about the model comes from."""
    path = Path(text)
    if path.suffix in weights.SUFFIXES or path.exists():
        model, facts = _from_file(path, arch)
    elif text.startswith("timm:"):
        model, facts = from_timm(text.removeprefix("timm:"))
    elif is_factory(text):
        model, facts = _from_factory(text)
    else:
        model, facts = from_torchvision(text)
    if mean is not None or std is not None:
        model.mean = torch.tensor(mean if mean is not None else model.mean.flatten().tolist()).view(1, -1, 1, 1)
        model.std = torch.tensor(std if std is not None else model.std.flatten().tolist()).view(1, -1, 1, 1)
        if not (model.std > 0).all():
            raise UsageError("a standard deviation is not positive", "check `--std`")
        facts = [f for f in facts if f.name != "normalisation"] + [normalisation_fact(model, "given")]
    for fact in facts:
        if fact.source == "guessed":
            log.warning("`%s`: guessed %s: %s", text, fact.name, fact.value)
    model = model.to(device).eval().requires_grad_(False)
    side = model.input_size
    model.noise = measure_noise(model, torch.rand(1, 3, side, side, device=model.mean.device))
    count = sum(p.numel() for p in model.parameters())
    facts += [
        Fact(
            "input",
            f"{side} x {side}, short side resized to {model.preparation.resize}, {model.preparation.resampling}",
            "known",
        ),
        Fact("parameters", f"{count:,}", "measured"),
        Fact("noise", model.noise, "measured"),
    ]
    return Loaded(model, tuple(facts))


def _from_file(path: Path, arch: str | None) -> tuple[Classifier, list[Fact]]:
    stored = weights.load(path)
    header = stored.header
    if isinstance(header, FewShotHeader):
        raise InputError(f"`{path}` is a few-shot network", "use `stochx fsc-test`, or `stochx fsc-explain`")
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in stored.tensors.items()
        if not (header.noises and weights.NOISE in name)
    }
    if arch or header.arch:
        candidate = architecture(arch or trusted(header.arch, path), class_count(shapes))
        source: Source = "given" if arch is not None else "header"
    else:
        candidate, source = recognise(shapes, str(path)), "recognised"
    model = _fill(candidate, stored, shapes, path)
    facts = [
        Fact("file", str(path), "file"),
        Fact("format", path.suffix.lstrip(".") or "pickle", "file"),
        Fact("sha256", hashlib.sha256(path.read_bytes()).hexdigest(), "measured"),
        Fact("architecture", model.arch, source),
    ]
    facts += _describe(model, header, stored.metadata)
    if header.noises:
        install_noise(model, header.noises)
        _fill_noise(model, stored, path)
        facts.append(Fact("noise layers", header.noises, "header"))
    model.origin, model.trained = dict(header.origin), stored.trained
    facts += [Fact(key, value, "header") for key, value in model.origin.items()]
    if stored.trained is not None:
        facts.append(Fact("training images", f"{len(stored.trained):,}, by their fingerprints", "header"))
    facts += [Fact(name, value, "header") for name, value in stored.metadata.items() if name not in ("mean", "std")]
    return model, facts


def trusted(arch: str, path: Path) -> str:
    """Return the architecture that the file `path` names; raises `InputError` if it is code outside this package."""
    if is_factory(arch):
        raise InputError(f"`{path}` was made with the code `{arch}`", f"if you trust it, give `--arch {arch}`")
    return arch


def architecture(text: str, classes: int) -> Candidate:
    """Return the architecture that `--arch` or a header names: of `models/`, torchvision, timm or the user's own."""
    if text.startswith("timm:"):
        return Candidate(text, lambda: timm_classifier(text.removeprefix("timm:"), classes))
    if is_factory(text):
        return Candidate(text, lambda: _from_factory(text)[0])
    return from_text(text, classes)


def is_factory(text: str) -> bool:
    """Return true for a name of the user's own code, `package.module:factory`, not for `robust_cnn:first=2`."""
    name, colon, rest = text.partition(":")
    return bool(colon) and name not in (*MODELS, "timm") and not (name in MODELS and "=" in rest)


def _fill(candidate: Candidate, stored: weights.Weights, shapes: dict[str, tuple[int, ...]], path: Path) -> Classifier:
    expected = expected_shapes(candidate)
    compared = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    if expected != compared:
        raise InputError(f"`{path}` does not fit `{candidate.arch}`: {differences(expected, shapes)}", "check `--arch`")
    model = candidate.build()
    model.network.load_state_dict(stored.tensors, strict=False)  # names were compared; batch counters may be absent
    return model


def install_noise(model: Classifier, text: str) -> Classifier:
    """Put the noise layers that `text` describes (`adaptive:beta=0.3`) into `model`, untrained; changes it."""
    noise = NOISES.make(text)
    install(model, noise.site, noise.layers, noise)
    model.noises = text
    return model


def _fill_noise(model: Classifier, stored: weights.Weights, path: Path) -> None:
    """Load what belongs to the noise layers of a stochastic network."""
    keys = {name: key for name, key in _noise_names(model).items() if key in stored.tensors}
    tensors = {name: stored.tensors[key] for name, key in keys.items()}
    expected = {name: model.network.state_dict()[name].shape for name in _noise_names(model)}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise InputError(f"the noise layers in `{path}` are not those of `{model.noises}`", "distill the student again")
    model.network.load_state_dict(tensors, strict=False)


def _noise_names(model: Classifier) -> dict[str, str]:
    return {name: stored for name, stored in stored_names(model.network).items() if weights.NOISE in stored}


def _describe(model: Classifier, header: ClassifierHeader, metadata: Mapping[str, str]) -> list[Fact]:
    """Set classes, normalisation and input size from the best source."""
    count = len(model.classes)
    facts: list[Fact] = []
    own = model.arch.partition(":")[0] in MODELS
    named: Source = "header"
    if len(header.classes) == count:
        model.classes = header.classes
    elif count == 1000 and not own:
        model.classes, named = imagenet_classes(), "known"
    elif count == 10 and own:
        model.classes, named = CIFAR10, "guessed"
    else:
        named = "measured"
    model.guessed_classes = named in ("known", "guessed")
    facts.append(Fact("classes", f"{count}: {', '.join(model.classes[:3])}, ...", named))

    mean = header.mean or _floats(metadata.get("mean", ""))
    std = header.std or _floats(metadata.get("std", ""))
    if mean and std:
        model.mean, model.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        facts.append(normalisation_fact(model, "header"))
    else:
        facts.append(normalisation_fact(model, "known" if count == 1000 and not own else "guessed"))
    if header.crop and header.resize:
        model.preparation = Preparation(header.resize, header.crop, resampling=header.resampling)
    return facts


def _floats(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if len(values) == 3 else ()


def _from_factory(text: str) -> tuple[Classifier, list[Fact]]:
    where, _, what = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(where), what)()
    except ModuleNotFoundError as error:
        raise UsageError(f"`{text}`: {error}", "name it as package.module:factory, from where you are") from None
    except AttributeError:
        raise UsageError(f"`{where}` has no `{what}`", "name a function without arguments") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if isinstance(made, Classifier):
        return made, [Fact("architecture", text, "given"), normalisation_fact(made, "given")]
    if not isinstance(made, nn.Module):
        raise InputError(f"`{text}` returns a {type(made).__name__}, not a network", "return a torch.nn.Module")
    made.eval()
    with torch.inference_mode():
        try:
            out = made(torch.rand(1, 3, 224, 224))
        except RuntimeError as error:
            raise InputError(
                f"`{text}` cannot take an image of 224 x 224: {str(error).splitlines()[0]}",
                "return a `stochx.engine.network.classifier.Classifier`, which names its input size",
            ) from None
    labels = [str(i) for i in range(out.shape[-1])]
    labels = list(imagenet_classes()) if len(labels) == 1000 else labels
    model = Classifier(made, labels, Preparation(256, 224), IMAGENET_MEAN, IMAGENET_STD, arch=text)
    return model, [Fact("architecture", text, "given"), normalisation_fact(model, "guessed")]


def load_data(text: str, split: Split = "test") -> Data:
    """`shapes:size=32`, `cifar10:root=DIR`, a folder, a zip or an npz."""
    return DATASETS.make(_data_spec(text))(split)


def _data_spec(text: str) -> str:
    """A bare path as the data set that reads it."""
    path = Path(text)
    if text.partition(":")[0] in DATASETS or not path.exists():
        return text
    if "," in text:
        raise UsageError(f"the path `{text}` contains a comma", "rename it")
    if path.suffix.lower() in SUFFIXES:
        raise UsageError(f"`{text}` is an image, not a data set", "give it as an argument")
    if path.is_dir():
        nested = any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
        kind = "folders" if nested else "files"
    else:
        kind = path.suffix.lower()
    readers = [name for name in DATASETS if kind in cast(tuple[str, ...], DATASETS.declares(name, "reads") or ())]
    if not readers:
        raise UsageError(f"no data set can read `{text}`", "name one, e.g. `npz:path=FILE`")
    return f"{readers[0]}:{DATASETS.fields(readers[0])[0].key}={text}"
