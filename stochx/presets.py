"""Torchvision's networks by their text, and the preprocessing that their published weights declare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models as torchvision_models

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.errors import UsageError, suggest
from stochx.facts import Source

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}  # heads that only training uses
TRANSFORMED = frozenset(AUXILIARY)  # their weights expect other normalised pixels, which `transform_input` makes


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of images: resized, cropped, normalised."""

    preparation: Preparation
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Declared:
    """The preprocessing of some weights, and where it is known from."""

    preprocessing: Preprocessing
    preparation: Source
    normalisation: Source


@cache
def names() -> list[str]:
    """Torchvision's classification builders."""
    return [str(name) for name in torchvision_models.list_models(module=torchvision_models)]


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 class names in torchvision's order."""
    return tuple(torchvision_models.get_model_weights("resnet18").DEFAULT.meta["categories"])


def preprocessing_of(preset: Any) -> Preprocessing:
    """Return what an entry of torchvision's weights declares."""
    declared = preset.transforms()
    preparation = Preparation(declared.resize_size[0], declared.crop_size[0], resampling=declared.interpolation.value)
    return Preprocessing(preparation, tuple(declared.mean), tuple(declared.std))


@dataclass(frozen=True)
class TorchvisionNetwork:
    """A network of torchvision, `NAME[:KEY=VALUE,...]`, with the options that its weights reveal."""

    name: str
    head: str = ""  # place of the last layer where it is not torchvision's: fc.1
    image_size: int = 0  # side that a vision transformer's positions were made for
    transform_input: bool = True  # of googlenet and inception_v3

    @staticmethod
    def parse(text: str) -> TorchvisionNetwork | None:
        """Return the network that a text names; None for another name. Raises `UsageError` for unknown options."""
        name, _, rest = text.partition(":")
        if name not in names():
            return None
        options: dict[str, Any] = {}
        for item in filter(None, rest.split(",")):
            key, _, value = item.partition("=")
            if key not in OPTIONS or not value:
                raise UsageError(f"`{name}` has no option `{item}`", suggest(key, OPTIONS))
            try:
                options[key] = OPTIONS[key](value)
            except ValueError:
                raise UsageError(
                    f"`{value}` is not a value of `{key}`", f"use `{text.partition(':')[0]}` alone"
                ) from None
        return TorchvisionNetwork(name, **options)

    @property
    def text(self) -> str:
        """The text with which `--arch` builds the network again."""
        given = {key: getattr(self, key) for key in OPTIONS if getattr(self, key) != getattr(TorchvisionNetwork, key)}
        options = ",".join(f"{key}={str(value).lower() if value is False else value}" for key, value in given.items())
        return f"{self.name}:{options}" if options else self.name

    def __call__(self, classes: int) -> Classifier:
        """Return the network untrained, behind the preprocessing that its usual weights declare."""
        view = self.published()[0][1]
        labels = [str(i) for i in range(classes)]
        return Classifier(self.network(classes), labels, view.preparation, view.mean, view.std, arch=self.text)

    def network(self, classes: int) -> nn.Module:
        """Return the network alone, without the auxiliary heads that only training uses."""
        options: dict[str, Any] = {"num_classes": classes}
        if self.image_size:
            options["image_size"] = self.image_size
        if self.name in TRANSFORMED:
            options |= {"init_weights": False, "aux_logits": False, "transform_input": self.transform_input}
        try:
            network: nn.Module = torchvision_models.get_model(self.name, weights=None, **options)
        except (TypeError, ValueError, AssertionError) as error:
            raise UsageError(f"`{self.text}` cannot be built: {error}", f"use `{self.name}` alone") from None
        if self.head:
            _move_head(network, self.head)
        return network.eval()

    def published(self) -> list[tuple[str, Preprocessing]]:
        """Return the address of each published weights' file, and its preprocessing, for images of `image_size`."""
        found = []
        for preset in torchvision_models.get_model_weights(self.name):
            if preset.meta.get("categories"):  # else trained for features
                found.append((str(preset.url), preprocessing_of(preset)))
        sides = {view.preparation.crop for _, view in found}
        side = self.image_size or (224 if self.name.startswith("vit") else 0)
        fitting = [(url, view) for url, view in found if side in (0, view.preparation.crop)]
        if side and side not in sides:
            view = found[0][1]
            fitting = [
                (
                    "",
                    Preprocessing(Preparation(side, side, resampling=view.preparation.resampling), view.mean, view.std),
                )
            ]
        return fitting

    def declared(self, path: Path, sha256: str, classes: int) -> Declared:
        """Return the preprocessing of the weights in a file.

        Published files are known by their hash, which their names repeat. Others share it where all weights of the
        architecture agree; for other numbers of classes that is a guess.
        """
        views = self.published()
        for url, view in views:
            mark = Path(url).stem.rpartition("-")[2]
            if mark and (sha256.startswith(mark) or path.stem.endswith(f"-{mark}")):
                return Declared(view, "known", "known")
        return agreed([view for _, view in views], usual=classes == 1000)


def agreed(views: Sequence[Preprocessing], usual: bool) -> Declared:
    """Return the first of some views; what they agree on is known, for weights with the `usual` classes."""

    def source(values: set[object]) -> Source:
        return "known" if usual and len(values) == 1 else "guessed"

    return Declared(views[0], source({v.preparation for v in views}), source({(v.mean, v.std) for v in views}))


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


OPTIONS: dict[str, Callable[[str], object]] = {"head": str, "image_size": int, "transform_input": _boolean}


def head_of(network: nn.Module) -> str:
    """Return the name of a network's last layer."""
    last: str
    *_, last = (name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return last


def _move_head(network: nn.Module, place: str) -> None:
    """Move the last layer to `place`: behind dropouts (`fc` -> `fc.1`), or to the place of the whole classifier."""
    own = head_of(network)
    layer = network.get_submodule(own)
    index = place.removeprefix(f"{own}.")
    if place.startswith(f"{own}.") and index.isdecimal() and int(index) < 10:
        parent, _, last = own.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Sequential(*(nn.Dropout() for _ in range(int(index))), layer))
    elif own.startswith(f"{place}.") and place:
        parent, _, last = place.rpartition(".")
        setattr(network.get_submodule(parent), last, layer)
    else:
        raise UsageError(f"the last layer `{own}` cannot stand at `{place}`", f"use `head={own}.1`, or leave it out")
