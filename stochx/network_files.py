"""Weights files -> `Classifier`: their architecture, the tensors that belong to it, and the facts that they declare."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stochx.architectures import is_factory
from stochx.catalog import MODELS, NOISES
from stochx.engine.io.images import Preparation
from stochx.engine.network import weights
from stochx.engine.network.classifier import Classifier, borrowed, fitting
from stochx.engine.network.contents import Part
from stochx.engine.network.header import ClassifierHeader, FewShotHeader
from stochx.engine.network.stochastic import install, stored_names
from stochx.errors import InputError, quoted
from stochx.factory import read_outputs
from stochx.facts import Fact, Source, classes_fact, input_fact, normalisation_fact
from stochx.file_parts import Choice, choose_parts, named, recognised, without_classes
from stochx.folders import described
from stochx.input_files import exists
from stochx.presets import Declared, imagenet_classes
from stochx.settings.values import Size
from stochx.transformers_networks import shown

TOLD = ("mean", "std", "format")  # entries of a file's metadata that are no news
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def file_and_part(text: str) -> tuple[Path, str]:
    """Return the file that `FILE#PART` names, and the part; `#` may also belong to the file's name."""
    file, sign, part = text.rpartition("#")
    return (Path(file), part) if sign and file and not exists(text) else (Path(text), "")


def from_file(
    path: Path, chosen: Choice, arch: str | None, size: tuple[Size, Size] | None = None, features: bool = False
) -> tuple[Classifier, list[Fact]]:
    """Return the network in a file, without its given settings, and what is known of it.

    `chosen` are the weights in the file that are meant, `arch` is the architecture, where they are given, and `size`
    the input size (crop, resize) that the user's own code is run with. With `features` a network of timm may lack the
    last layer.
    """
    stored = weights.load(path)
    header = stored.header
    if isinstance(header, FewShotHeader):
        raise InputError(f"`{path}` is a few-shot network", "use `stochx fsc-test`, or `stochx fsc-explain`")
    sha256 = _hash(stored.files)
    parts = choose_parts(list(stored.parts), chosen, path)
    told = described(path, stored.files[0], parts) if not header.arch and not chosen.part else None
    if told is not None:
        header, parts = told
    if header.noises:
        parts = [replace(part, tensors=_without_noise(part.tensors)) for part in parts]
    source: Source
    own = list[Fact]()
    if features and (bare := without_classes(arch or header.arch, parts, path)) is not None:
        candidate, part, model = bare
        source = "given" if arch is not None else "header" if header.arch else "recognised"
    elif arch or header.arch:
        source = "given" if arch is not None else "header"
        stated = (header.crop, header.resize) if header.crop and header.resize else None
        candidate, part, model, own = named(arch or trusted(header.arch, path), parts, path, size or stated)
    else:
        source = "recognised"
        candidate, part, model = recognised(parts, path, stored.network)
    if part.unknown and not chosen.part:
        raise InputError(
            f"`{path}` holds {quoted(part.unknown)} beside a whole `{model.arch}`, as part of a larger network",
            f"give its code as `--arch package.module:factory`, or `{path}#{part.place}` to leave them out",
        )
    facts = [
        Fact("file", str(path), "file"),
        Fact("format", weights.format_of(stored.files[0]), "file"),
        Fact("sha256", sha256, "measured"),
        Fact("architecture", shown(model.arch), source),
        *_class_fact(stored.network),
        *_place_fact(path, part, chosen),
        *_precision_fact(part),
        *(fact for fact in own if fact.name in ("output", "bpda")),
    ]
    if len(model.classes) == 1:
        facts += read_outputs(model, str(path))
    facts += _name_classes(model, header)
    declared = None if candidate.declared is None else candidate.declared(path, sha256, len(model.classes))
    facts += _set_preprocessing(model, header, _stored_normalisation(header, stored.metadata, part), declared, own)
    if header.noises:
        install_noise(model, header.noises)
        _fill_noise(model, stored, path)
        facts.append(Fact("noise layers", header.noises, "header"))
    model.origin, model.trained = dict(header.origin), stored.trained
    facts += [Fact(key, value, "header") for key, value in model.origin.items()]
    if stored.trained is not None:
        facts.append(Fact("training images", f"{len(stored.trained):,}, by their fingerprints", "header"))
    facts += [Fact(name, value, "header") for name, value in stored.metadata.items() if name not in TOLD]
    return model, facts


def _hash(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the bytes of some files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def trusted(arch: str, path: Path) -> str:
    """Return the architecture that the file `path` names; raises `InputError` if it is code outside this package."""
    if is_factory(arch):
        raise InputError(f"`{path}` was made with the code `{arch}`", f"if you trust it, give `--arch {arch}`")
    return arch


def _place_fact(path: Path, part: Part, chosen: Choice) -> list[Fact]:
    """Say which of several weights in the file are used, and how the others are chosen."""
    place = ", ".join(filter(None, [part.place, "an average" if part.averaged else ""]))
    if not place:
        return []
    if chosen.part or chosen.ema or not part.rivals:
        return [Fact("weights", place, "given" if chosen.part or chosen.ema else "file")]
    others = ", ".join(f"`{path.name}#{rival}`" for rival in part.rivals)
    return [Fact("weights", f"{place}; the file also holds {others}", "guessed")]


def _class_fact(network: str) -> list[Fact]:
    """Say of which class a network was that the file holds whole."""
    return [Fact("stored as", f"a whole `{network}`, whose code is not run", "file")] if network else []


def _precision_fact(part: Part) -> list[Fact]:
    """Say which precision the weights have, if another than single."""
    kinds = {str(t.dtype).removeprefix("torch.") for t in part.tensors.values() if t.is_floating_point()}
    if kinds <= {"float32"}:
        return []
    return [Fact("precision", f"{', '.join(sorted(kinds))}, computed in float32", "file")]


def _without_noise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if weights.NOISE not in name}


def install_noise(model: Classifier, text: str) -> Classifier:
    """Put the noise layers that `text` describes (`adaptive:beta=0.3`) into `model`, untrained; changes it."""
    noise = NOISES.make(text)
    install(model, noise.site, noise.layers, noise)
    model.noises = text
    return model


def _fill_noise(model: Classifier, stored: weights.Weights, path: Path) -> None:
    """Load what belongs to the noise layers of a stochastic network."""
    tensors = stored.tensors
    keys = {name: key for name, key in _noise_names(model).items() if key in tensors}
    found = {name: tensors[key] for name, key in keys.items()}
    expected = {name: model.network.state_dict()[name].shape for name in _noise_names(model)}
    if {name: tensor.shape for name, tensor in found.items()} != expected:
        raise InputError(f"the noise layers in `{path}` are not those of `{model.noises}`", "distill the student again")
    model.network.load_state_dict(found, strict=False)


def _noise_names(model: Classifier) -> dict[str, str]:
    return {name: stored for name, stored in stored_names(model.network).items() if weights.NOISE in stored}


def _is_own(model: Classifier) -> bool:
    return model.arch.partition(":")[0] in MODELS


def _name_classes(model: Classifier, header: ClassifierHeader) -> list[Fact]:
    """Name the classes by the best source."""
    count = len(model.classes)
    named: Source = "header"
    if len(header.classes) == count:
        model.classes = header.classes
    elif count == 1000 and not _is_own(model):
        model.classes, named = imagenet_classes(), "known"
    elif count == 10 and _is_own(model):
        model.classes, named = CIFAR10, "guessed"
    else:
        named = "measured"
    model.guessed_classes = named in ("known", "guessed")
    return [classes_fact(model, named)]


def _stored_normalisation(
    header: ClassifierHeader, metadata: Mapping[str, str], part: Part
) -> tuple[Sequence[float], Sequence[float], Source] | None:
    """Return mean and standard deviation as the file tells them."""
    mean, std = header.mean or _floats(metadata.get("mean", "")), header.std or _floats(metadata.get("std", ""))
    if mean and std:
        return mean, std, "header"
    return None if part.normalisation is None else (*part.normalisation, "file")


def _set_preprocessing(
    model: Classifier,
    header: ClassifierHeader,
    normalisation: tuple[Sequence[float], Sequence[float], Source] | None,
    declared: Declared | None,
    own: Sequence[Fact],
) -> list[Fact]:
    """Set normalisation and preparation by the best source: the file, published weights, the user's code, a guess."""
    sources: dict[str, Source] = {fact.name: fact.source for fact in own}
    normalised = sources.get("normalisation", "guessed")
    prepared = sources.get("input", "known" if _is_own(model) else "guessed")
    if declared is not None:
        model.preparation = declared.preprocessing.preparation
        model.normalise_by(*borrowed(declared.preprocessing.mean, declared.preprocessing.std, model.channels))
        normalised, prepared = declared.normalisation, declared.preparation
    if normalisation is not None:
        mean, std, normalised = normalisation
        model.normalise_by(*fitting(mean, std, model.channels))  # older files have that of RGB for gray networks
    if header.crop and header.resize:
        model.preparation, prepared = Preparation(header.resize, header.crop, resampling=header.resampling), "header"
    return [normalisation_fact(model, normalised), input_fact(model, prepared)]


def _floats(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if len(values) == 3 else ()
